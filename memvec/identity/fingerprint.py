"""Compare models with a fingerprint: a checkpoint by its files, and a loaded model by its parameters in memory.

`fingerprint` and `identify` read the files of a checkpoint. `check_identity` compares two identities. `check_model` compares
a model that was loaded by other code; `weights` and `vocabularies` do its parts. `match` finds and loads a store's model.
"""

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
    """Read the fingerprint of a model from its files. The model is not loaded.

    Args:
        model: A known name, a folder, a GGUF file or a hub id.
        notify: Called with the name of each stage that takes long.

    Returns:
        The fingerprint. Two models with the same one give the same answers.

    Raises:
        NotFoundError: There is no such model.
        UnsupportedModelError: memvec cannot use the model.
        ReadError: The system refuses to read a file.

    Example:
        >>> memvec.fingerprint(model).id == memvec.open(store).identity.fingerprint.id
        True
    """
    return identify(model, notify).fingerprint


def identify(model: str = DEFAULT_MODEL, notify: Notify = silent) -> Identity:
    """Read the identity of a model by name, folder, GGUF file or hub id. NotFoundError, UnsupportedModelError."""
    folder = resolve(model, notify)
    notify("fingerprinting the model")
    return identify_folder(folder, source=lasting_name(model))


def compared(stored: Identity, found: Identity, folder: Path | None = None) -> Comparison:
    """Compare two identities. With the `folder` of `found`, hints say how its vocabulary differs."""
    made = compare(stored, found)
    if folder is None or all(field != "vocabulary" for field, _, _ in made.differences):
        return made
    return compare(stored, found, load_tokenizer(folder).get_vocab())


def check_identity(expected: Identity, found: Identity, folder: Path | None = None) -> None:
    """Raise FingerprintError, with the verdict and the differences, unless both are the same model and tokenizer."""
    made = compared(expected, found, folder)
    if made.verdict is not Verdict.IDENTICAL:
        raise made.error()


def check_fingerprint(expected: Fingerprint, found: Fingerprint) -> None:
    """Raise FingerprintError, with every differing field, unless both are the same model and tokenizer."""
    check_identity(Identity(expected), Identity(found))


def check_model(model: Any, tokenizer: Any, expected: Fingerprint | Identity, *, allow_adapters: bool = False) -> None:
    """Compare a loaded model and tokenizer, as they are in memory now, with the ones that vectors belong to.

    The weights are compared once for each model object, and again after a change. Special tokens that were added to the
    tokenizer are ignored, because they do not change how it splits text.

    Args:
        model: A transformers model, also inside PEFT's, torch.compile's or DataParallel's wrappers.
        tokenizer: Its tokenizer.
        expected: The model the vectors belong to. An identity with a numeric probe recognises more models.
        allow_adapters: Take a model with active adapters whose weights below them are right.

    Raises:
        FingerprintError: An adapter is active, something differs, or the weights cannot be compared.
    """
    from memvec.identity.vocabularies import traits_of
    from memvec.lm.adapters import active_adapters, unwrapped

    known = Identity.of(expected)
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
    if not any("merged" in adapter for adapter in adapters):  # a merged adapter changed the weights, and was allowed
        check_weights(inner, known)


def check_weights(model: Any, known: Identity) -> None:
    """Raise FingerprintError unless the weights of a model in memory are those of `known`, now or when last compared."""
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
        with contextlib.suppress(MemvecError):  # the folder may no longer hold a checkpoint
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
        _ask(model, known, unproven, "its files are not here to compare it with", ROUNDING)
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
            f"{', '.join(others)} differ from its files",
            ROUNDING if made.unlike else NEAR,
        )


def _ask(model: Any, known: Identity, unproven: Sequence[str], why: str, limit: float) -> None:
    """Raise FingerprintError unless the model answers the numeric probe as the store's model did, within `limit` nats."""
    distance = None
    if _asks(known):
        from memvec.identity.probe import said_by

        said = said_by(model, known.probe, int(known.fingerprint.architecture.get("vocab_size", 0)))
        distance = measured(known.probe, said or {})
        if distance is not None and distance.agreeing == distance.positions and distance.furthest <= limit:
            return
    said_so = (
        "the store holds no probe to ask it"
        if distance is None
        else f"it answers the probe otherwise than the store's model: {distance}"
    )
    raise FingerprintError(
        [(field, getattr(known.fingerprint, field)[:16], "not known") for field in unproven],
        hints=[f"{why}, and {said_so}. Load it from the folder the store was packed with, or pass check=False"],
    )


def _asks(known: Identity) -> bool:
    """Is there a numeric probe to ask a model with?"""
    return all(part in known.probe for part in OUTPUTS)


def _folder_of(model: Any) -> Path | None:
    """The folder a model says it was loaded from, if it is here."""
    name = str(getattr(model, "name_or_path", "") or "")
    try:
        return resolve(name, download=False) if name else None
    except (MemvecError, RuntimeError, ValueError):
        return None


def _architecture(model: Any, expected: Fingerprint) -> dict[str, Any]:
    """A model's architecture. A vocabulary that was enlarged for added tokens is given as the expected one."""
    values, tokens = traits.architecture(model.config), expected.architecture.get("vocab_size")
    rows = int(model.get_input_embeddings().weight.shape[0])
    if isinstance(tokens, int) and tokens < values.get("vocab_size", 0) <= rows:
        values["vocab_size"] = tokens
    return values
