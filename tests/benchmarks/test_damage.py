"""A short run of benchmarks/damage.py, and a check that it would notice a fault."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import damage
import pytest
from damages import SORTS, Sort

import memvec


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return damage.pack(tmp_path_factory.mktemp("damage"))


def test_short_run(damaged: Path) -> None:
    whole = damage.contents(damaged)
    assert Counter(name.partition("/")[0] for name in whole)["shards"] == 2
    cases = damage.run(damaged, 150, seed=1)
    assert [case for case in cases if case.failure] == []
    assert damage.contents(damaged) == whole  # every case began with a whole store
    assert {case.sort for case in cases} == {sort.__name__ for sort in SORTS}
    assert {case.file for case in cases} == {"manifest.json", "shards", "keys", "LOCK"}
    outcomes = Counter(case.outcome for case in cases)
    assert outcomes["identical"] and outcomes["StoreDamagedError: digest_mismatch"]
    assert outcomes["StoreDamagedError: missing_file"] and outcomes["StoreDamagedError: invalid_value"]
    assert "| **all** | 150 |" in damage.tables(cases)


def test_failure_is_noticed(damaged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = dict.fromkeys(damage.TRUTH, b"other bytes")
    with damage.decoded_once():
        assert damage.judge(damaged, "none", "", False).failure == ""
        assert damage.judge(damaged, "none", "", True).failure == "verify found nothing"
        with monkeypatch.context() as patched:
            patched.setattr(memvec, "read", lambda store, on_error="fail": iter(other.items()))
            assert "other documents" in damage.judge(damaged, "none", "", False).failure
        with monkeypatch.context() as patched:
            patched.setattr(memvec, "verify", lambda store: 1 / 0)
            assert "ZeroDivisionError" in damage.judge(damaged, "none", "", False).failure


@pytest.mark.parametrize("sort", SORTS)
def test_damages(damaged: Path, sort: Sort) -> None:
    files, chance = damage.contents(damaged), random.Random(0)
    name = next(name for name in files if name.startswith("shards/"))
    made = [sort(chance, files, name) for _ in range(10)]
    assert any(changes and any(files.get(path) != data for path, data in changes.items()) for changes in made)
