"""Stores with context records: how content and memory are put together, each on its own."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import numpy as np
import pytest

from memvec.errors import StoreDamagedError
from memvec.formats import manifest
from memvec.formats.manifest import Manifest
from memvec.records import context_record, raw_records
from memvec.store import Store
from memvec.types import Conditioning, Document, Fingerprint, RawReason, Record

WIDTH = 4
REPORT = Conditioning(0.5, 0.1, 0.25, 0.01, 3.0, 2.0, 2.5, 8, "questions", 0)
OLD, NEW = b"a" * 60 + b"b" * 40, b"c" * 100


def document(data: bytes = OLD, name: str = "a.txt") -> Document:
    return Document(name, len(data), hashlib.sha256(data).hexdigest(), 20, 50)


def content(data: bytes = OLD, begin: int = 0, end: int | None = None, name: str = "a.txt") -> list[Record]:
    """Records that hold a part of a document, all of it by default."""
    return raw_records(document(data, name), begin, data[begin:end], 0, RawReason.NOT_TEXT, WIDTH)


def memory(
    data: bytes = OLD, begin: int = 0, end: int | None = None, name: str = "a.txt", count: int = 2, **changes: object
) -> list[Record]:
    """A context record of `count` vectors for a part of a document, all of it by default."""
    report = dataclasses.replace(REPORT, **changes)  # type: ignore[arg-type]
    vectors = np.full((count, WIDTH), 0.5, np.float16)
    piece = data[begin:end]
    return [context_record(document(data, name), begin, piece, len(piece) // 2, vectors, report)]


@pytest.fixture
def empty(tmp_path: Path) -> Store:
    """A store without records."""
    fingerprint = Fingerprint("w", "e", {"hidden_size": WIDTH}, "v", "p", WIDTH, "somewhere")
    return Store.create(tmp_path / "s.memvec", Manifest(fingerprint, 500))


def test_the_first_context_record_marks_the_store_for_good(empty: Store) -> None:
    empty.commit(content())
    assert Store.open(empty.path).manifest.required == ()
    empty.commit([*content(NEW), *memory()])
    empty.commit(content(NEW, name="b.txt"))
    assert Store.open(empty.path).manifest.required == (manifest.CONTEXT,)


def test_context_records_in_a_store_that_does_not_name_them_are_refused(empty: Store) -> None:
    empty.commit(memory())
    unmarked = dataclasses.replace(empty.manifest, required=())
    (empty.path / manifest.FILE_NAME).write_bytes(manifest.encode(unmarked))
    with pytest.raises(StoreDamagedError, match="feature 'context'"):
        Store.open(empty.path).shard(0)
