"""Keys and values byte by byte from SPEC.md §5.5 and §5.6, right ones and wrong ones. Knows nothing of memvec."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

NAMES = {"counts": "U32", "distances": "U32", "keys": "U8", "key_scales": "F16", "values": "U8", "value_scales": "F16"}


def keys_values(
    bits: int = 8,
    kept: Sequence[Sequence[int]] = ((2, 0), (1, 1)),
    width: int = 6,
    positions: int = 3,
    falling: int = 0,
    **changes: Any,
) -> dict[str, Any]:
    """The arrays of a record as bytes: codes that count up, scales that differ. Distances fall by 3, to `falling` + 1.

    `kept` are the rows of each head.
    """
    heads = [rows for layer in kept for rows in layer]
    rows, runs, parts = sum(heads), sum(-(-rows // 64) for rows in heads), -(-width // 64)
    scaled = bits < 16
    distances = [falling + 1 + 3 * back for n in heads for back in reversed(range(n))]
    numbers = np.arange(rows * width) % 37 / 8 - 2
    codes = np.arange(rows * width * bits // 8) * 7 % 251
    made = {
        "counts": np.array(heads, "<u4").tobytes(),
        "distances": np.array(distances, "<u4").tobytes(),
        "keys": codes.astype("u1").tobytes() if scaled else numbers.astype("<f2").tobytes(),
        "key_scales": _scales(runs * 2 * width * scaled),
        "values": codes[::-1].astype("u1").tobytes() if scaled else numbers[::-1].astype("<f2").tobytes(),
        "value_scales": _scales(rows * parts * 2 * scaled),
    }
    shape = {"layers": len(kept), "heads": len(kept[0]), "width": width}
    return {"positions": positions, "bits": bits, "shape": shape} | made | changes


def _scales(numbers: int) -> bytes:
    return ((np.arange(numbers) % 23 - 9) / 16).astype("<f2").tobytes()


def row_shapes(shape: Mapping[str, int]) -> dict[str, list[int]]:
    """The shape of a row of each tensor, in numbers."""
    heads, width = shape["heads"], shape["width"]
    parts = -(-width // 64)
    return {"counts": [heads], "distances": [], "keys": [], "key_scales": [2, width], "values": []} | {
        "value_scales": [parts, 2]
    }


def pieces(kv: Mapping[str, Any]) -> list[bytes]:
    """What the digest of a record covers of them."""
    shape = kv["shape"]
    head = struct.pack("<IBIII", kv["positions"], kv["bits"], shape["layers"], shape["heads"], shape["width"])
    return [head, *(kv[name] for name in NAMES)]


def columns(records: Sequence[Mapping[str, Any] | None]) -> dict[str, tuple[str, list[int], bytes]]:
    """The tensors of a shard with such records; None for those of other kinds."""
    found = [kv for kv in records if kv]
    if not found:
        return {}
    n = len(records)
    out = {
        "kv_positions": ("U32", [n], np.array([kv["positions"] if kv else 0 for kv in records], "<u4").tobytes()),
        "kv_bits": ("U8", [n], np.array([kv["bits"] if kv else 0 for kv in records], "u1").tobytes()),
    }
    for name, row in row_shapes(found[0]["shape"]).items():
        each = int(np.prod(row, dtype=int)) * {"U8": 1, "F16": 2, "U32": 4}[NAMES[name]]
        sizes = [len(kv[name]) // each if kv else 0 for kv in records]
        data = b"".join(kv[name] for kv in found)
        out[f"kv_{name}"] = NAMES[name], [sum(sizes), *row], data
        out[f"kv_{name}_offsets"] = "U64", [n + 1], np.cumsum([0, *sizes]).astype("<u8").tobytes()
    return out
