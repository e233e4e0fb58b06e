"""A scan that goes on from an earlier catalogue is the scan of all shards."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made import TEXT, exact, put, raw
from random_stores import random_store, some_records

import memvec
from memvec.errors import StoreDamagedError
from memvec.store import catalogue
from memvec.store.scan import Scan
from memvec.store.store import Store
from memvec.store.transaction import Transaction


class TestScans:
    """A scan goes on from that of an earlier catalogue."""

    @pytest.mark.parametrize("seed", range(12))
    def test_is_the_scan_of_all_shards(self, tmp_path: Path, kept: Callable[[Store], Path], seed: int) -> None:
        store = random_store(tmp_path / "s.memvec", seed)
        if not store.manifest.shards:
            return
        kept(store)
        chance, transaction = random.Random(seed + 100), Transaction.open(store.path)
        for _ in range(chance.randint(0, 2)):
            transaction.commit(some_records(chance))
        assert same(catalogue.scan(transaction.store), transaction.store.scan(counts=True))

    def test_reads_new_shards_only(
        self, tmp_path: Path, kept: Callable[[Store], Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store, read = put(tmp_path / "s.memvec", exact("a", TEXT), exact("b", TEXT)), list[int]()
        kept(store)
        opened, reader = put(store.path, exact("c", TEXT)), Store.reader
        monkeypatch.setattr(Store, "reader", lambda self, number: read.append(number) or reader(self, number))
        assert same(catalogue.scan(opened), opened.scan(counts=True))
        assert read == [2, 0, 1, 2]
        with pytest.raises(StoreDamagedError):
            (store.path / store.manifest.shards[0].path).unlink()
            catalogue.scan(opened)

    def test_after_a_removal_all_shards_are_read(self, tmp_path: Path, kept: Callable[[Store], Path]) -> None:
        store = put(tmp_path / "s.memvec", exact("a", TEXT), exact("b", TEXT))
        kept(store)
        memvec.rm(store.path, "a")
        opened = Store.open(store.path)
        assert [d.name for d in catalogue.scan(opened).versions] == ["b"]
        assert same(catalogue.scan(opened), opened.scan(counts=True))

    def test_a_damaged_catalogue_is_passed_over(self, tmp_path: Path, kept: Callable[[Store], Path]) -> None:
        store = put(tmp_path / "s.memvec", exact("a", TEXT), exact("b", TEXT))
        file = kept(store)
        data = file.read_bytes()
        expected = store.scan(counts=True)
        for place in range(0, len(data), 97):
            file.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
            assert same(catalogue.scan(store), expected)

    @pytest.mark.parametrize(
        "changes",
        [
            {"scan_version": np.array([0, 7])},
            {"scan_version": np.array([0, 0])},
            {"scan_row": np.array([0])},
            {"scan_lengths": np.array([1, 2])},
            {"scan_sha256": np.zeros((1, 32), np.uint8)},
            {"scan_sizes": np.zeros((3, 3), np.uint64)},
            {"scanned": np.frombuffer(b"[]", np.uint8)},
        ],
    )
    def test_columns_that_contradict_each_other_are_passed_over(
        self, tmp_path: Path, kept: Callable[[Store], Path], monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
    ) -> None:
        store, build = put(tmp_path / "s.memvec", raw("a", b"x"), raw("b", b"y")), catalogue.build
        monkeypatch.setattr(catalogue, "build", lambda *of: build(*of) | changes)
        kept(store)
        assert same(catalogue.scan(store), store.scan(counts=True))


def same(one: Scan, other: Scan) -> bool:
    columns = all(np.array_equal(one.columns[name], column) for name, column in other.columns.items())
    return columns and list(one.versions) == list(other.versions) and one.shards == other.shards
