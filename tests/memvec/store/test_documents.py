"""Stores with context records: how content and memory are put together, each on its own."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import numpy as np
import pytest
from made_kv import keys_values

import memvec
from memvec.errors import NoContentError, NotFoundError, PartialError, StoreDamagedError
from memvec.formats import manifest
from memvec.formats.manifest import Manifest
from memvec.packing.records import context_record, kv_record, raw_records
from memvec.store.store import Store, StoredDocument
from memvec.store.transaction import Transaction
from memvec.types import Conditioning, Document, Fingerprint, Kind, RawReason, Record

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


def kv(data: bytes = OLD, begin: int = 0, end: int | None = None, name: str = "a.txt", seed: int = 0) -> list[Record]:
    """A kv record for a part of a document, all of it by default."""
    piece = data[begin:end]
    return [kv_record(document(data, name), begin, piece, 12, keys_values(seed), REPORT, width=WIDTH)]


@pytest.fixture
def empty(tmp_path: Path) -> Transaction:
    """A transaction of a store without records."""
    fingerprint = Fingerprint("w", "e", {"hidden_size": WIDTH}, "v", "p", WIDTH, "somewhere")
    return Transaction.create(tmp_path / "s.memvec", Manifest(fingerprint, 500))


def test_the_first_context_record_marks_the_store_for_good(empty: Transaction) -> None:
    empty.commit(content())
    assert Store.open(empty.path).manifest.required == ()
    empty.commit([*content(NEW), *memory()])
    empty.commit(content(NEW, name="b.txt"))
    assert Store.open(empty.path).manifest.required == (manifest.CONTEXT,)


def test_context_records_in_a_store_that_does_not_name_them_are_refused(empty: Transaction) -> None:
    empty.commit(memory())
    unmarked = dataclasses.replace(empty.store.manifest, required=())
    (empty.path / manifest.FILE_NAME).write_bytes(manifest.encode(unmarked))
    with pytest.raises(StoreDamagedError, match="feature 'context'"):
        Store.open(empty.path).shard(0)


def test_the_first_kv_record_marks_the_store_for_good(empty: Transaction) -> None:
    empty.commit(content())
    assert Store.open(empty.path).manifest.required == ()
    empty.commit(kv())
    empty.commit(memory())
    assert Store.open(empty.path).manifest.required == (manifest.CONTEXT, manifest.KV)
    unmarked = dataclasses.replace(empty.store.manifest, required=(manifest.CONTEXT,))
    (empty.path / manifest.FILE_NAME).write_bytes(manifest.encode(unmarked))
    with pytest.raises(StoreDamagedError, match="feature 'kv'"):
        Store.open(empty.path).documents()


def live(store: Transaction) -> StoredDocument:
    """The one live document, as a reader of the disk finds it."""
    (stored,) = Store.open(store.path).documents().values()
    return stored


def starts(stored: StoredDocument) -> tuple[list[int], list[int]]:
    """Where the records of content and memory begin."""
    return [ref.start for ref in stored.records], [ref.start for ref in stored.memory]


def test_content_only(empty: Transaction) -> None:
    empty.commit([*content(end=60), *content(begin=60)])
    stored = live(empty)
    assert starts(stored) == ([0, 60], [])
    assert (stored.complete, stored.usable, stored.unfinished) == (True, True, False)


def test_memory_only(empty: Transaction) -> None:
    empty.commit([*memory(begin=60), *memory(end=60)])
    stored = live(empty)
    assert starts(stored) == ([], [0, 60])
    assert (stored.complete, stored.usable, stored.unfinished) == (False, True, False)


def test_content_and_memory_are_joined_independently(empty: Transaction) -> None:
    """Cut at different places, and with the same starts."""
    empty.commit([*content(end=60), *memory(end=30), *content(begin=60), *memory(begin=30)])
    stored = live(empty)
    assert starts(stored) == ([0, 60], [0, 30])
    assert stored.complete and not stored.unfinished
    assert memvec.cat(empty.path, "a.txt") == OLD


def test_a_memory_added_later_joins_the_document_that_is_there(empty: Transaction) -> None:
    empty.commit(content())
    empty.commit(memory())
    assert starts(live(empty)) == ([0], [0])
    assert memvec.cat(empty.path, "a.txt") == OLD


def test_of_two_memories_with_one_start_the_later_counts(empty: Transaction) -> None:
    empty.commit([*content(), *memory(count=2)])
    empty.commit([*memory(count=3)])
    (ref,) = live(empty).memory
    assert len(empty.store.record(ref).vectors) == 3


def test_an_interrupted_memory_leaves_the_content_alone(empty: Transaction) -> None:
    empty.commit([*content(), *memory(end=60)])
    stored = live(empty)
    assert (stored.complete, stored.memory, stored.unfinished) == (True, (), True)
    assert [ref.start for ref in stored.unjoined] == [0]
    assert memvec.cat(empty.path, "a.txt") == OLD
    empty.commit(memory(begin=60))
    assert starts(live(empty)) == ([0], [0, 60])
    assert live(empty).unjoined == () and not live(empty).unfinished


def test_interrupted_content_beside_a_whole_memory(empty: Transaction, tmp_path: Path) -> None:
    empty.commit([*memory(), *content(end=60)])
    stored = live(empty)
    assert (stored.complete, stored.usable, stored.unfinished) == (False, True, True)
    with pytest.raises(NotFoundError, match="incomplete"):
        memvec.cat(empty.path, "a.txt")
    with pytest.raises(NotFoundError, match="incomplete"):
        list(memvec.read(empty.path))
    empty.commit(content(NEW, name="b.txt"))
    with pytest.raises(PartialError, match=r"a\.txt: incomplete"):
        memvec.unpack(empty.path, tmp_path / "out")
    empty.commit(content(begin=60))
    assert memvec.unpack(empty.path, tmp_path / "out", overwrite=True).files == ("a.txt", "b.txt")


def test_half_of_each_is_not_live(empty: Transaction) -> None:
    empty.commit([*content(end=60), *memory(begin=60)])
    assert empty.store.documents() == {}
    (version,) = empty.store.versions()
    assert version.unfinished and len(version.records) == len(version.unjoined) == 1


def test_content_and_both_memories_stand_each_alone(empty: Transaction) -> None:
    empty.commit(kv(end=60))
    assert empty.store.documents() == {} and empty.store.versions()[0].unfinished
    empty.commit(kv(begin=60))
    stored = live(empty)
    assert (stored.complete, stored.memory, stored.usable, stored.unfinished) == (False, (), True, False)
    assert [ref.start for ref in stored.kv] == [0, 60] and stored.memory_of(Kind.KV) == stored.kv
    empty.commit([*memory(end=60), *content()])
    stored = live(empty)
    assert stored.complete and len(stored.kv) == 2 and stored.unjoined == stored.memory_of(Kind.CONTEXT) != ()
    empty.commit(memory(begin=60))
    assert len(live(empty).memory) == 2 and len(live(empty).kv) == 2 and not live(empty).unfinished
    assert memvec.cat(empty.path, "a.txt") == OLD


def test_unfinished_memories_are_told_apart(empty: Transaction) -> None:
    """A pack that goes on with one of them finds its own records."""
    empty.commit([*kv(begin=60, seed=1), *memory(end=60), *kv(end=30, seed=2)])
    (stored,) = empty.store.versions()
    kinds = [empty.store.record(ref).kind for ref in stored.unjoined]
    assert kinds == [Kind.CONTEXT, Kind.KV, Kind.KV] and not stored.usable
    assert [(ref.start, ref.length) for ref in stored.memory_of(Kind.CONTEXT)] == [(0, 60)]
    assert [(ref.start, ref.length) for ref in stored.memory_of(Kind.KV)] == [(60, 40), (0, 30)]


def test_of_two_kv_records_with_one_start_the_later_counts(empty: Transaction) -> None:
    empty.commit(kv(seed=1))
    empty.commit(kv(seed=2))
    (ref,) = live(empty).kv
    found = empty.store.record(ref).kv
    assert found is not None and found.keys.tobytes() == keys_values(2).keys.tobytes()


def test_a_newer_version_with_only_a_kv_memory_is_live(empty: Transaction, tmp_path: Path) -> None:
    empty.commit([*content(OLD), *kv(OLD)])
    empty.commit(kv(NEW))
    assert live(empty).document.sha256 == document(NEW).sha256
    with pytest.raises(NoContentError):
        memvec.cat(empty.path, "a.txt")
    with pytest.raises(NoContentError):
        memvec.unpack(empty.path, tmp_path / "out")


def test_verify_checks_kv_records_and_decodes_none(empty: Transaction) -> None:
    empty.commit([*content(), *kv(), *memory(), *kv(name="b.txt", end=60)])
    for decode, decoded in ((False, 0), (True, 1)):
        report = memvec.verify(empty.path, decode=decode)
        assert report.ok, report.problems
        assert (report.records, report.decoded, report.kv_records, report.context_records) == (4, decoded, 2, 1)
        assert report.incomplete == ("b.txt",)
    wrong = dataclasses.replace(kv()[0], payload=content()[0].payload)
    empty.commit([wrong])
    (problem,) = memvec.verify(empty.path).problems
    assert problem.location.endswith("record 0") and problem.code == "not-json"


def test_a_newer_version_with_only_a_memory_is_live(empty: Transaction) -> None:
    empty.commit([*content(OLD), *memory(OLD)])
    empty.commit(memory(NEW))
    stored = live(empty)
    assert stored.document.sha256 == document(NEW).sha256 and not stored.complete
    with pytest.raises(NoContentError):
        memvec.cat(empty.path, "a.txt")
    empty.commit(content(OLD))
    assert memvec.cat(empty.path, "a.txt") == OLD
    assert live(empty).memory


def test_half_a_memory_of_a_newer_version_hides_nothing(empty: Transaction) -> None:
    empty.commit(content(OLD))
    empty.commit(memory(NEW, end=60))
    assert memvec.cat(empty.path, "a.txt") == OLD


def test_bytes_of_a_memory_are_refused(empty: Transaction, tmp_path: Path) -> None:
    empty.commit([*memory(name="a.txt"), *memory(NEW, name="b.txt")])
    with pytest.raises(NoContentError, match=r"'b\.txt': expected exact or raw .* found only a memory.*kind='exact'"):
        memvec.cat(empty.path, "b.txt")
    with pytest.raises(NoContentError, match="and 1 more"):
        memvec.unpack(empty.path, tmp_path / "out")
    with pytest.raises(NoContentError, match=r"a\.txt"):
        list(memvec.read(empty.path, ["a*"]))
    assert not (tmp_path / "out").exists()


def test_unpack_writes_what_has_content_and_names_the_rest(empty: Transaction, tmp_path: Path) -> None:
    empty.commit([*memory(name="a.txt"), *content(NEW, name="b.txt"), *memory(NEW, name="b.txt")])
    with pytest.raises(PartialError, match=r"Everything else was unpacked.\n  a\.txt: .*only a memory") as caught:
        memvec.unpack(empty.path, tmp_path / "out")
    assert caught.value.report is not None and caught.value.report.documents == 1
    assert [name for name, _ in caught.value.skipped] == ["a.txt"]
    assert [(p.name, p.read_bytes()) for p in (tmp_path / "out").iterdir()] == [("b.txt", NEW)]
    assert memvec.unpack(empty.path, tmp_path / "two", documents=["b*"]).files == ("b.txt",)
    given = memvec.read(empty.path)
    assert next(given) == ("b.txt", NEW)
    with pytest.raises(PartialError, match="Everything else was read"):
        next(given)


def test_verify_checks_context_records_and_decodes_none(empty: Transaction) -> None:
    """No model is loaded: there is none to be had under the name in this store."""
    empty.commit([*content(), *memory(), *memory(NEW, name="b.txt"), *memory(name="c.txt", end=60)])
    for decode, decoded in ((False, 0), (True, 1)):
        report = memvec.verify(empty.path, decode=decode)
        assert report.ok, report.problems
        assert (report.records, report.documents, report.decoded, report.incomplete) == (4, 2, decoded, ("c.txt",))


def test_verify_finds_a_context_record_that_is_malformed(empty: Transaction) -> None:
    """Every digest is right; what the payload holds is not."""
    (good,) = memory()
    empty.commit([dataclasses.replace(good, payload=content()[0].payload)])
    (problem,) = memvec.verify(empty.path).problems
    assert problem.location.endswith("record 0") and problem.code == "not-json"


def test_exact_records_are_packed_for_a_document_that_has_a_memory(store: Path, tiny: str) -> None:
    data = b"\xff no text, so that nothing has to be fitted"
    source = memvec.Source("a.bin", data)
    opened = Store.open(store)
    width = opened.manifest.fingerprint.width
    (record,) = memory(data, name="a.bin")
    Transaction(opened).commit([dataclasses.replace(record, vectors=np.ones((2, width), np.float16))])
    assert memvec.pack([source], store, model=tiny).unchanged == 0
    assert memvec.cat(store, "a.bin") == data
    assert Store.open(store).documents()["a.bin"].memory
    assert memvec.pack([source], store, model=tiny).unchanged == 1
