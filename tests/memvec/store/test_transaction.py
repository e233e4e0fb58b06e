"""A transaction moves a store from one state to the next; a `Store` never changes."""

from __future__ import annotations

from pathlib import Path

import pytest
from made import TEXT, exact, make, raw

from memvec.errors import NotFoundError, StoreLockedError, WriteError
from memvec.formats import files
from memvec.store.lock import LOCK_NAME, writing
from memvec.store.store import Store
from memvec.store.transaction import Transaction, changing


def test_a_store_that_was_handed_out_keeps_its_state(tmp_path: Path) -> None:
    transaction = make(tmp_path / "s")
    before = transaction.store
    transaction.commit(exact("a", TEXT))
    assert before.manifest.generation == 0 and before.documents() == {}
    assert transaction.store.manifest.generation == 1 and list(transaction.store.documents()) == ["a"]
    assert Store.open(tmp_path / "s").manifest == transaction.store.manifest


def test_a_commit_that_fails_leaves_the_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    transaction = make(tmp_path / "s")
    transaction.commit(exact("a", TEXT))
    before = transaction.store

    def full(path: Path, data: bytes) -> None:
        raise WriteError(str(path), "no space")

    for name in ("write_atomically", "make_folder"):
        with monkeypatch.context() as patch, pytest.raises(WriteError):
            patch.setattr(files, name, full if name == "write_atomically" else lambda path, inside: full(path, b""))
            transaction.commit(raw("b", b"1"), removed=[("a", "0" * 64)])
        assert transaction.store is before
        assert Store.open(tmp_path / "s").manifest == before.manifest


def test_what_explains_the_model_is_written_with_the_next_commit(tmp_path: Path) -> None:
    transaction = make(tmp_path / "s")
    transaction.explain({"layer": "0" * 16}, {"width": 4})
    assert Store.open(tmp_path / "s").manifest.tensors == {}
    transaction.commit(raw("b", b"1"))
    state = Store.open(tmp_path / "s").manifest
    assert (state.tensors, state.probe, state.generation) == ({"layer": "0" * 16}, {"width": 4}, 1)


def test_changing_holds_the_lock_of_a_store_that_is_there(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError), changing(tmp_path / "s"):
        pass
    assert not (tmp_path / "s").exists()
    make(tmp_path / "s")
    with changing(tmp_path / "s", dry_run=True):
        assert not (tmp_path / "s" / LOCK_NAME).exists()
    with changing(tmp_path / "s") as transaction:
        assert isinstance(transaction, Transaction) and transaction.path == tmp_path / "s"
        with pytest.raises(StoreLockedError), writing(tmp_path / "s"):
            pass
