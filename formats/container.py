"""The common part of memvec's safetensors files: named tensors and one metadata key of canonical JSON. SPEC §5, §9."""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Iterator, Mapping
from itertools import accumulate
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save

from memvec.formats import canonical, fields, limits
from memvec.formats.refusal import Refusal

Array = npt.NDArray[Any]

METADATA_KEY = "memvec"
CODES = {
    "u1": "U8",
    "u2": "U16",
    "u4": "U32",
    "u8": "U64",
    "f2": "F16",
    "f4": "F32",
    "f8": "F64",
}  # numpy's code: safetensors' dtype
ORDER = ("u1", "u2", "f2", "u4", "f4", "f8", "u8")  # `save` writes the last one first


def encode(tensors: Mapping[str, Array], metadata: Mapping[str, Any]) -> bytes:
    """Encode `tensors`, with `metadata` and the tensors' digests. Refusal if the file is over a limit."""
    data = save(dict(tensors), {METADATA_KEY: _wrapped(tensors, metadata)})
    _check_size(len(data))
    return data


def pieces(tensors: Mapping[str, Array], metadata: Mapping[str, Any]) -> Iterator[bytes | memoryview]:
    """The bytes that `encode` returns, piece by piece, for tensors that are large. Refusal if they are over a limit."""
    ordered = sorted(tensors.items(), key=lambda tensor: (-ORDER.index(tensor[1].dtype.str[1:]), tensor[0]))
    ends = list(accumulate(array.nbytes for _, array in ordered))
    entries = {
        name: {
            "dtype": CODES[array.dtype.str[1:]],
            "shape": list(array.shape),
            "data_offsets": [end - array.nbytes, end],
        }
        for (name, array), end in zip(ordered, ends, strict=True)
    }
    header = {"__metadata__": {METADATA_KEY: _wrapped(tensors, metadata)}, **entries}
    head = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    head += b" " * (-len(head) % 8)
    _check_size(8 + len(head) + (ends[-1] if ends else 0))
    yield struct.pack("<Q", len(head)) + head
    for _, array in ordered:
        yield _bytes(array)


def _wrapped(tensors: Mapping[str, Array], metadata: Mapping[str, Any]) -> str:
    digests = {name: hashlib.sha256(_bytes(array)).hexdigest() for name, array in tensors.items()}
    return canonical.dumps({**metadata, "digests": digests, "version": [1, 0]}).decode()


def _bytes(array: Array) -> memoryview:
    """The bytes of an array, without a copy if they lie together."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def _check_size(size: int) -> None:
    if size > limits.FILE_BYTES:  # no reader would accept it
        raise Refusal("file-too-large", f"the file would be {size} bytes, at most {limits.FILE_BYTES} are read")


def read_header(data: bytes | memoryview, format_name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """(tensor entries, memvec metadata) of a file's first bytes. Checked before anything is allocated; Refusal if bad."""
    entries = canonical.parse(bytes(data[8 : _data_start(data)]))
    wrapped = entries.pop("__metadata__", None) if isinstance(entries, dict) else None
    if not isinstance(wrapped, dict) or list(wrapped) != [METADATA_KEY] or not isinstance(wrapped[METADATA_KEY], str):
        raise Refusal("bad-metadata", f"metadata must hold exactly the key {METADATA_KEY!r}")
    metadata = canonical.loads(wrapped[METADATA_KEY].encode())
    if fields.one(metadata, "format", str) != format_name:
        raise Refusal("wrong-format", f"metadata does not say {format_name}")
    version = fields.several(metadata, "version", int)
    if len(version) != 2 or version[1] < 0:
        raise fields.bad(f"version {version} is no pair of numbers")
    if version[0] != 1:
        raise Refusal("unsupported-version", f"version {version} of {format_name} is not 1.x")
    fields.one(metadata, "digests", dict)
    return entries, metadata


def _data_start(data: bytes | memoryview) -> int:
    """Return where the tensors' bytes begin. The declared length is checked before it is used."""
    if len(data) < 8:
        raise Refusal("cut-off", "shorter than a safetensors header")
    (size,) = struct.unpack("<Q", bytes(data[:8]))
    if size > limits.HEADER_BYTES:
        raise Refusal("header-too-long", f"header declares {size} bytes, at most {limits.HEADER_BYTES} are allowed")
    if size > len(data) - 8:
        raise Refusal("cut-off", f"header declares {size} bytes, {len(data) - 8} are there")
    if data[8:9] != b"{":
        raise Refusal("not-json", "the header does not begin with {")
    return 8 + int(size)


def read_tensors(data: bytes, entries: Mapping[str, Any], expected: Mapping[str, str]) -> dict[str, Array]:
    """Return the tensors named in `expected`, {name: numpy code}, as views of `data`. Others are ignored. Refusal if bad."""
    start = _data_start(data)
    check_entries(entries, len(data) - start, expected)
    arrays: dict[str, Array] = {}
    for name, code in expected.items():
        begin, shape = entries[name]["data_offsets"][0], entries[name]["shape"]
        arrays[name] = np.frombuffer(data, f"<{code}", math.prod(shape), start + begin).reshape(shape)
    return arrays


def check_entries(entries: Mapping[str, Any], size: int, expected: Mapping[str, str]) -> None:
    """Refuse unless the tensors fill `size` bytes, and those in `expected`, {name: numpy code}, have these dtypes."""
    _check_layout(entries, size)
    for name, code in expected.items():
        if name not in entries:
            raise Refusal("missing-tensor", f"tensor {name!r} is missing")
        entry = entries[name]
        if entry["dtype"] != CODES[code]:
            raise Refusal("wrong-dtype", f"tensor {name!r}: expected dtype {CODES[code]}, found {entry['dtype'][:20]}")
        (begin, end), shape = entry["data_offsets"], entry["shape"]
        if math.prod(shape) * int(code[1:]) != end - begin:
            raise Refusal("bad-tensor", f"tensor {name!r}: {end - begin} bytes are no {shape} of {CODES[code]}")


def _check_layout(entries: Mapping[str, Any], size: int) -> None:
    """Refuse unless every entry is well formed and the tensors fill `size` bytes without gap or overlap."""
    spans = []
    for name, entry in entries.items():
        complete = isinstance(entry, dict) and set(entry) == {"dtype", "shape", "data_offsets"}
        if not complete or not isinstance(entry["dtype"], str) or not _naturals(entry["shape"]):
            raise Refusal("bad-tensor", f"tensor {name[:80]!r}: its entry is malformed")
        offsets = entry["data_offsets"]
        if not _naturals(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
            raise Refusal("bad-tensor", f"tensor {name[:80]!r}: its offsets are malformed")
        spans.append((*offsets, name[:80]))
    reached = 0
    for begin, end, name in sorted(spans):
        if begin < reached:
            raise Refusal("overlapping-tensors", f"tensor {name!r} begins at {begin}, before the last one's end")
        if begin > reached:
            raise Refusal("gap-between-tensors", f"tensor {name!r} begins at {begin}, the last one ends at {reached}")
        reached = end
    if reached > size:
        raise Refusal("cut-off", f"tensors reach to {reached}, {size} bytes are there")
    if reached < size:
        raise Refusal("trailing-bytes", f"tensors reach to {reached} of {size} bytes")


def _naturals(value: Any) -> bool:
    return isinstance(value, list) and all(type(number) is int and number >= 0 for number in value)


def check_shapes(tensors: Mapping[str, Array], expected: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse the first tensor of another shape."""
    compare_shapes({name: tensors[name].shape for name in expected}, expected)


def compare_shapes(found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse the first of the shapes `found` that differs from `expected`."""
    for name, shape in expected.items():
        if found[name] != shape:
            raise Refusal("wrong-shape", f"tensor {name!r}: expected shape {shape}, found {found[name]}")


def check_digests(tensors: Mapping[str, Array], digests: Mapping[str, Any]) -> None:
    """Refuse the first tensor that does not match its digest in the header."""
    for name, tensor in tensors.items():
        if name in digests and hashlib.sha256(tensor.tobytes()).hexdigest() != digests[name]:
            raise Refusal("digest-mismatch", f"tensor {name!r} does not match its digest")


def check_offsets(name: str, offsets: Array, length: int) -> None:
    """Refuse offsets (n + 1,) that do not ascend from 0 to `length`."""
    if offsets[0] != 0 or offsets[-1] != length or (offsets[1:] < offsets[:-1]).any():
        raise Refusal("bad-offsets", f"tensor {name!r}: offsets do not ascend from 0 to {length}")


def tensor_bytes(data: bytes, entries: Mapping[str, Any]) -> dict[str, memoryview]:
    """Return the bytes of every tensor of a file, unknown tensors too. Refusal unless they fill it."""
    start = _data_start(data)
    _check_layout(entries, len(data) - start)
    spans = {name: entry["data_offsets"] for name, entry in entries.items()}
    return {name: memoryview(data)[start + begin : start + end] for name, (begin, end) in spans.items()}


def damaged_place(data: bytes, format_name: str) -> str:
    """Say where a damaged file was changed: the name of a tensor, else the header."""
    try:
        entries, metadata = read_header(data, format_name)
        tensors = tensor_bytes(data, entries)
    except Refusal:
        return "header"
    for name, part in sorted(tensors.items()):
        if hashlib.sha256(part).hexdigest() != metadata["digests"].get(name):
            return f"tensor {name!r}"
    return "header"


def digest_rows(digests: list[bytes]) -> Array:
    """Return n digests as (n, 32) uint8."""
    return np.frombuffer(b"".join(digests), dtype=np.uint8).reshape(-1, 32)


def as_offsets(lengths: list[int]) -> Array:
    """Return the offsets (n + 1,) of pieces laid end to end."""
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.uint64)]).astype("<u8")
