"""Records found by columns are the ones that a naive reading finds."""

from __future__ import annotations

import hashlib
from types import SimpleNamespace
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from store_reference import versions

from memvec.store.documents import RecordRef
from memvec.store.scan import Scan
from memvec.types import Document, Kind

SIZES = (0, 4, 6)
DOCUMENTS = [
    Document(name, size, hashlib.sha256(name.encode() + bytes([size])).hexdigest(), 1, 1)
    for name in ("a", "b")
    for size in SIZES
]
RECORDS = st.tuples(
    st.integers(0, len(DOCUMENTS) - 1), st.sampled_from(list(Kind)), st.integers(0, 6), st.integers(0, 4)
)
SHARDS = st.lists(st.lists(RECORDS, max_size=9), max_size=3)


class FakeShard(SimpleNamespace):
    """The columns of a shard that a scan reads."""

    def __len__(self) -> int:
        return len(self.rows)


def shard(rows: list[tuple[int, Kind, int, int]]) -> Any:
    names = ("document", "kind", "start", "length")
    columns = zip(*rows, strict=True) if rows else [()] * len(names)
    codes = ("<u4", "<u1", "<u8", "<u8")
    tensors = {n: np.array(list(c), code) for n, c, code in zip(names, columns, codes, strict=True)}
    return FakeShard(rows=rows, tensors=tensors, documents=DOCUMENTS)


@settings(max_examples=300, deadline=None)
@given(SHARDS, st.sets(st.sampled_from(DOCUMENTS)))
def test_versions_are_those_of_a_naive_reading(shards: list[Any], removed: set[Document]) -> None:
    gone = {(document.name, document.sha256) for document in removed}
    scan = Scan(gone, counts=False)
    for number, rows in enumerate(shards):
        scan.add(number, shard(rows))
    parts = [
        (RecordRef(number, row, start, length), DOCUMENTS[place], kind)
        for number, rows in enumerate(shards)
        for row, (place, kind, start, length) in enumerate(rows)
    ]
    assert scan.documents() == versions(parts, gone)
