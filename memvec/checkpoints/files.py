"""Read a checkpoint's files: digests of its tensors, its embedding table and its tokenizer, without loading the model."""

from __future__ import annotations

import contextlib
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

from memvec.causes import reading_checkpoint
from memvec.checkpoints import usable
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
GENERATION = (
    "bos_token_id", "eos_token_id", "pad_token_id", "temperature", "top_k", "top_p", "min_p", "typical_p", "repetition_penalty",
    "no_repeat_ngram_size", "bad_words_ids", "suppress_tokens", "begin_suppress_tokens", "forced_bos_token_id", "forced_eos_token_id",
)  # fmt: skip
SINGLE, INDEX, ADAPTER = "model.safetensors", "model.safetensors.index.json", "adapter_config.json"
RULES = 3  # version of the rules that choose files and tensors; cached results of another version are not used
THREADS = min(8, os.cpu_count() or 1)  # hashlib lets other threads run while it hashes


@dataclass(frozen=True, slots=True)
class TensorDigest:
    """A tensor of a checkpoint: the sha256 of its name, dtype, shape and bytes, and its dtype as in safetensors."""

    sha256: str
    dtype: str


def tensor_digests(folder: Path) -> dict[str, TensorDigest]:
    """Digest every tensor of the checkpoint, by name in order, without buffers. NotFoundError, UnsupportedModelError."""
    found: dict[str, TensorDigest] = {}
    for file in weight_files(folder):
        with _mapped(file) as data:
            part = digests(data)
        if twice := sorted(found.keys() & part.keys()):
            raise NotFoundError(f"tensor {twice[0]!r} is in two files of {str(folder)!r}. Save the model again.")
        found |= part
    usable.check_tensors(folder, found)
    return dict(sorted(found.items()))


def weight_files(folder: Path) -> list[Path]:
    """Return the files that transformers loads as the weights of the checkpoint in `folder`, in order of name.

    Other *.safetensors in the folder are left out: a second copy, weights in another layout, an adapter.

    Raises:
        NotFoundError: There are no weights as safetensors, or a file that the index names is missing.
        UnsupportedModelError: transformers would load an adapter on top of the weights.
    """
    if (folder / ADAPTER).is_file():
        raise UnsupportedModelError(
            f"{str(folder)!r} holds a PEFT adapter ({ADAPTER}), which transformers would load on top of the model. "
            "Merge it into the model, or move it to a folder of its own"
        )
    chosen = json.loads((folder / "config.json").read_bytes()).get("transformers_weights")
    for name in (chosen,) if chosen is not None else (SINGLE, INDEX):
        if not _plain(name) or not name.endswith((".safetensors", ".safetensors.index.json")):
            raise NotFoundError(
                f"config.json in {str(folder)!r} names {name!r} as the weights, expected safetensors in it."
            )
        if (folder / name).is_file():
            return _indexed(folder, name) if name.endswith(".json") else [folder / name]
    if chosen is None:
        raise usable.no_checkpoint(folder)
    raise NotFoundError(f"no {chosen} in {str(folder)!r}, which config.json names. Download the model again.")


def digests(data: bytes | mmap.mmap) -> dict[str, TensorDigest]:
    """Digest every tensor in the bytes of a safetensors file, by name, without buffers."""
    with memoryview(data) as view, ThreadPoolExecutor(THREADS) as threads:
        made = [
            (name, threads.submit(digest, view[begin:end], [name, dtype, shape]), dtype)
            for name, dtype, shape, begin, end in _entries(data)
        ]
        return {name: TensorDigest(found.result(), dtype) for name, found, dtype in made}


def stored_as(folder: Path) -> str | None:
    """The dtype of all weights of a checkpoint, as in safetensors. None if they have several.

    Raises:
        NotFoundError: The folder cannot be read as a checkpoint.
        UnsupportedModelError: transformers would load an adapter on top of the weights.
    """
    found = set()
    with reading_checkpoint(folder):
        for file in weight_files(folder):
            with _mapped(file) as data:
                found |= {dtype for _, dtype, *_ in _entries(data)}
    return found.pop() if len(found) == 1 else None


def embedding_name(names: Iterable[str]) -> str | None:
    """The name among `names` of the tensor of input embeddings, or None."""
    there = list(names)
    return next((name for suffix in EMBEDDING_NAMES for name in there if name.endswith(suffix)), None)


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of the checkpoint in `folder`. NotFoundError if it cannot be read, UnsupportedModelError, MissingExtraError."""
    with loading_alone(), reading_checkpoint(folder), usable.explained(folder, tokenizer=True):
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)


def load_config(folder: Path) -> Any:
    """The configuration of the checkpoint in `folder`. NotFoundError if it cannot be read, UnsupportedModelError."""
    with loading_alone(), reading_checkpoint(folder):
        from transformers import AutoConfig

        usable.check_settings(folder)
        with usable.explained(folder):
            config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        usable.check_config(folder, config)
        return config


def load_generation(folder: Path) -> Any:
    """The settings of `generate` that memvec takes from the checkpoint in `folder`: token ids and changes of logits.

    Others choose a cache, beams or a form of output. A file that transformers refuses is left out. NotFoundError.
    """
    made = load_config(folder)
    with loading_alone():
        from transformers import GenerationConfig

    made = GenerationConfig.from_model_config(made)
    with contextlib.suppress(OSError, TypeError, ValueError):  # no file, or a refused one
        made = GenerationConfig.from_pretrained(folder)
    found = {name: value for name in GENERATION if (value := getattr(made, name, None)) is not None}
    try:
        return GenerationConfig(**found)
    except (TypeError, ValueError):  # a value out of its range
        return GenerationConfig(eos_token_id=found.get("eos_token_id"))


def embedding_table(folder: Path) -> Any:
    """Load only the input embeddings (V, D) of the checkpoint in `folder`, as float16 numpy."""
    with loading_alone():  # safetensors would import torch, outside of this lock
        import torch  # noqa: F401
        from safetensors import safe_open

    with reading_checkpoint(folder):
        for file in weight_files(folder):
            with safe_open(file, "pt") as tensors:  # numpy has no bfloat16
                name = embedding_name(list(tensors.keys()))
                if name is not None:
                    return tensors.get_tensor(name).half().numpy()
    raise UnsupportedModelError(f"{str(folder)!r} shows no token embedding")


def _indexed(folder: Path, index: str) -> list[Path]:
    """The files that an index names. NotFoundError if one is missing."""
    found = json.loads((folder / index).read_bytes())
    places = found.get("weight_map") if isinstance(found, dict) else None
    if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
        raise ValueError(f"{index} maps no tensors to files")
    names = sorted(set(places.values()))
    for name in names:
        if not _plain(name) or not name.endswith(".safetensors"):
            raise NotFoundError(f"{index} in {str(folder)!r} names {name!r}, expected *.safetensors beside it.")
        if not (folder / name).is_file():
            raise NotFoundError(
                f"{name!r} is missing in {str(folder)!r}, which {index} names. Download the model again."
            )
    return [folder / name for name in names]


@contextlib.contextmanager
def _mapped(file: Path) -> Iterator[mmap.mmap]:
    """The bytes of a safetensors file. NotFoundError if it is not there as a whole."""
    with file.open("rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as data:
        usable.check_complete(file, data[: len(usable.POINTER)], len(data))
        usable.check_complete(file, b"", len(data), max((end for *_, end in _entries(data)), default=0))
        yield data


def _plain(name: Any) -> bool:
    """Is this the name of a file in the same folder?"""
    return isinstance(name, str) and name not in ("", ".", "..") and not set(name) & set("/\\\0")


def _entries(data: bytes | mmap.mmap) -> Iterator[tuple[str, str, list[int], int, int]]:
    """(name, dtype, shape, first byte, end) of every tensor that is no buffer."""
    if len(data) < 8:
        raise ValueError("a safetensors file of under 8 bytes")
    (size,) = struct.unpack("<Q", data[:8])
    entries = json.loads(data[8 : 8 + size])
    if not isinstance(entries, dict):
        raise ValueError("a safetensors file without a header")  # noqa: TRY004 - of its bytes, not of an argument
    for name, entry in entries.items():
        if name == "__metadata__" or name.endswith(BUFFER_NAMES):
            continue
        match entry:
            case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [int(begin), int(end)]}:
                yield name, dtype, shape, 8 + size + begin, 8 + size + end
            case _:
                raise ValueError(f"a safetensors file with a header that says too little of {name!r}")


def digest(part: memoryview, head: list[Any]) -> str:
    """The sha256 of a tensor's [name, dtype, shape] and its bytes."""
    with part:
        made = hashlib.sha256(canonical.dumps(head))
        made.update(part)
        return made.hexdigest()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Within: transformers draws no progress bars, because memvec draws its own. Only within `loading_alone`."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
