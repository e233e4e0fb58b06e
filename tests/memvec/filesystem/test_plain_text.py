"""Text is told from binary data."""

from __future__ import annotations

import pytest

from memvec.filesystem.plain_text import as_text


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"a zero byte \x00 in the midst of a sentence that goes on",
        "déjà vu 😀 你好".encode(),
        b"\tname\r\n\fpage\x1b[1mbold\x1b[0m",
        b"N\bNA\bAM\bME\bE\n",  # as man pages are printed
        b"one\0two\0three\0four/five\0",  # as `find -print0` lists
        b"=" * 100_000,
        b"a1b2c3d4" * 1000,
    ],
)
def test_text(data: bytes) -> None:
    assert as_text(data) == data.decode()


@pytest.mark.parametrize(
    "data",
    [
        b"\0" * 2**20,
        "a sentence in sixteen bits".encode("utf-16-le"),
        b"some prose, and then what pads a block" + b"\0" * 64,
        bytes(range(1, 32)) * 4,
        b"\xff\xfe",
        b"before \xed\xa0\x80 after",
    ],
)
def test_no_text(data: bytes) -> None:
    assert as_text(data) is None
