"""merge: the documents of several stores in one."""

from __future__ import annotations

from pathlib import Path

import pytest
from made import OTHER, content, document, exact, files, kv, make, memory, put, raw
from made_kv import keys_values

import memvec
from memvec.errors import StoresDifferError, UsageError
from memvec.formats.manifest import CONTEXT, KV
from memvec.store.lock import writing
from memvec.store.store import Store

TEXT = b"a text of some length, cut into pieces of ten bytes each"
NEWER = b"another text of some length that takes the place of the first"


@pytest.fixture
def stores(tmp_path: Path) -> tuple[Path, Path, Path]:
    """Two stores that have a name in common, and where they are to be merged."""
    a, b = tmp_path / "a", tmp_path / "b"
    put(a, exact("same", TEXT), exact("both", TEXT), raw("only a", b"raw bytes"), exact("half", TEXT)[:2])
    put(a, exact("gone", TEXT), meta={"both": {"from": "a"}, "only a": {"from": "a"}})
    memvec.rm(a, ["gone"])
    put(b, exact("same", TEXT), exact("both", NEWER), memory("only b", TEXT), meta={"both": {"from": "b"}})
    return a, b, tmp_path / "c"


def test_documents_of_later_stores_win_and_removed_ones_stay_away(stores: tuple[Path, Path, Path]) -> None:
    a, b, c = stores
    before = content(a), content(b)
    plan = memvec.merge([a, b], c, dry_run=True)
    report = memvec.merge([a, b], c)
    assert (report.documents, report.replaced, report.bytes) == (4, 1, plan.bytes)
    assert (content(a), content(b)) == before
    live = Store.open(c).documents()
    assert list(live) == ["both", "only a", "only b", "same"]
    assert live["both"].document == document("both", NEWER) and live["only b"].memory
    found = content(c)
    assert found["live"] == before[0]["live"] | before[1]["live"]
    assert found["unfinished"] == before[0]["unfinished"] != []
    assert found["meta"] == {"both": {"from": "b"}, "only a": {"from": "a"}}
    assert [len(keys) for keys in found["keys"].values()] == [14, 14]
    state = Store.open(c).manifest
    assert CONTEXT in state.required and not state.removed and len(state.shards) == 1
    assert memvec.verify(c).ok and memvec.cat(c, "only a") == b"raw bytes"


def test_the_order_of_the_stores_decides(stores: tuple[Path, Path, Path]) -> None:
    a, b, c = stores
    memvec.merge([b, a], c)
    assert Store.open(c).documents()["both"].document == document("both", TEXT)


def test_a_merge_done_twice_changes_nothing(stores: tuple[Path, Path, Path]) -> None:
    a, b, c = stores
    memvec.merge([a, b], c)
    before = files(c), (c / "manifest.json").read_bytes()
    report = memvec.merge([a, b], c)
    assert not report.changed and report.records == 0
    assert (files(c), (c / "manifest.json").read_bytes()) == before


def test_a_merge_adds_to_a_store_that_is_there(stores: tuple[Path, Path, Path]) -> None:
    a, b, _ = stores
    there = Store.open(a).manifest.shards
    report = memvec.merge([b], a)
    state = Store.open(a).manifest
    assert state.shards[: len(there)] == there and len(state.shards) == len(there) + 1
    assert report.records == 7 + 1  # what was there already is not written again
    assert Store.open(a).documents()["both"].document == document("both", NEWER)
    assert "gone" not in Store.open(a).documents()
    memvec.merge([a, b], a)  # the target may be one of them


def test_a_document_that_the_target_removed_comes_with_the_one_it_is_added_from(tmp_path: Path) -> None:
    put(tmp_path / "a", exact("x", TEXT, piece=7))
    put(tmp_path / "b", exact("x", TEXT))
    memvec.rm(tmp_path / "a", ["x"])
    memvec.merge([tmp_path / "b"], tmp_path / "a")
    assert Store.open(tmp_path / "a").documents()["x"].complete
    assert content(tmp_path / "a")["live"] == content(tmp_path / "b")["live"]


def test_content_of_one_and_memory_of_the_other_join(tmp_path: Path) -> None:
    put(tmp_path / "a", exact("x", TEXT))
    put(tmp_path / "b", memory("x", TEXT))
    memvec.merge([tmp_path / "a", tmp_path / "b"], tmp_path / "c")
    stored = Store.open(tmp_path / "c").documents()["x"]
    assert stored.complete and stored.memory


def test_a_kv_memory_joins_what_the_other_store_has(tmp_path: Path) -> None:
    put(tmp_path / "a", exact("x", TEXT), kv("x", TEXT, 0, 30), kv("y", NEWER))
    put(tmp_path / "b", memory("x", TEXT), kv("x", TEXT, 30), kv("y", NEWER))
    report = memvec.merge([tmp_path / "a", tmp_path / "b"], tmp_path / "c")
    opened = Store.open(tmp_path / "c")
    stored = opened.documents()["x"]
    assert stored.complete and len(stored.memory) == 1 and [ref.start for ref in stored.kv] == [0, 30]
    assert opened.manifest.required == (CONTEXT, KV) and memvec.verify(tmp_path / "c").ok
    assert report.records == 6 + 2 + 1 + 1  # the same memory of `y` in both stores is copied once
    kept = opened.record(opened.documents()["y"].kv[0]).kv
    assert kept is not None and kept.values.tobytes() == keys_values(len(NEWER)).values.tobytes()
    assert not memvec.merge([tmp_path / "a", tmp_path / "b"], tmp_path / "c").changed


def test_stores_of_different_models_are_refused(tmp_path: Path) -> None:
    put(tmp_path / "a", exact("x", TEXT))
    with writing(tmp_path / "b"):
        make(tmp_path / "b", OTHER).commit(exact("y", TEXT), "made")
    with pytest.raises(StoresDifferError, match=r"different models: weights is a+ and e+") as caught:
        memvec.merge([tmp_path / "a", tmp_path / "b"], tmp_path / "c")
    assert caught.value.exit_code == 4 and not (tmp_path / "c").exists()
    with pytest.raises(StoresDifferError):
        memvec.merge([tmp_path / "b"], tmp_path / "a")


def test_a_name_that_would_be_a_folder_too_is_refused(tmp_path: Path) -> None:
    put(tmp_path / "a", exact("x", TEXT))
    put(tmp_path / "b", exact("x/y", TEXT))
    with pytest.raises(UsageError, match="no folder could hold both"):
        memvec.merge([tmp_path / "a", tmp_path / "b"], tmp_path / "c")
    assert not (tmp_path / "c").exists()
