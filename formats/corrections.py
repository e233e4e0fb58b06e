"""Encode corrections: ascending (position, token) pairs as LEB128 varints of position gaps and token ids. SPEC §6."""

from __future__ import annotations

from collections.abc import Sequence

from memvec.formats import limits
from memvec.formats.refusal import Refusal

Corrections = tuple[tuple[int, int], ...]


def encode(corrections: Sequence[tuple[int, int]]) -> bytes:
    """Encode (position, token) pairs. ValueError unless the positions ascend strictly."""
    out = bytearray()
    previous = -1
    for position, token in corrections:
        if position <= previous or token < 0:
            raise ValueError(f"correction ({position}, {token}) is out of order or negative")
        out += _varint(position - previous - 1) + _varint(token)
        previous = position
    return bytes(out)


def decode(data: bytes, tokens: int, vocabulary: int) -> Corrections:
    """Decode pairs. Refusal if they are cut off, over-long, past N = `tokens` or outside the vocabulary."""
    if len(data) > limits.CORRECTION_BYTES * tokens:
        raise _bad(f"{len(data)} bytes of corrections are too many for {tokens} tokens")
    out: list[tuple[int, int]] = []
    at, position = 0, -1
    while at < len(data):
        gap, at = _read_varint(data, at)
        token, at = _read_varint(data, at)
        position += gap + 1
        if position >= tokens or token >= vocabulary:
            raise _bad(f"correction ({position}, {token}) lies outside {tokens} tokens of {vocabulary} ids")
        out.append((position, token))
    return tuple(out)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in (0, 7, 14, 21, 28):
        if at >= len(data):
            raise _bad("corrections are cut off")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if byte == 0 and shift:
                raise _bad("a varint has a needless last byte")
            return value, at
    raise _bad("a varint is longer than 5 bytes")


def _bad(message: str) -> Refusal:
    return Refusal("bad-corrections", message)
