"""What memvec's safetensors files have in common: one metadata key of canonical JSON, named tensors. SPEC §5, §9."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, deserialize
from safetensors.numpy import save

from memvec.formats import canonical

Array = npt.NDArray[Any]

METADATA_KEY = "memvec"
MAX_HEADER_BYTES = 1 << 20
CODES = {
    "u1": "U8",
    "u2": "U16",
    "u4": "U32",
    "u8": "U64",
    "f2": "F16",
    "f4": "F32",
    "f8": "F64",
}  # numpy's: safetensors'


def encode(tensors: Mapping[str, Array], metadata: Mapping[str, Any]) -> bytes:
    """A file of `tensors`, with `metadata` and the tensors' digests as its one metadata key."""
    digests = {name: hashlib.sha256(array.tobytes()).hexdigest() for name, array in tensors.items()}
    wrapped = canonical.dumps({**metadata, "digests": digests, "version": [1, 0]}).decode()
    return save(dict(tensors), {METADATA_KEY: wrapped})


def read_header(data: bytes | memoryview, format_name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """(tensor entries, memvec metadata) of a file's first bytes, before anything is allocated; ValueError if bad."""
    if len(data) < 8:
        raise ValueError("shorter than a safetensors header")
    (size,) = struct.unpack("<Q", bytes(data[:8]))
    if size > MAX_HEADER_BYTES or size > len(data) - 8:
        raise ValueError(f"header declares {size} bytes, at most {min(MAX_HEADER_BYTES, len(data) - 8)} can be meant")
    entries = json.loads(bytes(data[8 : 8 + size]).decode("utf-8"))
    wrapped = entries.pop("__metadata__", None) if isinstance(entries, dict) else None
    if not isinstance(wrapped, dict) or list(wrapped) != [METADATA_KEY] or not isinstance(wrapped[METADATA_KEY], str):
        raise ValueError(f"metadata must hold exactly the key {METADATA_KEY!r}")
    metadata = canonical.loads(wrapped[METADATA_KEY].encode())
    if not isinstance(metadata, dict) or metadata.get("format") != format_name:
        raise ValueError(f"metadata does not say {format_name}")
    version = metadata.get("version")
    if not isinstance(version, list) or version[:1] != [1]:
        raise ValueError(f"version {version} of {format_name} is not 1.x")
    if type(metadata.get("digests")) is not dict:
        raise ValueError("metadata lacks its digests")
    return entries, metadata


def read_tensors(data: bytes, expected: Mapping[str, str]) -> dict[str, Array]:
    """The tensors named in `expected`, {name: numpy code}, others passed over; ValueError for a missing or other one."""
    found = dict(raw_tensors(data))
    missing = sorted(set(expected) - set(found))
    if missing:
        raise ValueError(f"tensor {missing[0]!r} is missing")
    arrays: dict[str, Array] = {}
    for name, code in expected.items():
        entry = found[name]
        if entry["dtype"] != CODES[code]:
            raise ValueError(f"tensor {name!r}: expected dtype {CODES[code]}, found {entry['dtype']}")
        arrays[name] = np.frombuffer(entry["data"], dtype=f"<{code}").reshape(entry["shape"])
    return arrays


def check_shapes(tensors: Mapping[str, Array], expected: Mapping[str, tuple[int, ...]]) -> None:
    """ValueError for the first tensor of another shape."""
    compare_shapes({name: tensors[name].shape for name in expected}, expected)


def compare_shapes(found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]]) -> None:
    """ValueError for the first of the shapes `found` that is another."""
    for name, shape in expected.items():
        if found[name] != shape:
            raise ValueError(f"tensor {name!r}: expected shape {shape}, found {found[name]}")


def check_offsets(name: str, offsets: Array, length: int) -> None:
    """ValueError when offsets (n + 1,) do not ascend from 0 to `length`."""
    if offsets[0] != 0 or offsets[-1] != length or (offsets[1:] < offsets[:-1]).any():
        raise ValueError(f"tensor {name!r}: offsets do not ascend from 0 to {length}")


def damaged_place(data: bytes, format_name: str) -> str:
    """Where a file whose digest is wrong was changed: a tensor by name, else its header."""
    try:
        _, metadata = read_header(data, format_name)
        for name, entry in sorted(raw_tensors(data)):
            if hashlib.sha256(entry["data"]).hexdigest() != metadata["digests"].get(name):
                return f"tensor {name!r}"
    except (ValueError, SafetensorError):
        pass
    return "header"


def raw_tensors(data: bytes) -> list[tuple[str, dict[str, Any]]]:
    """(name, {dtype, shape, data}) of every tensor, as safetensors found them to lie."""
    parsed: list[tuple[str, dict[str, Any]]] = deserialize(data)  # type: ignore[no-untyped-call]
    return parsed


def digest_rows(digests: list[bytes]) -> Array:
    """(n, 32) uint8 of n digests."""
    return np.frombuffer(b"".join(digests), dtype=np.uint8).reshape(-1, 32)


def as_offsets(lengths: list[int]) -> Array:
    """(n + 1,) offsets of pieces laid end to end."""
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.uint64)]).astype("<u8")
