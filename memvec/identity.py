"""Identities: what model and tokenizer vectors belong to, computed from a checkpoint's files without loading it."""

from __future__ import annotations

import importlib.metadata
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from memvec import __version__, checkpoint, identity_cache, traits
from memvec.checkpoint import load_tokenizer
from memvec.errors import NotFoundError, UnsupportedModelError
from memvec.model_cache import DEFAULT_MODEL, Notify, lasting_name, readable, resolve, silent
from memvec.types import Fingerprint, Identity
from memvec.verdicts import Comparison, Verdict, compare

TABLE_TENSORS = 8192  # a table of more would be a large part of every generation of the manifest
TABLE_DIGITS = 16


def fingerprint(model: str = DEFAULT_MODEL, notify: Notify = silent) -> Fingerprint:
    """The fingerprint of a model by name, folder, GGUF file or hub id. NotFoundError when it cannot be had."""
    return identify(model, notify).fingerprint


def identify(model: str = DEFAULT_MODEL, notify: Notify = silent) -> Identity:
    """The identity of a model by name, folder, GGUF file or hub id. NotFoundError when it cannot be had."""
    folder = resolve(model, notify)
    notify("fingerprinting the model")
    return identify_folder(folder, source=lasting_name(model))


def fingerprint_folder(folder: Path, source: str = "") -> Fingerprint:
    """The fingerprint of the checkpoint in `folder`: config.json, *.safetensors and tokenizer files."""
    return identify_folder(folder, source).fingerprint


def identify_folder(folder: Path, source: str = "") -> Identity:
    """The identity of the checkpoint in `folder`, read only if a file has changed. NotFoundError, UnsupportedModelError."""
    with readable(folder):
        value = identity_cache.kept(folder, _version(), lambda: asdict(_read(folder)))
    return Identity(replace(Fingerprint(**value["fingerprint"]), source=source), value["tensors"], value["probe"])


def _version() -> str:
    """What changes when the same files could give another identity."""
    chosen = (
        traits.ARCHITECTURE_FIELDS,
        traits.PROBES,
        checkpoint.EMBEDDING_NAMES,
        checkpoint.BUFFER_NAMES,
        checkpoint.RULES,
    )
    libraries = [importlib.metadata.version(name) for name in ("transformers", "tokenizers")]
    return traits.sha256([__version__, TABLE_TENSORS, TABLE_DIGITS, chosen, libraries])[:16]


def _read(folder: Path) -> Identity:
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    tokenizer = load_tokenizer(folder)
    tensors = checkpoint.tensor_digests(folder)
    values = traits.architecture(config)
    embedding = checkpoint.embedding_name(list(tensors))
    width = values.get("word_embed_proj_dim") or values.get("hidden_size")
    if embedding is None or width is None:
        raise UnsupportedModelError(f"{str(folder)!r} ({config.model_type}) shows no token embedding or no width")
    embedding_digest = tensors[embedding].sha256
    if values.get("tie_word_embeddings"):
        tensors.pop("lm_head.weight", None)  # some writers keep the tied copy, some drop it
    few = len(tensors) <= TABLE_TENSORS
    return Identity(
        Fingerprint(
            weights=traits.sha256({name: tensor.sha256 for name, tensor in tensors.items()}),
            embedding=embedding_digest,
            architecture=values,
            vocabulary=traits.vocabulary(tokenizer),
            probe=traits.probe(tokenizer),
            width=int(width),
        ),
        tensors={name: tensor.sha256[:TABLE_DIGITS] for name, tensor in tensors.items()} if few else {},
        probe={
            "dtypes": dict(Counter(tensor.dtype for tensor in tensors.values())),
            "tokens": len(tokenizer.get_vocab()),
            "pieces": traits.pieces(tokenizer),
        },
    )


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


def check_model(model: Any, tokenizer: Any, expected: Fingerprint) -> None:
    """FingerprintError unless a loaded model and tokenizer are those of `expected`, as far as it can be told.

    Architecture, vocabulary and probes come from the objects, the weights from the files the model was loaded from.
    Where these are not to be found its input embedding is compared, which must be in the checkpoint's dtype.
    """
    try:
        of_files = fingerprint_folder(resolve(str(model.name_or_path), download=False))
        weights, embedding = of_files.weights, of_files.embedding
    except NotFoundError:
        weights, embedding = expected.weights, _embedding_digest(model)
    found = Fingerprint(
        weights=weights,
        embedding=embedding,
        architecture=traits.architecture(model.config),
        vocabulary=traits.vocabulary(tokenizer),
        probe=traits.probe(tokenizer),
        width=int(model.get_input_embeddings().weight.shape[1]),
    )
    check_fingerprint(expected, found)


def _embedding_digest(model: Any) -> str:
    """The digest of a loaded model's input embedding, as its checkpoint would have it."""
    from safetensors.torch import save

    table = model.get_input_embeddings().weight.detach()
    name = next((n for n, tensor in model.state_dict().items() if tensor.data_ptr() == table.data_ptr()), "")
    found = checkpoint.digests(save({name: table.cpu().contiguous()})).get(name)
    return found.sha256 if found else ""
