"""Canonical JSON: one value, one byte string. Refuses what JSON readers disagree about."""

from __future__ import annotations

import json
import math
from typing import Any


def dumps(value: Any) -> bytes:
    """UTF-8 JSON with sorted keys and no spaces; ValueError on NaN or infinity. SPEC §3."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8")


def loads(data: bytes) -> Any:
    """The value of canonical JSON bytes; ValueError when they are not exactly what `dumps` would write. SPEC §3."""
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_refuse, parse_float=_finite)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if dumps(value) != data:
        raise ValueError("not in canonical form")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key stands twice")
    return value


def _refuse(name: str) -> float:
    raise ValueError(f"{name} is no JSON number")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is out of range")
    return number
