"""`rm`, `compact` and `gc` remove the right files, and a reader keeps the files it has opened."""

from __future__ import annotations

from pathlib import Path

import pytest
from made import Vectors, content, document, exact, files, kv, make, memory, put, raw

import memvec
from memvec.errors import FormatTooNewError, NotFoundError, StoreChangedError, StoreDamagedError
from memvec.maintenance.rewrite import chosen_keys
from memvec.retrieval.faiss_index import VectorIndex, save
from memvec.store import index_files
from memvec.store.lock import writing
from memvec.store.store import Store

TEXT = b"a text of some length, cut into pieces of ten bytes each"
NEWER = b"another text of some length that takes the place of the first"


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A store of two versions of one document, an unfinished document, raw bytes, a memory and metadata."""
    store = tmp_path / "s.memvec"
    put(store, exact("a.txt", TEXT), raw("b/raw.bin", bytes(range(256))), exact("a.txt", NEWER), memory("c.txt", TEXT))
    put(store, exact("half.txt", TEXT)[:3], exact("a.txt", b"an unfinished third version")[:1])
    put(store, exact("b/d.txt", TEXT), meta={"b/d.txt": {"kind": "letter"}, "a.txt": {"kind": "note"}})
    return store


def test_rm(made: Path) -> None:
    """`rm` removes every version of a document, and its metadata."""
    report = memvec.rm(made, ["a.txt", "b/*"])
    assert (report.documents, report.versions, report.dry_run) == (("a.txt", "b/d.txt", "b/raw.bin"), 5, False)
    opened = Store.open(made)
    assert list(opened.documents()) == ["c.txt"] and len(opened.manifest.removed) == 5
    assert not opened.manifest.meta
    assert {v.document.name for v in opened.versions()} == {"c.txt", "half.txt"}
    assert memvec.verify(made).ok
    with pytest.raises(NotFoundError, match="no document"):
        memvec.cat(made, "a.txt")


def test_rm_unfinished(tmp_path: Path) -> None:
    """`rm` removes unfinished documents, and names with glob characters."""
    put(tmp_path / "s", exact("half.txt", TEXT)[:2], exact("[a].txt", TEXT), exact("a.txt", TEXT))
    report = memvec.rm(tmp_path / "s", ["half.txt", "[a].txt"])  # as a pattern, [a].txt would be a.txt
    assert (report.documents, report.versions) == (("[a].txt", "half.txt"), 2)
    assert list(Store.open(tmp_path / "s").documents()) == ["a.txt"]


def test_rm_no_match(made: Path) -> None:
    """`rm` removes nothing if a name matches no document."""
    before = (made / "manifest.json").read_bytes()
    with pytest.raises(NotFoundError, match=r"no document matches 'z\*'; nothing was removed"):
        memvec.rm(made, ["a.txt", "z*"])
    assert memvec.rm(made, ["a.txt"], dry_run=True).records == 6 + 7 + 1
    assert (made / "manifest.json").read_bytes() == before
    with pytest.raises(NotFoundError, match="no store"):
        memvec.rm(made.parent / "none", ["a"])
    assert not (made.parent / "none").exists()


def test_commit_after_rm(made: Path) -> None:
    """A removed document comes back when it is committed again."""
    memvec.rm(made, ["b/raw.bin"])
    put(made, raw("b/raw.bin", bytes(range(256))))
    assert memvec.cat(made, "b/raw.bin") == bytes(range(256))


def test_compact(made: Path) -> None:
    """`compact` keeps live records and drops the others."""
    memvec.rm(made, ["b/d.txt"])
    before, generation = content(made), Store.open(made).manifest.generation
    half = {v.document.name: len(v.records) for v in Store.open(made).versions() if v.unfinished}
    plan = memvec.compact(made, dry_run=True)
    assert content(made) == before and plan.dry_run and plan.changed
    report = memvec.compact(made)
    assert (report.removed, report.superseded, report.shards) == (1, 1, 1)
    assert (report.shards_before, report.bytes, report.collectable) == (7, plan.bytes, report.bytes_before)
    state = Store.open(made).manifest
    assert (state.generation, state.removed, report.dropped_records) == (generation + 1, (), 12)
    assert content(made) == before and memvec.verify(made).ok
    assert {v.document.name: len(v.records) for v in Store.open(made).versions() if v.unfinished} == half
    assert half == {"half.txt": 3, "a.txt": 1}
    assert state.meta == {"a.txt": {"kind": "note"}}


def test_compact_kv(tmp_path: Path) -> None:
    """Kv memories are removed, kept, and taken into new shards as other records are."""
    store = tmp_path / "s"
    put(store, kv("a", TEXT), exact("b", TEXT), kv("b", TEXT, bits=4), kv("b", TEXT, bits=16), kv("half", TEXT, 0, 20))
    assert memvec.rm(store, ["a"]).records == 1
    before = content(store)
    report = memvec.compact(store)
    assert (report.records, report.dropped_records, report.removed, report.shards) == (6 + 1 + 1, 2, 1, 1)
    assert content(store) == before and before["live"]["b"][4] and not memvec.compact(store).changed
    memvec.gc(store)
    assert content(store) == before and memvec.verify(store).ok and len(list((store / "shards").iterdir())) == 1
    (ref,) = Store.open(store).documents()["b"].kv
    kept = Store.open(store).record(ref).kv
    assert kept is not None and kept.bits == 16


def test_compact_kv_shard_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys and values count for the size of a shard."""
    put(tmp_path / "s", *(kv(name, TEXT) for name in "abc"))
    monkeypatch.setattr("memvec.store.transaction.SHARD_BYTES", 1000)
    memvec.merge([tmp_path / "s"], tmp_path / "t")
    assert len(Store.open(tmp_path / "t").manifest.shards) == 3


def test_compact_twice(made: Path) -> None:
    """A second `compact` changes nothing."""
    assert memvec.compact(made).changed
    state = (made / "manifest.json").read_bytes()
    report = memvec.compact(made)
    assert not report.changed and report.collectable == 0 and report.shards == report.shards_before
    assert (made / "manifest.json").read_bytes() == state


def test_compact_shard_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`compact` makes shards of bounded size."""
    monkeypatch.setattr("memvec.store.transaction.SHARD_RECORDS", 4)
    monkeypatch.setattr("memvec.maintenance.rewrite.SHARD_RECORDS", 4)
    put(tmp_path / "s", *([record] for record in exact("a.txt", TEXT * 2)))
    memvec.compact(tmp_path / "s")
    assert [entry.records for entry in Store.open(tmp_path / "s").manifest.shards] == [4, 4, 4]
    assert not memvec.compact(tmp_path / "s").changed
    monkeypatch.setattr("memvec.store.transaction.SHARD_RECORDS", 1024)
    monkeypatch.setattr("memvec.store.transaction.SHARD_BYTES", 40)  # of vectors: 32 bytes a record
    monkeypatch.setattr("memvec.maintenance.rewrite.SHARD_RECORDS", 1024)
    assert memvec.compact(tmp_path / "s").shards == 12


def test_compact_empty(tmp_path: Path) -> None:
    """`compact` works when all documents were removed."""
    put(tmp_path / "s", exact("a.txt", TEXT))
    memvec.rm(tmp_path / "s", ["*"])
    assert memvec.compact(tmp_path / "s").records == 0
    memvec.gc(tmp_path / "s")
    assert files(tmp_path / "s") == {"manifest.json"} and memvec.verify(tmp_path / "s").ok
    put(tmp_path / "s", exact("b.txt", TEXT))
    assert list(Store.open(tmp_path / "s").documents()) == ["b.txt"]


def test_compact_versions(tmp_path: Path) -> None:
    """After `compact` the newest version of a document is still the newest."""
    store = tmp_path / "s"
    put(store, exact("a", TEXT), exact("z", TEXT), exact("a", NEWER), exact("z", NEWER), exact("a", TEXT))
    assert memvec.compact(store).superseded == 2  # the first version of `a` was packed again
    live = {n: v.document.sha256 for n, v in Store.open(store).documents().items()}
    assert live == {"a": document("a", TEXT).sha256, "z": document("z", NEWER).sha256}


def test_compact_keys(made: Path) -> None:
    """`compact` drops keys of removed texts."""
    memvec.rm(made, ["b/d.txt", "c.txt", "half.txt"])  # they share their texts
    before = {e.embedder: e.texts for e in Store.open(made).manifest.keys}
    assert memvec.compact(made).texts_dropped > 0
    opened = Store.open(made)
    live = {opened.record(r).text_sha256 for v in opened.versions() for r in v.records}
    assert [e.embedder for e in opened.manifest.keys] == ["bm25", "noise"] and len(before) == 2
    for entry in opened.manifest.keys:
        part = opened.keys(entry)
        assert {t.tobytes() for t in part.texts} <= live
        assert len(part) == len({t.tobytes() for t in part.texts})


def test_compact_same_keys(made: Path) -> None:
    """`compact` keeps the values of keys."""

    def keys() -> dict[bytes, tuple[bytes, tuple[int, ...], tuple[int, ...]]]:
        opened = Store.open(made)
        found = {}
        for entry in opened.manifest.keys:
            part = opened.keys(entry)
            for row, text in enumerate(part.texts):
                span = slice(int(part.offsets[row]), int(part.offsets[row + 1]))
                terms, counts = tuple(part.terms[span].tolist()), tuple(part.counts[span].tolist())
                found[entry.embedder_id.encode() + text.tobytes()] = part.values[row].tobytes(), terms, counts
        return found

    before = keys()
    memvec.rm(made, ["b/d.txt", "c.txt", "half.txt"])  # they share texts with what stays
    memvec.compact(made)
    after = keys()
    assert 14 < len(after) < len(before) and after.items() <= before.items()


def test_compact_last_key(tmp_path: Path) -> None:
    """Of several keys of a text, `compact` keeps the last."""
    opened = put(tmp_path / "s", exact("a", TEXT), exact("b", TEXT + NEWER))
    entries = [(opened, entry) for entry in opened.manifest.keys if entry.embedder == "noise"]
    text = opened.record(opened.versions()[0].records[0]).text_sha256
    assert [len(part) for part in chosen_keys(entries, {text})] == [0, 1]


def test_gc(made: Path) -> None:
    """`gc` deletes the files that the manifest does not name, and no others."""
    memvec.compact(made)
    named = {entry.path for entry in Store.open(made).manifest.named}
    (made / "notes.txt").write_text("not ours")
    (made / "shards" / "notes.txt").write_text("not ours")
    (made / "shards" / ".tmp-0123").write_bytes(b"unfinished")
    (made / ".tmp-4567").write_bytes(b"unfinished")
    plan = memvec.gc(made, dry_run=True)
    assert files(made) > named and set(plan.files) == files(made) - named - {
        "manifest.json",
        "notes.txt",
        "shards/notes.txt",
    }
    report = memvec.gc(made)
    assert report.files == plan.files and report.bytes == plan.bytes > 1000
    assert files(made) == {*named, "manifest.json", "notes.txt", "shards/notes.txt"}
    assert memvec.verify(made).ok and memvec.gc(made).files == ()


def test_gc_index(made: Path) -> None:
    """`gc` keeps the index of live keys and deletes others."""
    opened = Store.open(made)
    entries = [entry for entry in opened.manifest.keys if entry.embedder == "noise"]
    values = opened.keys(entries[0]).values.astype("f4")
    about = {
        "embedder": "noise",
        "embedder_id": Vectors.embedder.id,
        "factory": "Flat",
        "texts": len(values),
        "width": 8,
    }
    save(made / index_files.FOLDER, VectorIndex.build(values, "Flat"), about | {"keys": (entries[0].sha256,)})
    assert memvec.gc(made).files == ()
    memvec.compact(made)
    assert {f for f in memvec.gc(made).files if f.startswith("index")} == {
        f"index/{Vectors.embedder.id}.{ending}" for ending in ("faiss", "json", "space")
    }


def test_gc_no_manifest(made: Path) -> None:
    """`gc` refuses a store without a manifest."""
    (made / "manifest.json").write_bytes(b"{}")
    there = files(made)
    with pytest.raises(StoreDamagedError):
        memvec.gc(made)
    assert files(made) == there


def test_read_during_compact(made: Path) -> None:
    """A reader goes on during a `compact`."""
    reader, before = Store.open(made), content(made)
    memvec.rm(made, ["c.txt"])
    memvec.compact(made)
    read = {n: [reader.record(r).text_sha256 for r in (*v.records, *v.memory)] for n, v in reader.documents().items()}
    assert set(read) == set(before["live"]) and "c.txt" in read


def test_read_after_gc(made: Path) -> None:
    """A reader of an older generation gets a StoreChangedError after `gc`."""
    reader = Store.open(made)
    memvec.compact(made)
    memvec.gc(made)
    with pytest.raises(StoreChangedError, match=r"was removed while it was read: generation 7 was opened, .* at 8"):
        reader.documents()
    (made / Store.open(made).manifest.shards[0].path).unlink()
    with pytest.raises(StoreDamagedError, match="not there"):  # no newer generation: it is lost
        Store.open(made).documents()


def test_newer_store(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No verb changes a store that a newer memvec has added to."""
    import memvec.formats.manifest as format_module

    newer = Store.open(made).manifest
    monkeypatch.setattr(format_module, "VERSION", (1, 7))
    data = format_module.encode(newer)
    monkeypatch.undo()
    (made / "manifest.json").write_bytes(data)
    for change in (
        lambda: memvec.rm(made, ["a.txt"]),
        lambda: memvec.compact(made),
        lambda: memvec.gc(made),
        lambda: memvec.merge([made], made),
        lambda: memvec.repair(made, yes=True),
    ):
        with pytest.raises(FormatTooNewError, match=r"format 1\.7"):
            change()
    assert (made / "manifest.json").read_bytes() == data


def test_dry_run_missing_store(tmp_path: Path) -> None:
    """A dry run on a missing store creates nothing."""
    put(tmp_path / "a", exact("a", TEXT))
    assert memvec.merge([tmp_path / "a"], tmp_path / "b", dry_run=True).documents == 1
    assert not (tmp_path / "b").exists()
    with writing(tmp_path / "c"):
        make(tmp_path / "c")
    assert not (tmp_path / "c").exists()  # nothing was committed
