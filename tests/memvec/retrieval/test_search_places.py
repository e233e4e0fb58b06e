"""A search knows the records that a naive reading of the store finds."""

from __future__ import annotations

from pathlib import Path

import pytest
from random_stores import random_store

from memvec.retrieval.search import Place, live_places
from memvec.store.store import Store
from memvec.types import RawReason


def naive(store: Store) -> dict[bytes, list[Place]]:
    found: dict[bytes, list[Place]] = {}
    for name, stored in store.documents().items():
        for ref in stored.records if stored.complete else stored.memory or stored.kv:
            record = store.record(ref)
            if record.reason != RawReason.NOT_TEXT:
                found.setdefault(record.text_sha256, []).append(Place(name, ref))
    return found


@pytest.mark.parametrize("seed", range(20))
def test_places(tmp_path: Path, seed: int) -> None:
    store = random_store(tmp_path / "s.memvec", seed)
    assert live_places(store) == naive(store)
