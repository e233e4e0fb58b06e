"""A checkpoint's files: digests of its tensors, its embedding table and its tokenizer, without loading the model."""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import struct
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memvec.causes import readable
from memvec.errors import NotFoundError, UnsupportedModelError
from memvec.formats import canonical
from memvec.guard import loading_alone

EMBEDDING_NAMES = (
    "embed_tokens.weight",
    "wte.weight",
    "embed_in.weight",
    "embeddings.weight",
    "word_embeddings.weight",
)
BUFFER_NAMES = (".inv_freq", ".masked_bias", ".attn.bias", ".attention.bias")
THREADS = min(8, os.cpu_count() or 1)  # hashlib lets others run while it hashes


@dataclass(frozen=True, slots=True)
class TensorDigest:
    """One tensor of a checkpoint: its sha256 over name, dtype, shape and bytes, and its dtype as safetensors spells it."""

    sha256: str
    dtype: str


def tensor_digests(folder: Path) -> dict[str, TensorDigest]:
    """Every tensor in the folder's safetensors files by name, in order, buffers left out. NotFoundError."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise NotFoundError(f"no *.safetensors in {str(folder)!r}. Save the model with save_pretrained() first.")
    found: dict[str, TensorDigest] = {}
    for file in files:
        with file.open("rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as data:
            found |= digests(data)
    return dict(sorted(found.items()))


def digests(data: bytes | mmap.mmap) -> dict[str, TensorDigest]:
    """Every tensor in the bytes of a safetensors file by name, buffers left out."""
    with memoryview(data) as view, ThreadPoolExecutor(THREADS) as threads:
        made = [
            (name, threads.submit(_digest, view[begin:end], [name, dtype, shape]), dtype)
            for name, dtype, shape, begin, end in _entries(data)
        ]
        return {name: TensorDigest(digest.result(), dtype) for name, digest, dtype in made}


def embedding_name(names: Iterable[str]) -> str | None:
    """The name among `names` that an input-embedding tensor has; None where there is none."""
    there = list(names)
    return next((name for suffix in EMBEDDING_NAMES for name in there if name.endswith(suffix)), None)


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of the checkpoint in `folder`. NotFoundError when it cannot be read."""
    with loading_alone(), readable(folder):
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(folder)


def load_config(folder: Path) -> Any:
    """The configuration of the checkpoint in `folder`. NotFoundError when it cannot be read."""
    with loading_alone(), readable(folder):
        from transformers import AutoConfig

        return AutoConfig.from_pretrained(folder)


def embedding_table(folder: Path) -> Any:
    """The input embeddings (V, D) of the checkpoint in `folder`, as float16 numpy, nothing else of it loaded."""
    with loading_alone():  # the first import of torch, which safetensors would do by itself
        import torch  # noqa: F401
        from safetensors import safe_open

    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as tensors:  # numpy has no bfloat16
            name = embedding_name(list(tensors.keys()))
            if name is not None:
                return tensors.get_tensor(name).half().numpy()
    raise UnsupportedModelError(f"{str(folder)!r} shows no token embedding")


def _entries(data: bytes | mmap.mmap) -> Iterator[tuple[str, str, list[int], int, int]]:
    """(name, dtype, shape, first byte, end) of every tensor that counts."""
    if len(data) < 8:
        raise ValueError("a safetensors file of under 8 bytes")
    (size,) = struct.unpack("<Q", data[:8])
    entries: dict[str, Any] = json.loads(data[8 : 8 + size])
    for name, entry in entries.items():
        if name == "__metadata__" or name.endswith(BUFFER_NAMES):
            continue
        begin, end = entry["data_offsets"]
        yield name, entry["dtype"], entry["shape"], 8 + size + begin, 8 + size + end


def _digest(part: memoryview, head: list[Any]) -> str:
    with part:
        digest = hashlib.sha256(canonical.dumps(head))
        digest.update(part)
        return digest.hexdigest()
