"""Identities: what model and tokenizer vectors belong to, computed from a checkpoint's files without loading it."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from memvec.arguments import checked
from memvec.checkpoints import traits
from memvec.checkpoints.files import load_tokenizer
from memvec.checkpoints.identify import fingerprint_folder, identify_folder
from memvec.checkpoints.resolve import DEFAULT_MODEL, Notify, lasting_name, resolve, silent
from memvec.errors import FingerprintError, MemvecError
from memvec.identity.verdict import OUTPUTS, ROUNDING, Comparison, Verdict, compare, measured
from memvec.types import Fingerprint, Identity

NEAR = 0.05  # nats by which float32 results of two machines may differ


@checked()
def fingerprint(model: str = DEFAULT_MODEL, notify: Notify = silent) -> Fingerprint:
    """The fingerprint of a model by name, folder, GGUF file or hub id. NotFoundError when it cannot be had."""
    return identify(model, notify).fingerprint


def identify(model: str = DEFAULT_MODEL, notify: Notify = silent) -> Identity:
    """The identity of a model by name, folder, GGUF file or hub id. NotFoundError when it cannot be had."""
    folder = resolve(model, notify)
    notify("fingerprinting the model")
    return identify_folder(folder, source=lasting_name(model))


def compared(stored: Identity, found: Identity, folder: Path | None = None) -> Comparison:
    """Two identities, compared; with the `folder` of the found one, with what its tokenizer adds to that."""
    made = compare(stored, found)
    if folder is None or all(field != "vocabulary" for field, _, _ in made.differences):
        return made
    return compare(stored, found, load_tokenizer(folder).get_vocab())


def check_identity(expected: Identity, found: Identity, folder: Path | None = None) -> None:
    """FingerprintError with the verdict and what differs unless both stand for the same model and tokenizer."""
    made = compared(expected, found, folder)
    if made.verdict is not Verdict.IDENTICAL:
        raise made.error()


def check_fingerprint(expected: Fingerprint, found: Fingerprint) -> None:
    """FingerprintError with every differing field unless both stand for the same model and tokenizer."""
    check_identity(Identity(expected), Identity(found))


def check_model(model: Any, tokenizer: Any, expected: Fingerprint | Identity, *, allow_adapters: bool = False) -> None:
    """Refuse a loaded model and tokenizer that are not those of `expected`, as they are in memory now.

    Weights are looked at once for each model object, and again once they were changed. Special tokens that were added to the
    tokenizer do not count, since they split no text otherwise.

    Args:
        model: A transformers model, also inside PEFT's, torch.compile's or DataParallel's wrappers.
        tokenizer: Its tokenizer.
        expected: What vectors belong to. An identity with a store's probe tells more models than a fingerprint.
        allow_adapters: Take a model with active adapters whose weights below them are right.

    Raises:
        FingerprintError: An adapter is active, or something differs, or it cannot be told whether the weights do.
    """
    from memvec.identity.vocabularies import traits_of
    from memvec.lm.adapters import active_adapters, unwrapped

    known = expected if isinstance(expected, Identity) else Identity(expected)
    adapters = active_adapters(model)
    if adapters and not allow_adapters:
        raise FingerprintError(
            [("adapters", "none", ", ".join(adapters))],
            hints=["vectors belong to the model without them. Switch them off, or pass allow_adapters=True"],
        )
    inner = unwrapped(model)
    vocabulary, probe = traits_of(tokenizer, known)
    found = replace(
        known.fingerprint,
        architecture=_architecture(inner, known.fingerprint),
        vocabulary=vocabulary,
        probe=probe,
        width=int(inner.get_input_embeddings().weight.shape[1]),
    )
    if found != known.fingerprint:
        check_identity(known, Identity(found))
    if not any("merged" in adapter for adapter in adapters):  # whose weights are other ones, which is allowed then
        check_weights(inner, known)


def check_weights(model: Any, known: Identity) -> None:
    """FingerprintError unless the weights of a model in memory are found to be those of `known`, now or before."""
    from memvec.identity import weights

    if weights.looked_at(model, known.fingerprint):
        return
    with weights.looking():
        if not weights.looked_at(model, known.fingerprint):
            mark = weights.Mark(model)
            _look_at_weights(model, known)
            weights.remember(model, known.fingerprint, mark)


def _look_at_weights(model: Any, known: Identity) -> None:
    from memvec.identity import weights

    expected, folder, of_files = known.fingerprint, _folder_of(model), None
    if folder is not None:
        with contextlib.suppress(MemvecError):  # a folder that is no checkpoint any more says nothing
            of_files = fingerprint_folder(folder)
    same_files = of_files is not None and (of_files.weights, of_files.embedding) == (
        expected.weights,
        expected.embedding,
    )
    if not same_files or folder is None:
        unproven = weights.unproven(model, expected, known.probe.get("dtypes") or {})
        if not unproven:
            return
        if of_files is not None:
            check_fingerprint(expected, replace(expected, weights=of_files.weights, embedding=of_files.embedding))
        _ask(model, known, unproven, "its files are not there to compare with", ROUNDING)
        return
    made = weights.with_files(model, folder)
    if made.differing:
        raise FingerprintError(
            [("weights", expected.weights[:16], "changed in memory")],
            tensors=made.differing,
            hints=["adapters merged into the weights change them too; load the model anew"],
        )
    if not made.same and not (made.renamed and not made.unlike and not _asks(known)):
        others = [*made.unlike, *made.more, *made.fewer][:3]
        _ask(
            model,
            known,
            ("weights",),
            f"{', '.join(others)} are not as in its files",
            ROUNDING if made.unlike else NEAR,
        )


def _ask(model: Any, known: Identity, unproven: Sequence[str], why: str, limit: float) -> None:
    """FingerprintError unless the model answers the store's probe as the store's model did, within `limit` nats."""
    distance = None
    if _asks(known):
        from memvec.identity.probe import said_by

        said = said_by(model, known.probe, int(known.fingerprint.architecture.get("vocab_size", 0)))
        distance = measured(known.probe, said or {})
        if distance is not None and distance.agreeing == distance.positions and distance.furthest <= limit:
            return
    said_so = (
        "there is no probe to ask it by"
        if distance is None
        else f"it says otherwise than the store's model: {distance}"
    )
    raise FingerprintError(
        [(field, getattr(known.fingerprint, field)[:16], "not known") for field in unproven],
        hints=[f"{why}, and {said_so}. Load it from the folder that packed, or pass check=False"],
    )


def _asks(known: Identity) -> bool:
    """Is there a probe to ask a model by?"""
    return all(part in known.probe for part in OUTPUTS)


def _folder_of(model: Any) -> Path | None:
    """Where a model says it was loaded from, if that is here; an empty name is no folder."""
    name = str(getattr(model, "name_or_path", "") or "")
    try:
        return resolve(name, download=False) if name else None
    except (MemvecError, RuntimeError, ValueError):
        return None


def _architecture(model: Any, expected: Fingerprint) -> dict[str, Any]:
    """A model's architecture. A vocabulary that was enlarged for added tokens counts as the expected one."""
    values, tokens = traits.architecture(model.config), expected.architecture.get("vocab_size")
    rows = int(model.get_input_embeddings().weight.shape[0])
    if isinstance(tokens, int) and tokens < values.get("vocab_size", 0) <= rows:
        values["vocab_size"] = tokens
    return values
