"""repair: every record that is still what was written, and nothing deleted."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from made import MODEL, OTHER, content, exact, files, kv, make, memory, put, raw

import memvec
from memvec.errors import FingerprintError, MemvecError, NotFoundError, StoreDamagedError, UsageError
from memvec.formats import container, kv_tensors, manifest, shard
from memvec.store.lock import writing
from memvec.store.store import Store

TEXT = b"a text of some length, cut into pieces of ten bytes each"
NEWER = b"another text of some length that takes the place of the first"


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A store of several shards; the last version of `a` has a lower digest than the first or not, as it happens."""
    store = tmp_path / "s"
    put(store, exact("a", TEXT), raw("b", bytes(range(100))), exact("a", NEWER) + exact("c", TEXT), memory("c", TEXT))
    put(store, exact("half", TEXT)[:2], meta={"a": {"kind": "letter"}})
    return store


def flip(file: Path, place: int) -> bytes:
    """Change one bit of a file; its bytes before."""
    data = bytearray(file.read_bytes())
    before = bytes(data)
    data[place] ^= 0x10
    file.write_bytes(data)
    return before


def within(file: Path, tensor: str) -> int:
    """The first byte of a tensor in a file."""
    data = file.read_bytes()
    entries, _ = container.read_header(data, shard.FORMAT_NAME)
    return 8 + int.from_bytes(data[:8], "little") + int(entries[tensor]["data_offsets"][0])


def test_nothing_to_repair(made: Path) -> None:
    before = files(made)
    report = memvec.repair(made, yes=True)
    assert report.ok and not report.repaired and not report.problems and files(made) == before


def test_without_yes_it_only_says_what_it_would_do(made: Path) -> None:
    (made / "manifest.json").unlink()
    before = files(made)
    report = memvec.repair(made)
    assert report.manifest_rebuilt and not report.ok and not report.repaired and report.shards == 5
    assert files(made) == before


@pytest.mark.parametrize("lose", [Path.unlink, lambda file: flip(file, 40), lambda file: file.write_bytes(b"")])
def test_a_lost_manifest_is_made_again(made: Path, lose: Callable[[Path], object]) -> None:
    before, generation = content(made), Store.open(made).manifest.generation
    there = (made / "manifest.json").exists()
    lose(made / "manifest.json")
    with pytest.raises(StoreDamagedError):
        Store.open(made)
    report = memvec.repair(made, yes=True)
    assert there and report.repaired and report.records_lost == 0
    assert content(made) == before | {"meta": {}}
    state = Store.open(made).manifest
    assert (state.fingerprint, state.generation) == (MODEL, generation + 1)
    assert memvec.verify(made).ok and memvec.repair(made).ok


def test_the_order_of_shards_is_that_of_their_generations(tmp_path: Path) -> None:
    for number in range(6):  # so many that no order of digests is that of commits by chance
        put(tmp_path / "s", exact("a", TEXT + bytes([48 + number])))
    before = content(tmp_path / "s")
    (tmp_path / "s" / "manifest.json").unlink()
    memvec.repair(tmp_path / "s", yes=True)
    assert content(tmp_path / "s") == before


def test_records_that_pass_their_digest_are_saved(made: Path) -> None:
    opened = Store.open(made)
    entry, before, order = opened.manifest.shards[2], content(made), opened.manifest.shards
    old = flip(made / entry.path, within(made / entry.path, "vectors"))  # of the first record, of `a`
    damaged = (made / entry.path).read_bytes()
    report = memvec.repair(made, yes=True)
    assert (report.records_saved, report.records_lost, report.documents_hurt) == (entry.records - 1, 1, ("a",))
    assert report.set_apart == (entry.path,) and not (made / entry.path).exists()
    assert (made / "damaged" / Path(entry.path).name).read_bytes() == damaged != old
    assert memvec.verify(made).ok
    after = Store.open(made)
    assert [e.sha256 for e in after.manifest.shards] != [e.sha256 for e in order]
    assert after.manifest.shards[:2] == order[:2] and after.manifest.shards[3:] == order[3:]
    found = content(made)
    assert found["live"]["c"] == before["live"]["c"] and found["meta"] == before["meta"]
    live = after.documents()["a"].document
    assert live.bytes == len(TEXT)  # the newest version has a gap: the older one is live, the rest waits for a pack
    assert [(v.document.bytes, v.complete) for v in after.versions() if v.document.name == "a"] == [
        (56, True),
        (61, False),
    ]
    put(made, exact("a", NEWER)[:1])
    assert content(made)["live"]["a"] == before["live"]["a"]


@pytest.mark.parametrize(
    "tensor", ["seconds", "documents", "start", "text_sha256", "record_sha256", "document", "kind"]
)
def test_whatever_is_damaged_the_store_verifies_after_it(made: Path, tensor: str) -> None:
    entry = Store.open(made).manifest.shards[2]
    others = {name: content(made)["live"][name] for name in ("b",)}
    flip(made / entry.path, within(made / entry.path, tensor) + 2)
    assert not memvec.verify(made).ok
    memvec.repair(made, yes=True)
    assert memvec.verify(made).ok and others.items() <= content(made)["live"].items()
    assert (made / "damaged" / Path(entry.path).name).exists()


@pytest.mark.parametrize("tensor", list(kv_tensors.TENSORS))
def test_a_damaged_kv_record_is_lost_and_the_others_are_saved(tmp_path: Path, tensor: str) -> None:
    store = tmp_path / "s"
    put(store, exact("a", TEXT) + kv("a", TEXT) + memory("a", TEXT) + kv("b", NEWER), raw("c", b"\xff"))
    before, entry = content(store)["live"], Store.open(store).manifest.shards[0]
    flip(store / entry.path, within(store / entry.path, tensor))
    assert not memvec.verify(store).ok
    report = memvec.repair(store, yes=True)
    assert memvec.verify(store).ok and report.records_saved + report.records_lost == entry.records
    after = content(store)["live"]
    assert after["c"] == before["c"]
    if not tensor.endswith("_offsets") and tensor not in kv_tensors.COLUMNS:  # of the first kv record, that of `a`
        assert (report.records_lost, report.documents_hurt) == (1, ("a",))
        assert after["b"] == before["b"] and after["a"][:4] == before["a"][:4] and after["a"][4] == []


@pytest.mark.parametrize("seed", range(30))
def test_random_damage_to_kv_records_is_found_and_repaired(tmp_path: Path, seed: int) -> None:
    store, chance = tmp_path / "s", random.Random(seed)
    put(store, kv("a", TEXT) + exact("b", NEWER) + kv("b", NEWER, bits=4), kv("c", TEXT, bits=16))
    entry = Store.open(store).manifest.shards[0]
    data = bytearray((store / entry.path).read_bytes())
    begin = chance.randrange(len(data))
    length = min(chance.choice([1, 8, 64, 512]), len(data) - begin)
    noise = bytes(byte ^ chance.randint(1, 255) for byte in data[begin : begin + length])
    (store / entry.path).write_bytes(
        data[:begin] if chance.random() < 0.2 else data[:begin] + noise + data[begin + length :]
    )
    assert not memvec.verify(store).ok
    for verb in (
        memvec.info,
        memvec.list,
        lambda path: memvec.show(path, "a"),
        lambda path: list(memvec.read(path, ["z"])),
    ):
        with contextlib.suppress(MemvecError):  # what it says depends on the place; no other error may come
            verb(store)
    memvec.repair(store, yes=True)
    assert memvec.verify(store).ok and content(store)["live"]["c"][4]
    memvec.compact(store)
    assert memvec.verify(store).ok


def test_a_manifest_made_again_names_the_feature_of_kv_records(tmp_path: Path) -> None:
    put(tmp_path / "s", exact("a", TEXT), kv("a", TEXT))
    before = content(tmp_path / "s")
    (tmp_path / "s" / "manifest.json").unlink()
    memvec.repair(tmp_path / "s", yes=True)
    assert content(tmp_path / "s") == before
    assert Store.open(tmp_path / "s").manifest.required == (manifest.KV,)


def test_what_was_added_to_the_end_of_a_shard_costs_nothing(made: Path) -> None:
    before, entry = content(made), Store.open(made).manifest.shards[2]
    with (made / entry.path).open("ab") as file:
        file.write(b"\0" * 100)
    report = memvec.repair(made, yes=True)
    assert report.records_lost == 0 and content(made) == before and memvec.verify(made).ok
    assert (made / "damaged" / Path(entry.path).name).stat().st_size == entry.bytes + 100


def test_a_lost_shard_is_dropped_and_said(made: Path) -> None:
    entry = Store.open(made).manifest.shards[1]
    (made / entry.path).unlink()
    report = memvec.repair(made, yes=True)
    assert (report.records_lost, report.set_apart) == (1, ())
    assert memvec.verify(made).ok and "b" not in content(made)["live"]


def test_damaged_keys_are_dropped_and_said(made: Path) -> None:
    entry = Store.open(made).manifest.keys[0]
    flip(made / entry.path, -1)
    report = memvec.repair(made, yes=True)
    assert report.keys_dropped == (entry.embedder,) and report.set_apart == (entry.path,)
    assert memvec.verify(made).ok and (made / "damaged" / Path(entry.path).name).exists()


def test_removed_documents_come_back_only_where_the_manifest_is_lost(made: Path) -> None:
    memvec.rm(made, ["b"])
    entry = Store.open(made).manifest.shards[2]
    flip(made / entry.path, -1)
    memvec.repair(made, yes=True)
    assert "b" not in content(made)["live"]
    (made / "manifest.json").unlink()
    memvec.repair(made, yes=True)
    assert "b" in content(made)["live"]


def test_nothing_is_deleted_however_often_it_is_damaged(made: Path) -> None:
    for length in (10, 20, 30):
        (made / "manifest.json").write_bytes((made / "manifest.json").read_bytes()[:length])
        assert memvec.repair(made, yes=True).set_apart == ("manifest.json",)
    assert len(list((made / "damaged").iterdir())) == 3


def early(records: list, generation: int = 1) -> bytes:  # type: ignore[type-arg]
    """A shard as the first writers made it, which does not say in full whose it is."""
    return shard.encode(records, MODEL.id, MODEL.width, 100)


def test_shards_that_do_not_say_whose_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import hashlib

    data = early(exact("a", TEXT))
    (tmp_path / "s" / "shards").mkdir(parents=True)
    (tmp_path / "s" / "shards" / f"{hashlib.sha256(data).hexdigest()}.safetensors").write_bytes(data)
    with pytest.raises(UsageError, match="Pass the model as model="):
        memvec.repair(tmp_path / "s", yes=True)
    monkeypatch.setattr(
        "memvec.identity.fingerprint.fingerprint", lambda model: {"right": MODEL, "wrong": OTHER}[model]
    )
    with pytest.raises(FingerprintError):
        memvec.repair(tmp_path / "s", yes=True, model="wrong")
    assert memvec.repair(tmp_path / "s", yes=True, model="right").repaired
    assert Store.open(tmp_path / "s").manifest.fingerprint == MODEL and memvec.verify(tmp_path / "s").ok


def test_shards_of_two_models(tmp_path: Path, made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with writing(tmp_path / "other"):
        make(tmp_path / "other", OTHER).commit(exact("x", TEXT), "made")
    (stranger,) = (tmp_path / "other" / "shards").iterdir()
    (made / "shards" / stranger.name).write_bytes(stranger.read_bytes())
    before = content(made)
    assert memvec.repair(made).ok  # nothing names it
    (made / "manifest.json").unlink()
    with pytest.raises(UsageError, match="belong to 2 models"):
        memvec.repair(made, yes=True)
    monkeypatch.setattr("memvec.identity.fingerprint.fingerprint", lambda model: MODEL)
    report = memvec.repair(made, yes=True, model="right")
    assert report.set_apart == (f"shards/{stranger.name}",) and content(made) == before | {"meta": {}}


def test_what_cannot_be_repaired(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="not even a damaged one"):
        memvec.repair(tmp_path / "none")
    put(tmp_path / "s", exact("a", TEXT))
    (tmp_path / "s" / "manifest.json").unlink()
    (file,) = (tmp_path / "s" / "shards").iterdir()
    file.write_bytes(b"nothing of a shard")
    with pytest.raises(StoreDamagedError, match="nothing can be saved"):
        memvec.repair(tmp_path / "s", yes=True)
    assert file.read_bytes() == b"nothing of a shard"
