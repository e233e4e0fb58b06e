"""The tensors of a shard that hold its kv records. A shard without kv records has none of them. SPEC §5.5.

Letters: n records, L layers, H key/value heads, E width of a head, K rows, G runs of rows, C runs of numbers in a row.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from memvec.formats import container, fields, keys_values, limits
from memvec.formats.container import Array
from memvec.formats.refusal import Refusal
from memvec.types import KeysValues, Kind, Record

METADATA = "kv"  # key of the metadata of a shard that has these tensors
BOUNDS = {"layers": limits.KV_LAYERS, "heads": limits.KV_HEADS, "width": limits.KV_WIDTH}
COLUMNS = {"kv_positions": "u4", "kv_bits": "u1"}  # one value a record, 0 for records of other kinds
# Pieces of varying length as in every shard; codes are divided by bytes, since records may differ in bits.
PIECES = {f"kv_{name}": code for name, code in keys_values.ARRAYS.items()}
TENSORS = {**COLUMNS, **PIECES, **{f"{name}_offsets": "u8" for name in PIECES}}
CODES = ("keys", "values")


def tensors(records: Sequence[Record]) -> tuple[dict[str, Array], dict[str, Any]]:
    """Return the tensors and the metadata for the kv records among `records`; both are empty without one.

    Refusal if the arrays of a record do not fit each other, or records differ in layers, heads or width.
    """
    for record in records:
        if (record.kind == Kind.KV) != (record.kv is not None):
            raise Refusal(
                "mixed-parts", f"a {record.kind.name.lower()} record has {'no ' * (record.kv is None)}kv arrays"
            )
    found = [record.kv for record in records]
    kept = [keys_values.checked(kv) for kv in found if kv is not None]
    if not kept:
        return {}, {}
    shapes = {(*kv.counts.shape, kv.width) for kv in kept}
    if len(shapes) > 1:
        raise Refusal("bad-kv", f"kv records of one shard have different layers, heads and widths: {sorted(shapes)}")
    (shape,) = shapes
    out: dict[str, Array] = {
        "kv_positions": np.array([kv.positions if kv else 0 for kv in found], "<u4"),
        "kv_bits": np.array([kv.bits if kv else 0 for kv in found], "<u1"),
    }
    for name, code in keys_values.ARRAYS.items():
        pieces = [_flat(name, getattr(kv, name)) for kv in kept]
        lengths = iter(map(len, pieces))
        out[f"kv_{name}"] = np.concatenate(pieces).astype(f"<{code}", copy=False)
        out[f"kv_{name}_offsets"] = container.as_offsets([next(lengths) if kv else 0 for kv in found])
    return out, {METADATA: dict(zip(BOUNDS, shape, strict=True))}


def _flat(name: str, array: Array) -> Array:
    return array.reshape(-1) if name in CODES else array


def check_metadata(metadata: Mapping[str, Any]) -> None:
    """Refuse layers, heads or a width that are no numbers within the limits. Nothing to check without kv records."""
    if METADATA in metadata:
        value = fields.one(metadata, METADATA, dict)
        for name, most in BOUNDS.items():
            fields.within(fields.one(value, name, int), f"{name} of kv records", most, 1)


def expected_tensors(metadata: Mapping[str, Any]) -> dict[str, str]:
    """Return {tensor: numpy code} of the kv tensors that a shard with this metadata has."""
    return TENSORS if METADATA in metadata else {}


def expected_shapes(metadata: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Return the expected shape of every kv tensor. The lengths of those that vary are taken from `shapes`."""
    if METADATA not in metadata:
        return {}
    n = int(metadata["records"])
    expected: dict[str, tuple[int, ...]] = dict.fromkeys(COLUMNS, (n,))
    expected |= {f"{name}_offsets": (n + 1,) for name in PIECES}
    return expected | {
        f"kv_{name}": ((*shapes[f"kv_{name}"][:1],) or (0,)) + shape for name, shape in _rows(metadata).items()
    }


def _rows(metadata: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """The shape of one row of each piece."""
    heads, width = int(metadata[METADATA]["heads"]), int(metadata[METADATA]["width"])
    return {
        "counts": (heads,),
        "distances": (),
        "keys": (),
        "key_scales": (2, width),
        "values": (),
        "value_scales": (keys_values.runs_of_a_row(width), 2),
    }


def sizes(metadata: Mapping[str, Any], columns: Mapping[str, Array]) -> tuple[Array, Array]:
    """Return the positions (n,) and the bytes (n,) of each record's keys and values. 0 for records of other kinds."""
    size = np.zeros(int(metadata["records"]), np.uint64)
    if METADATA not in metadata:
        return size, size
    for name, shape in _rows(metadata).items():
        each = math.prod(shape) * np.dtype(keys_values.ARRAYS[name]).itemsize
        size += np.diff(columns[f"kv_{name}_offsets"]) * np.uint64(each)
    return columns["kv_positions"].astype(np.uint64), size


def digested(kv: KeysValues) -> Iterator[bytes]:
    """Yield the pieces that the digest of a kv record covers beyond those of other records. SPEC §5.3."""
    yield struct.pack("<IBIII", kv.positions, kv.bits, *kv.counts.shape, kv.width)
    for name, code in keys_values.ARRAYS.items():
        yield getattr(kv, name).astype(f"<{code}", copy=False).tobytes()


class Parts:
    """What the kv tensors of a shard hold for one record. Nothing is checked before `record`."""

    def __init__(
        self,
        metadata: Mapping[str, Any],
        columns: Mapping[str, Array],
        piece: Callable[[str, int], Array],
        row: int,
    ) -> None:
        """`piece` returns the part of a tensor that belongs to a record. It is not called for `complete` and `empty`."""
        value = metadata[METADATA]
        self._shape = tuple(int(value[name]) for name in BOUNDS)  # (L, H, E)
        self._positions, self._bits = (int(columns[name][row]) for name in COLUMNS)
        ends = {name: columns[f"kv_{name}_offsets"][row : row + 2].tolist() for name in keys_values.ARRAYS}
        self._lengths = {name: end - begin for name, (begin, end) in ends.items()}
        self._piece, self._row = piece, row

    @cached_property
    def _arrays(self) -> dict[str, Array]:
        return {name: self._piece(f"kv_{name}", self._row) for name in keys_values.ARRAYS}

    def complete(self) -> bool:
        """Does the record have everything that each kv record has?"""
        return all(self._lengths[name] for name in ("counts", "distances", "keys", "values"))

    def empty(self) -> bool:
        """Does the record have nothing of a kv record?"""
        return not self._positions and not self._bits and not any(self._lengths.values())

    def digested(self) -> Iterator[bytes]:
        """Yield the same pieces as `digested` of the record."""
        yield struct.pack("<IBIII", self._positions, self._bits, *self._shape)
        for array in self._arrays.values():
            yield array.tobytes()

    def record(self) -> KeysValues:
        """Return the keys and values. Refusal if the arrays do not fit each other."""
        layers, _, width = self._shape
        fields.within(self._positions, "the positions of a kv record", limits.KV_POSITIONS, 1)
        # A view of the file would hold all of it in memory.
        arrays = {name: array.copy() for name, array in self._arrays.items()}
        rows, size = len(arrays["distances"]), width * self._bits // 8
        if len(arrays["counts"]) != layers or any(len(arrays[name]) != rows * size for name in CODES):
            raise Refusal("bad-kv", f"its arrays are not of {layers} layers and {rows} rows of {size} bytes")
        shaped = {name: arrays[name].reshape(rows, size) for name in CODES}
        return keys_values.checked(KeysValues(self._positions, self._bits, **{**arrays, **shaped}))
