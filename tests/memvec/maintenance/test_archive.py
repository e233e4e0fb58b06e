"""export and import of a whole store as one file."""

from __future__ import annotations

import random
import shutil
import struct
from pathlib import Path

import pytest
from made import VOCABULARY, content, exact, kv, make, memory, put, raw
from safetensors.numpy import load_file

import memvec
from memvec.errors import NotFoundError, StoreDamagedError, UsageError
from memvec.formats.shard import Shard
from memvec.store.lock import writing
from memvec.store.store import Store

TEXT = b"a text of some length, cut into pieces of ten bytes each"


@pytest.fixture
def full(tmp_path: Path) -> Path:
    """A store of every kind of record, with something removed, something unfinished and something said."""
    store = tmp_path / "s"
    put(store, exact("a", TEXT), raw("b", b"\x00\xff" * 9), exact("gone", TEXT + TEXT), memory("a", TEXT))
    put(
        store,
        kv("a", TEXT),
        kv("half", TEXT, 20),
        exact("half", TEXT)[:2],
        meta={"a": {"kind": "letter"}, "gone": {"kind": "secret"}},
    )
    memvec.rm(store, ["gone"])
    return store


def test_a_store_comes_back_from_one_file(full: Path, tmp_path: Path) -> None:
    report = memvec.export_store(full, tmp_path / "one.safetensors")
    assert (report.documents, report.records) == (2, 6 + 1 + 1 + 2 + 2)
    assert report.bytes == (tmp_path / "one.safetensors").stat().st_size
    back = memvec.import_store(tmp_path / "one.safetensors", tmp_path / "back")
    assert back == report
    assert content(tmp_path / "back") == content(full) and memvec.verify(tmp_path / "back").ok
    assert memvec.cat(tmp_path / "back", "b") == b"\x00\xff" * 9
    assert not list(tmp_path.glob(".tmp-*"))
    again = memvec.export_store(tmp_path / "back", tmp_path / "two.safetensors")
    assert again.bytes == report.bytes
    assert (tmp_path / "one.safetensors").read_bytes() == (tmp_path / "two.safetensors").read_bytes()


def test_the_file_is_a_shard_and_holds_nothing_that_was_removed(full: Path, tmp_path: Path) -> None:
    memvec.export_store(full, tmp_path / "one.safetensors")
    data = (tmp_path / "one.safetensors").read_bytes()
    part = Shard(data)
    assert {record.document.name for record in part} == {"a", "b", "half"} and b"secret" not in data
    tensors = load_file(tmp_path / "one.safetensors")
    assert bytes(tensors["manifest"]).startswith(b'{"manifest":{"')


def test_an_empty_store_comes_back_too(tmp_path: Path) -> None:
    with writing(tmp_path / "s"):
        make(tmp_path / "s").commit(exact("a", TEXT), "made")
    memvec.rm(tmp_path / "s", ["a"])
    assert memvec.export_store(tmp_path / "s", tmp_path / "f").records == 0
    memvec.import_store(tmp_path / "f", tmp_path / "back")
    assert Store.open(tmp_path / "back").manifest.vocabulary == VOCABULARY and memvec.verify(tmp_path / "back").ok


def test_nothing_is_overwritten(full: Path, tmp_path: Path) -> None:
    memvec.export_store(full, tmp_path / "f")
    with pytest.raises(UsageError, match="exists"):
        memvec.export_store(full, tmp_path / "f")
    memvec.export_store(full, tmp_path / "f", overwrite=True)
    (tmp_path / "folder").mkdir()
    with pytest.raises(UsageError, match=r"folder' is no regular file\. Pass another path\."):
        memvec.export_store(full, tmp_path / "folder", overwrite=True)
    with pytest.raises(UsageError, match=r"exists. Import into a new one"):
        memvec.import_store(tmp_path / "f", full)
    with pytest.raises(NotFoundError):
        memvec.import_store(tmp_path / "none", tmp_path / "new")
    with pytest.raises(UsageError, match="one shard, expected a complete store"):
        memvec.import_store(next((full / "shards").iterdir()), tmp_path / "new")


def test_no_damaged_file_becomes_a_store(full: Path, tmp_path: Path) -> None:
    memvec.export_store(full, tmp_path / "f")
    whole, before = (tmp_path / "f").read_bytes(), content(full)
    (header,) = struct.unpack("<Q", whole[:8])
    rng, refused = random.Random(0), 0
    for number in range(200):
        data = bytearray(whole)
        data[rng.randrange(header if number % 2 else len(data))] ^= 1 << number % 8
        (tmp_path / "f").write_bytes(data)
        try:
            memvec.import_store(tmp_path / "f", tmp_path / "back")
        except (StoreDamagedError, UsageError):
            refused += 1
            assert not (tmp_path / "back").exists() and not list(tmp_path.glob(".tmp-*"))
        else:  # a place that means nothing: what safetensors fills up with, how a number is written
            assert content(tmp_path / "back") == before
            shutil.rmtree(tmp_path / "back")
    assert refused > 180
