"""The committer: when finished records go into the store, and that each goes in once."""

from __future__ import annotations

import hashlib
from pathlib import Path

import made
import pytest

from memvec.packing import commit
from memvec.packing.commit import Committer
from memvec.packing.records import raw_records
from memvec.store.store import Store
from memvec.store.transaction import Transaction
from memvec.types import Document, RawReason, Record


@pytest.fixture
def committer(store: Path) -> Committer:
    return Committer(Transaction.open(store))


def record(data: bytes, name: str = "new", width: int = 128) -> Record:
    document = Document(name, len(data), hashlib.sha256(data).hexdigest(), len(data), 0)
    return raw_records(document, 0, data, 0, RawReason.NOT_TEXT, width)[0]


def generation(committer: Committer) -> int:
    return Store.open(committer.transaction.path).manifest.generation


class TestWhen:
    """Records wait for a full shard or for two minutes."""

    def test_they_wait(self, committer: Committer) -> None:
        before = generation(committer)
        committer.add(record(b"\xff1"))
        assert generation(committer) == before and not committer.finished
        committer.commit()
        assert generation(committer) == before + 1 and committer.finished == 1 and not committer.pending

    @pytest.mark.parametrize(("limit", "value"), [("COMMIT_RECORDS", 2), ("COMMIT_BYTES", 400)])
    def test_for_a_full_shard(
        self, committer: Committer, limit: str, value: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(commit, limit, value)
        committer.add(record(bytes(range(128, 256)) * 2, "a"))
        assert not committer.finished
        committer.add(record(bytes(range(127, 255)) + bytes(range(256)), "b"))
        assert committer.finished == 2

    def test_until_no_more_follow(self, committer: Committer, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(commit, "COMMIT_SECONDS", -1.0)
        committer.add(record(b"\xff1", "a"), more=True)
        assert not committer.finished
        committer.add(record(b"\xff2", "b"))
        assert committer.finished == 2


class TestKv:
    """Keys and values are large, and are found again by their text."""

    @pytest.fixture
    def committer(self, tmp_path: Path) -> Committer:
        return Committer(made.make(tmp_path / "s"))

    def test_their_bytes_count(self, committer: Committer, monkeypatch: pytest.MonkeyPatch) -> None:
        (one,) = made.kv("a", made.TEXT)
        assert one.kv is not None
        size = one.kv.nbytes + len(one.payload)
        monkeypatch.setattr(commit, "COMMIT_BYTES", size + 1)
        committer.add(one)
        assert not committer.finished
        committer.add(*made.kv("b", made.NEWER))
        assert committer.finished == 2 and len(committer.store.manifest.shards) == 2

    @pytest.mark.parametrize("committed", [False, True])
    def test_they_are_found_by_text(self, committer: Committer, committed: bool) -> None:
        (one,) = made.kv("a", made.TEXT)
        committer.add(one)
        committer.add(*made.memory("a", made.TEXT))
        if committed:
            committer.commit()
        found = committer.kv([one.text_sha256, b"?" * 32], lambda record: True)
        assert [r.kv.keys.tobytes() for r in found.values() if r.kv] == [one.kv.keys.tobytes() if one.kv else b""]
        assert committer.kv([one.text_sha256], lambda record: record.kv is None or record.kv.bits == 4) == {}


class TestOnce:
    """Interrupts come anywhere."""

    def test_a_record_that_is_given_again(self, committer: Committer) -> None:
        one = record(b"\xff1")
        committer.add(one)
        committer.add(one)
        committer.commit()
        committer.add(one)
        assert committer.finished == 1 and not committer.pending

    def test_an_interrupt_after_a_commit(self, committer: Committer, monkeypatch: pytest.MonkeyPatch) -> None:
        real, came = Transaction.commit, []

        def interrupted(self: Transaction, *rest: object) -> None:
            real(self, *rest)  # type: ignore[arg-type]
            if not came:
                came.append(1)
                raise KeyboardInterrupt

        monkeypatch.setattr(Transaction, "commit", interrupted)
        monkeypatch.setattr(commit, "COMMIT_RECORDS", 1)
        committer.pending += [record(b"\xff1", "a"), record(b"\xff2", "b")]
        committer.commit_through()
        assert not committer.pending and {"a", "b"} <= set(Store.open(committer.transaction.path).documents())
