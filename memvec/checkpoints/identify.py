"""Identify a checkpoint by its files, without loading the model."""

from __future__ import annotations

import importlib.metadata
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path

from memvec.causes import reading_checkpoint
from memvec.checkpoints import cache, files, traits
from memvec.checkpoints.files import load_config, load_tokenizer
from memvec.errors import UnsupportedModelError
from memvec.types import Fingerprint, Identity
from memvec.version import __version__

TABLE_TENSORS = 8192  # most tensors in the table; more would make every generation of the manifest large
TABLE_DIGITS = 16  # hex digits of each tensor's digest in the table


def fingerprint_folder(folder: Path, source: str = "") -> Fingerprint:
    """The fingerprint of the checkpoint in `folder`: config.json, *.safetensors and tokenizer files."""
    return identify_folder(folder, source).fingerprint


def identify_folder(folder: Path, source: str = "") -> Identity:
    """The identity of the checkpoint in `folder`. The files are read only after a change. NotFoundError, UnsupportedModelError."""
    with reading_checkpoint(folder):
        value = cache.cached(folder, _version(), lambda: asdict(_read(folder)))
    return Identity(replace(Fingerprint(**value["fingerprint"]), source=source), value["tensors"], value["probe"])


def _version() -> str:
    """A value that changes when the same files could give another identity."""
    chosen = (
        traits.ARCHITECTURE_FIELDS,
        traits.PROBES,
        files.EMBEDDING_NAMES,
        files.BUFFER_NAMES,
        files.RULES,
    )
    libraries = [importlib.metadata.version(name) for name in ("transformers", "tokenizers")]
    return traits.sha256([__version__, TABLE_TENSORS, TABLE_DIGITS, chosen, libraries])[:16]


def _read(folder: Path) -> Identity:
    config = load_config(folder)
    tokenizer = load_tokenizer(folder)
    tensors = files.tensor_digests(folder)
    values = traits.architecture(config)
    embedding = files.embedding_name(list(tensors))
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
