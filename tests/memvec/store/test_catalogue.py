"""The catalogue: what it answers is what a walk over every record finds, whatever was committed; damaged, it is passed over."""

from __future__ import annotations

import dataclasses
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import store_reference
from made import TEXT, kv, memory, put, raw
from random_stores import random_store

import memvec
from memvec.errors import NotFoundError, StoreDamagedError, UsageError
from memvec.formats.partial import TensorFile
from memvec.store import catalogue
from memvec.store.listing import incomplete_documents
from memvec.store.scan import Scan
from memvec.store.store import RecordRef, Store, StoredDocument
from memvec.store.totals import summarise
from memvec.store.transaction import Transaction


def walked(store: Store) -> dict[str, Any]:
    """Everything `list`, `info` and `show` say, from every record one by one."""
    parts = [(ref, record.document, record.kind) for ref, record in store_reference.read(store)]
    versions = store_reference.versions(parts, store.manifest.removed)
    assert store.versions() == versions
    live = dict(sorted({v.document.name: v for v in versions if v.usable}.items()))
    assert store.documents() == live
    unfinished = [v for v in versions if v.unfinished and live.get(v.document.name, v) is v]
    late = [v for v in unfinished if v.document.name not in live]
    refs = [ref for stored in live.values() for ref in stored.records + stored.memory + stored.kv]
    totals = store_reference.totals(store, [*live.values(), *late])
    info = summarise(store, [*live.values(), *late])
    assert {name: getattr(info, name) for name in totals} == totals
    return {
        "list": [row_of(store, stored) for stored in live.values()],
        "incomplete": sorted({v.document.name for v in unfinished}),
        "info": info,
        "documents": live,
        "ids": {store.record_id(ref): ref for ref in reversed(refs)},
    }


def row_of(store: Store, stored: StoredDocument) -> dict[str, Any]:
    sums = store_reference.totals(store, [stored])
    return {
        "name": stored.document.name,
        "bytes": stored.document.bytes,
        "tokens": stored.document.tokens,
        "records": sums["records"],
        "raw_records": sums["raw_records"],
        "vectors": sums["vectors"],
        "corrected_tokens": sums["corrected_tokens"],
        "sha256": stored.document.sha256,
        "memory": sums["context_vectors"],
        "gain": sums["gain"],
        "kv": sums["kv_positions"],
        "kv_bytes": sums["kv_bytes"],
        "kv_gain": sums["kv_gain"],
        "meta": dict(store.manifest.meta.get(stored.document.name, {})),
    }


def answered(store: Store) -> dict[str, Any]:
    """The same from the catalogue."""
    rows = memvec.list(store)
    documents = {row.name: catalogue.document(store, row.name) for row in rows}
    ids: dict[str, RecordRef] = {}
    for name in documents:
        parts = memvec.show(store, name)["parts"]
        shown = {part["id"]: memvec.show(store, part["id"].upper()) for part in parts}
        for found in shown.values():
            (number,) = [i for i, entry in enumerate(store.manifest.shards) if entry.path == found["shard"]]
            ids[found["id"]] = RecordRef(number, found["row"], found["start"], found["length"])
    return {
        "list": [dataclasses.asdict(row) for row in rows],
        "incomplete": incomplete_documents(store),
        "info": memvec.info(store),
        "documents": documents,
        "ids": ids,
    }


def no_walk(*_: object) -> None:
    raise AssertionError("every record was read")


@pytest.mark.parametrize("seed", range(25))
def test_random_stores_are_answered_as_a_walk_finds_them(
    tmp_path: Path, kept: Callable[[Store], Path], monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    store = random_store(tmp_path / "s.memvec", seed)
    expected = walked(store)
    assert answered(store) == expected  # made from the shards
    if store.manifest.shards:
        kept(store)
        monkeypatch.setattr(catalogue, "build", no_walk)
        assert answered(Store.open(store.path)) == expected


@pytest.mark.parametrize("name", ["packed", "remembering"])
def test_packed_stores_are_answered_as_a_walk_finds_them(
    request: pytest.FixtureRequest, tmp_path: Path, kept: Callable[[Store], Path], name: str
) -> None:
    store = Store.open(shutil.copytree(request.getfixturevalue(name), tmp_path / "s.memvec"))
    expected = walked(store)
    assert answered(store) == expected
    kept(store)
    assert answered(store) == expected


def test_a_changed_catalogue_is_passed_over(tmp_path: Path, kept: Callable[[Store], Path]) -> None:
    store = random_store(tmp_path / "s.memvec", 3)
    expected, file = answered(store), kept(store)
    good, chance = file.read_bytes(), random.Random(0)
    flipped = [bytearray(good) for _ in range(25)]
    for changed in flipped:
        changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    for bad in (b"", good[:-1], good[: len(good) // 2], good + b"x", *flipped):
        file.write_bytes(bad)
        assert answered(store) == expected
    file.write_bytes(good)
    inode = file.stat().st_ino
    assert kept(store).stat().st_ino == inode  # an intact one is left as it is
    file.write_bytes(flipped[0])
    assert kept(store).read_bytes() == good


def test_a_catalogue_of_another_state_is_passed_over(tmp_path: Path, kept: Callable[[Store], Path]) -> None:
    store = random_store(tmp_path / "s.memvec", 3)
    old = kept(store)
    (before, *_) = store.documents().values()
    transaction = Transaction(store)
    transaction.commit([], removed=[(before.document.name, before.document.sha256)])
    store = transaction.store
    expected = walked(store)
    assert answered(store) == expected
    old.rename(catalogue.path_of(store))  # the name is right, what it holds is not
    assert answered(store) == expected
    new = kept(store)
    assert [*new.parent.iterdir()] == [new]
    assert answered(store) == expected


def test_a_catalogue_of_other_columns_is_replaced(
    tmp_path: Path, kept: Callable[[Store], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = random_store(tmp_path / "s.memvec", 3)
    expected = walked(store)
    with monkeypatch.context() as patch:
        patch.setattr(catalogue, "COLUMNS", {n: c for n, c in catalogue.COLUMNS.items() if not n.startswith("kv")})
        old = kept(store)
    assert answered(store) == expected
    assert kept(store) != old and not old.exists()


def test_a_catalogue_that_places_records_wrongly_is_passed_over(
    tmp_path: Path, kept: Callable[[Store], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = random_store(tmp_path / "s.memvec", 3)
    expected = answered(store)
    build = catalogue.build
    for changes in ({"row": 1}, {"shard": 99}, {"start": 1}):
        catalogue.path_of(store).unlink(missing_ok=True)

        def wrong(of: Store, scan: Scan | None = None, changes: dict[str, int] = changes) -> dict[str, Any]:
            made = build(of, scan)
            return {name: column + changes.get(name, 0) if name in changes else column for name, column in made.items()}

        monkeypatch.setattr(catalogue, "build", wrong)
        kept(store)
        monkeypatch.setattr(catalogue, "build", build)
        found = answered(store)
        assert {**found, "documents": 0} == {**expected, "documents": 0}


def test_totals_leave_keys_and_values_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are hundreds of times larger than the rest. The report of a damaged record is noticed all the same."""
    store = put(tmp_path / "s.memvec", kv("a", TEXT), memory("a", TEXT), kv("b", TEXT, bits=4))
    seen: set[str] = set()
    rows = TensorFile.rows

    def noted(self: TensorFile, name: str, begin: int, end: int) -> Any:
        seen.add(name)
        return rows(self, name, begin, end)

    monkeypatch.setattr(TensorFile, "rows", noted)
    report = memvec.info(store.path)
    assert (report.kv_records, report.kv_measured, report.kv_gain) == (2, 2, 0.5) and report.kv_bytes > 0
    assert "payload" in seen and not [name for name in seen if name.startswith("kv_")]
    file = store.path / store.manifest.shards[0].path
    data = file.read_bytes()
    (record,) = kv("a", TEXT)
    file.write_bytes(data.replace(record.payload, record.payload[:-1] + bytes([record.payload[-1] ^ 1])))
    with pytest.raises(StoreDamagedError):
        memvec.info(store.path)


def test_small_stores_get_none_and_an_unwritable_one_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = random_store(tmp_path / "s.memvec", 3)
    assert catalogue.refresh(store) is None and not (store.path / catalogue.FOLDER).exists()
    monkeypatch.setattr(catalogue, "LEAST_RECORDS", 1)
    (store.path / catalogue.FOLDER).write_bytes(b"a file stands in the way")
    assert catalogue.refresh(store) is None
    (store.path / catalogue.FOLDER).unlink()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "x.safetensors").write_bytes(b"not the store's")
    (store.path / catalogue.FOLDER).symlink_to(tmp_path / "elsewhere")
    assert catalogue.refresh(store) is None and len([*(tmp_path / "elsewhere").iterdir()]) == 1
    assert answered(store) == walked(store)


def test_a_missing_shard_is_not_hidden_by_the_catalogue(tmp_path: Path, kept: Callable[[Store], Path]) -> None:
    store = random_store(tmp_path / "s.memvec", 3)
    kept(store)
    (store.path / store.manifest.shards[0].path).unlink()
    for verb in (memvec.list, memvec.info, incomplete_documents):
        with pytest.raises(StoreDamagedError, match="it is not there"):
            verb(store.path)


def test_a_pack_leaves_the_catalogue_of_what_it_made(store: Path, tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue, "LEAST_RECORDS", 1)
    memvec.pack([memvec.Source("added.bin", b"\xff no text, so that nothing has to be fitted")], store, model=tiny)
    opened = Store.open(store)
    assert [*(store / catalogue.FOLDER).iterdir()] == [catalogue.path_of(opened)]
    monkeypatch.setattr(catalogue, "build", no_walk)
    found = catalogue.document(opened, "added.bin")
    assert found == opened.documents()["added.bin"] and catalogue.document(opened, "added") is None


def test_short_ids(tmp_path: Path) -> None:
    store = random_store(tmp_path / "s.memvec", 3)
    ids = list(walked(store)["ids"])
    assert memvec.show(store.path, ids[0][:20])["id"] == ids[0]
    for none in (ids[0][:3], ids[0] + "0", ids[0][:19] + "g", "f" * 16, "0" * 64):
        with pytest.raises(NotFoundError, match="no document"):
            memvec.show(store.path, none)


def test_several_records_of_one_beginning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = random_store(tmp_path / "s.memvec", 3)
    monkeypatch.setattr("memvec.store.listing.SHORTEST_ID", 1)
    ids = list(walked(store)["ids"])
    shared = next(digit for digit in "0123456789abcdef" if sum(name.startswith(digit) for name in ids) > 1)
    with pytest.raises(UsageError, match="Give more digits"):
        memvec.show(store.path, shared)


def test_a_catalogue_cannot_give_a_document_another_name(
    tmp_path: Path, kept: Callable[[Store], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The manifest does not vouch for it. The records say which document they are of."""
    store, build = put(tmp_path / "s.memvec", raw("a", b"one"), raw("b", b"two")), catalogue.build
    expected = store.documents()
    with monkeypatch.context() as patched:
        patched.setattr(
            catalogue,
            "build",
            lambda *of: (
                (made := build(*of))
                | {
                    "sha256": made["sha256"][::-1].copy(),
                    "shard": made["shard"][::-1].copy(),
                    "row": made["row"][::-1].copy(),
                }
            ),
        )
        kept(store)
    assert [row.sha256 for row in memvec.list(store)] == [expected[name].document.sha256 for name in "ba"]
    assert catalogue.document(store, "a") == expected["a"]
