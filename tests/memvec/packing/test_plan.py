"""Lots: how far a pack looks ahead."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from memvec.filesystem.sources import Source
from memvec.packing import plan as module
from memvec.packing.outstanding import Unpacked
from memvec.packing.plan import lots
from memvec.types import Document


def documents(*sizes: int, data: bytes = b"a", read: list[int] | None = None) -> Iterator[Unpacked]:
    for number, size in enumerate(sizes):
        if read is not None:
            read.append(number)
        yield Unpacked(Source(str(number), data * size), Document(str(number), size, "0" * 64, 0, 0))


def sizes(found: Iterator[list[module.Reading]]) -> list[list[int]]:
    return [[len(reading.source.data) for reading in lot] for lot in found]


def test_a_lot_ends_when_it_has_text_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOT_TEXT", 100)
    assert sizes(lots(documents(60, 40, 99, 500, 3))) == [[60, 40], [99, 500], [3]]


def test_bytes_that_are_no_text_have_a_limit_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOT_TEXT", 100)
    monkeypatch.setattr(module, "LOT_BYTES", 1000)
    assert sizes(lots(documents(600, 300, 100, 1, data=b"\xff"))) == [[600, 300, 100], [1]]


def test_the_next_lot_is_not_read_before_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOT_TEXT", 100)
    read: list[int] = []
    found = lots(documents(60, 60, 60, 60, read=read))
    next(found)
    assert read == [0, 1]


def test_nothing_makes_no_lot() -> None:
    assert list(lots(iter(()))) == []
