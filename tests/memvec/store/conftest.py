"""What the tests of catalogues share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from memvec.store import catalogue
from memvec.store.store import Store


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> Callable[[Store], Path]:
    """Writes the catalogue of any store that has a record."""

    def write(store: Store) -> Path:
        with monkeypatch.context() as patch:
            patch.setattr(catalogue, "LEAST_RECORDS", 1)
            found = catalogue.refresh(store)
        assert found is not None and found.is_file()
        return found

    return write
