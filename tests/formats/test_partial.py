"""Shards read in part: the same records as read whole, and of a changed file the same records or an error."""

from __future__ import annotations

import dataclasses
import random
import re
from pathlib import Path

import numpy as np
import pytest

from memvec.formats import container, raw, shard
from memvec.formats.partial import ShardReader, TensorFile
from memvec.formats.shard import Shard
from memvec.types import Document, FitReport, Kind, RawReason, Record

WIDTH = 4


def records() -> list[Record]:
    """Exact and raw records of two documents."""
    found = []
    for number, name in enumerate(("a.txt", "b/é.txt")):
        of = Document(name, 60, f"{number}" * 64, 20, 12)
        exact = Record(
            document=of,
            kind=Kind.EXACT,
            start=0,
            length=40,
            tokens=9,
            vectors=np.arange((number + 1) * WIDTH, dtype=np.float16).reshape(-1, WIDTH),
            corrections=((1, 7), (4, 300)),
            payload=b"",
            text_sha256=bytes(32),
            reason=RawReason.NONE,
            report=FitReport(5, 6, 7.0, 8.0, 1, 1, 0.5, 0.25),
        )
        rest = {"vectors": exact.vectors[:0], "corrections": (), "payload": raw.compress(b"x" * 20)}
        placed = {"kind": Kind.RAW, "reason": RawReason.NO_FIT, "start": 40, "length": 20}
        found += [exact, dataclasses.replace(exact, **rest, **placed)]
    return found


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A shard of them."""
    path = tmp_path / "shard"
    path.write_bytes(shard.encode(records(), "f" * 16, WIDTH, 500))
    return path


def said(part: Shard) -> list[object]:
    """Everything a shard says, of every record."""
    plain = [
        {
            **dataclasses.asdict(dataclasses.replace(record, vectors=record.vectors[:0])),
            "vectors": record.vectors.tolist(),
        }
        for record in part
    ]
    return [plain, [part.digest(row) for row in range(len(part))], list(part.documents)]


def test_it_gives_the_same_as_the_whole(file: Path) -> None:
    expected = said(Shard(file.read_bytes()))
    assert said(ShardReader(file)) == expected
    reader = ShardReader(file)
    assert repr(reader.record(3)) == repr(Shard(file.read_bytes()).record(3))
    assert reader.documents[1].name == "b/é.txt" and [d.name for d in reader.documents[:1]] == ["a.txt"]


def test_a_changed_file_gives_the_same_or_an_error(file: Path) -> None:
    good, expected, chance = file.read_bytes(), said(ShardReader(file)), random.Random(0)
    refused = 0
    for number in range(400):
        bad = bytearray(good)
        bad[chance.randrange(len(bad))] ^= 1 << chance.randrange(8)
        file.write_bytes(bad if number % 4 else good[: chance.randrange(len(good))])
        try:
            assert said(ShardReader(file)) == expected
        except ValueError:
            refused += 1
    assert refused > 300


def test_a_changed_vector_leaves_the_other_records_readable(file: Path) -> None:
    data = file.read_bytes()
    begin = 8 + int.from_bytes(data[:8], "little")
    entries, _ = container.read_header(data, shard.FORMAT_NAME)
    bad = bytearray(data)
    bad[begin + entries["vectors"]["data_offsets"][0]] ^= 1
    file.write_bytes(bad)
    reader = ShardReader(file)
    with pytest.raises(ValueError, match="record 0: it does not match its digest"):
        reader.record(0)
    assert [reader.record(row).start for row in (1, 2, 3)] == [40, 0, 40]


HEADERS = {
    "no rows 0 to 9 of 4": None,
    "begins at 1, the last one ends at 0": ('"data_offsets":[0,', '"data_offsets":[1,'),
    "is missing": ('"payload":', '"paylood":'),
    "expected dtype": ('"dtype":"F16"', '"dtype":"I16"'),
    "128 bytes are no": ('"shape":[4,32]', '"shape":[4,31]'),
    "malformed": ('"shape":[4,32]', '"shope":[4,32]'),
    "entry is malformed": ('"shape":[4,32]', '"shape":[4,-2]'),
}


@pytest.mark.parametrize("message", HEADERS)
def test_a_header_that_does_not_fit_its_file_is_refused(file: Path, message: str) -> None:
    changes = HEADERS[message]
    if changes is None:
        with pytest.raises(ValueError, match=message):
            TensorFile(file, shard.FORMAT_NAME, shard.TENSORS).rows("start", 0, 9)
        return
    old, new = (text.encode() for text in changes)
    data = file.read_bytes()
    assert old in data
    file.write_bytes(data.replace(old, new, 1))
    with pytest.raises(ValueError, match=re.escape(message)):
        ShardReader(file)


def test_a_declared_length_is_not_allocated(file: Path) -> None:
    file.write_bytes((1 << 62).to_bytes(8, "little") + file.read_bytes()[8:])
    with pytest.raises(ValueError, match="header declares"):
        ShardReader(file)
