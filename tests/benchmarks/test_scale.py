"""benchmarks/scale.py makes a store that verify accepts, and measures every command."""

from __future__ import annotations

from pathlib import Path

import scale

import memvec
from memvec.store import catalogue


def test_store(tmp_path: Path) -> None:
    store = scale.make(tmp_path / "s.memvec", 2500, 100)
    report = memvec.verify(store.path)
    assert report.ok, report.problems
    assert (report.records, report.documents, report.shards, report.incomplete) == (2500, 25, 3, ())
    assert memvec.info(store.path).tokens_per_vector == scale.TOKENS
    assert memvec.list(store.path)[0].records == 100


def test_one_record_each(tmp_path: Path) -> None:
    store = scale.make(tmp_path / "s.memvec", 1100, 1)
    assert memvec.verify(store.path).ok and memvec.info(store.path).documents == 1100


def test_commands(tmp_path: Path) -> None:
    result = scale.scale(tmp_path, catalogue.LEAST_RECORDS, 100, 20, 1)
    assert result["catalogue_bytes"] > 100_000
    assert list(result["commands"])[:3] == list(result["without_catalogue"])
    for run in (*result["commands"].values(), *result["without_catalogue"].values()):
        assert 0.05 < run["seconds"] < 60 and 10e6 < run["bytes"] < 500e6
    assert "| info | " in scale.table([result])
    assert list(tmp_path.iterdir()) == []
