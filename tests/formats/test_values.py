"""Canonical JSON, corrections, zstd frames and atomic files: each gives back what went in, or says why not."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from memvec.formats import canonical, corrections, files, raw

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
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


@pytest.mark.parametrize(
    "data",
    [
        b'{"a":1,"a":1}',
        b'{"b":1,"a":2}',
        b'{"a": 1}',
        b"NaN",
        b"-Infinity",
        b"1e999",
        b'"\\u0041"',
        b"[1",
        b"\xff",
        b"",
    ],
)
def test_what_readers_disagree_about_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        canonical.loads(data)


def test_deep_nesting_is_an_error_not_a_crash() -> None:
    with pytest.raises(ValueError, match="deep"):
        canonical.loads(b"[" * 200_000)


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


@pytest.mark.parametrize("data", [b"\x00", b"\x80", b"\x00\x80\x00", b"\x09\x01", b"\x00\x09", b"\xff" * 6])
def test_bad_corrections_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        corrections.decode(data, tokens=9, vocabulary=9)


@given(st.binary(max_size=2000))
def test_frames_round_trip(data: bytes) -> None:
    assert raw.decompress(raw.compress(data)) == data


def test_damaged_frames_are_refused() -> None:
    frame = raw.compress(b"some bytes that matter" * 20)
    bomb = zstandard.ZstdCompressor().compress(bytes(raw.MAX_RAW_BYTES + 1))
    undeclared = zstandard.ZstdCompressor(write_content_size=False).compress(b"x" * 50)
    unchecked = zstandard.ZstdCompressor(write_checksum=False).compress(b"x" * 50)
    flipped = bytes([*frame[:-1], frame[-1] ^ 1])
    for bad in (frame[:-3], frame + b"more", frame * 2, bomb, undeclared, unchecked, flipped, b"", b"nonsense"):
        with pytest.raises(ValueError, match="zstd"):
            raw.decompress(bad)


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
