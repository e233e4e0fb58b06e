"""benchmarks/numerics.py counts identical, rescued and wrong records rightly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numerics
import pytest
import torch

from memvec.store.store import Store


def test_configurations(packed: Path, tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numerics, "BATCHES", (2,))
    records = numerics.read_records(Store.open(packed), 3)
    before = torch.get_num_threads()
    outcomes, exact = numerics.compare(Path(tiny), records)
    assert torch.get_num_threads() == before
    assert {(o.attention, o.threads, o.batch) for o in outcomes} == {
        (attention, threads, batch) for attention in ("sdpa", "eager") for threads in (1, 2) for batch in (2,)
    }
    assert all((o.identical, o.alone, o.canonical, o.wrong) == (3, 0, 0, 0) for o in outcomes)
    assert sum(map(len, exact)) == sum(r.tokens - len(r.corrections) for r in records)
    assert min(map(min, exact)) > 0.09
    assert all(o.moved is not None and o.moved < 0.01 for o in outcomes)
    assert "| sdpa | 1 | 2 | 3 of 3 | 0 | 0 | 0 |" in numerics.tables(outcomes, exact, records)


def test_rescued(packed: Path, tiny_lm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    records = numerics.read_records(Store.open(packed), 5)
    real = numerics.decode_all

    def decode_all(lm: Any, records: Any, batch: int) -> Any:
        rows = real(lm, records, batch)
        for row in rows[:2]:
            row[0] = (row[0] + 1) % lm.vocabulary
        return rows

    monkeypatch.setattr(numerics, "decode_all", decode_all)
    found = numerics.outcome(tiny_lm, tiny_lm, records, "sdpa", 1, 3, None)
    assert (found.identical, found.alone, found.canonical, found.wrong) == (3, 2, 0, 0)
