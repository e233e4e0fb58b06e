"""Canonical JSON, corrections, zstd frames and atomic files: each gives back what went in, or says why not."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from memvec.formats import canonical, container, corrections, files, raw
from memvec.formats.refusal import Refusal

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@given(json_values)
def test_canonical_json_gives_the_value_back(value: object) -> None:
    try:
        data = canonical.dumps(value)
    except UnicodeEncodeError:  # a lone surrogate has no UTF-8 form
        return
    assert canonical.loads(data) == value
    assert canonical.dumps(json.loads(data)) == data


def refusing(call: Callable[[], object]) -> str:
    """The code that `call` is refused with."""
    with pytest.raises(Refusal) as caught:
        call()
    return caught.value.code


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b'{"a":1,"a":1}', "duplicate-key"),
        (b'{"b":1,"a":2}', "not-canonical"),
        (b'{"a": 1}', "not-canonical"),
        (b"1\n", "not-canonical"),
        (b"-0", "not-canonical"),
        (b"NaN", "not-finite"),
        (b"-Infinity", "not-finite"),
        (b"1e999", "not-finite"),
        (b'"\\u0041"', "not-canonical"),
        (b'"\\ud800"', "surrogate"),
        (b"18446744073709551616", "integer-too-large"),
        (b"-9223372036854775809", "integer-too-large"),
        (b"9" * 100_000, "integer-too-large"),
        (b"[1", "not-json"),
        (b"\xef\xbb\xbf1", "not-json"),
        (b"\xff", "not-utf8"),
        (b"", "not-json"),
        (b"[" * 33 + b"]" * 33, "nested-too-deeply"),
        (b"[" * 200_000, "nested-too-deeply"),
        (b'{"a":' * 200_000, "nested-too-deeply"),
        (b"[" + b"0," * (1 << 22) + b"0]", "too-many-values"),
    ],
)
def test_what_readers_disagree_about_is_refused(data: bytes, code: str) -> None:
    assert refusing(lambda: canonical.loads(data)) == code


def test_what_is_just_within_the_limits_is_read() -> None:
    assert canonical.loads(b"[" * 32 + b"]" * 32)
    assert canonical.loads(b"[-9223372036854775808,18446744073709551615]") == [-(2**63), 2**64 - 1]


pairs = st.dictionaries(st.integers(0, 5000), st.integers(0, 200_000)).map(lambda d: sorted(d.items()))


@given(pairs)
def test_corrections_round_trip(value: list[tuple[int, int]]) -> None:
    assert list(corrections.decode(corrections.encode(value), 5001, 200_001)) == value


def test_corrections_known_bytes() -> None:
    assert corrections.encode([(0, 5), (3, 300)]) == bytes([0, 5, 2, 0xAC, 0x02])


@pytest.mark.parametrize("value", [[(3, 1), (3, 1)], [(4, 1), (2, 1)], [(0, -1)]])
def test_corrections_out_of_order_are_not_written(value: list[tuple[int, int]]) -> None:
    with pytest.raises(ValueError, match="order"):
        corrections.encode(value)


@pytest.mark.parametrize(
    "data", [b"\x00", b"\x80", b"\x00\x80\x00", b"\x09\x01", b"\x00\x09", b"\xff" * 6, b"\x00" * 91]
)
def test_bad_corrections_are_refused(data: bytes) -> None:
    assert refusing(lambda: corrections.decode(data, tokens=9, vocabulary=9)) == "bad-corrections"


@given(st.binary(max_size=2000))
def test_frames_round_trip(data: bytes) -> None:
    assert raw.decompress(raw.compress(data)) == data


def compress(data: bytes, **changes: bool) -> bytes:
    return zstandard.ZstdCompressor(**{"write_checksum": True, **changes}).compress(data)


FRAME = raw.compress(b"some bytes that matter" * 20)
EMPTY = raw.compress(b"")
# Declares no bytes (8 of size, window 1 KiB), and holds a block that repeats one byte 1,000 times.
LIAR = (
    bytes.fromhex("28b52ffd c4 00 0000000000000000") + (1 << 1 | 1 | 1000 << 3).to_bytes(3, "little") + b"x" + bytes(4)
)


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (FRAME[:-3], "damaged-frame"),
        (bytes([*FRAME[:-1], FRAME[-1] ^ 1]), "damaged-frame"),
        (b"", "damaged-frame"),
        (b"nonsense", "damaged-frame"),
        (EMPTY[:-1], "damaged-frame"),
        (bytes([*EMPTY[:-1], EMPTY[-1] ^ 1]), "damaged-frame"),
        (LIAR, "damaged-frame"),
        (FRAME + b"more", "trailing-bytes"),
        (FRAME * 2, "trailing-bytes"),
        (EMPTY + b"x", "trailing-bytes"),
        (EMPTY + bytes(100), "trailing-bytes"),
        (compress(bytes(raw.MAX_RAW_BYTES + 1)), "frame-too-large"),
        (FRAME + bytes(17 << 20), "frame-too-large"),
        (compress(b"x" * 50, write_content_size=False), "undeclared-size"),
        (compress(b"x" * 50, write_checksum=False), "no-checksum"),
    ],
)
def test_damaged_frames_are_refused(frame: bytes, code: str) -> None:
    assert refusing(lambda: raw.decompress(frame)) == code


def test_baseline_is_one_stream() -> None:
    pieces = [b"the same words again " * 10] * 8
    separate = sum(len(raw.compress(piece)) for piece in pieces)
    assert 0 < raw.stream_size(pieces) < separate / 2


def test_a_file_is_whole_or_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "value"
    files.write_atomically(target, b"old")

    def fail(*_: object) -> None:
        raise OSError("disk gone")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk gone"):
        files.write_atomically(target, b"new")
    assert target.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["value"]


def test_file_mode_follows_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        files.write_atomically(tmp_path / "value", b"x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "value").stat().st_mode) == 0o640


@given(json_values)
def test_a_sealed_value_is_given_back(value: object) -> None:
    try:
        canonical.dumps(value)
    except UnicodeEncodeError:
        return
    data = canonical.seal("list", value)
    assert data == canonical.dumps({"list": value, "sha256": hashlib.sha256(canonical.dumps(value)).hexdigest()})
    assert canonical.unseal("list", data) == value


@pytest.mark.parametrize(
    "data",
    [
        canonical.seal("list", [1, 2]).replace(b"[1,2]", b"[1,3]"),
        canonical.seal("list", [1, 2])[:-1],
        canonical.seal("entry", [1, 2]),
        canonical.dumps({"list": [1, 2]}),
        b"[]",
        b"",
    ],
)
def test_a_seal_that_does_not_match_is_refused(data: bytes) -> None:
    with pytest.raises(Refusal):
        canonical.unseal("list", data)


CODES = sorted(container.CODES)
TENSORS = st.dictionaries(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=6),
    st.tuples(st.sampled_from(CODES), st.sampled_from([(0,), (3,), (2, 5), (1, 0)])),
    max_size=6,
)


@settings(max_examples=200, deadline=None)
@given(TENSORS, st.text(st.characters(exclude_categories=["Cs"]), max_size=6))
def test_a_file_in_pieces_is_the_file_of_safetensors(shapes: dict[str, Any], state: str) -> None:
    shapes.pop("__metadata__", None)
    tensors = {
        name: np.arange(int(np.prod(shape)), dtype=f"<{code}").reshape(shape) for name, (code, shape) in shapes.items()
    }
    made = b"".join(container.pieces(tensors, {"state": state}))
    assert made == container.encode(tensors, {"state": state})
