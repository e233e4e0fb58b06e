"""Every verb that writes or copies refuses a store of a newer writer, and leaves it as it is."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from made import content, filled

import memvec
from memvec.errors import FormatTooNewError
from memvec.filesystem.sources import Source
from memvec.formats import canonical, manifest
from memvec.maintenance.archive import export_store, import_store
from memvec.packing.estimate import estimate
from memvec.retrieval.build import build_index, drop_index
from memvec.store.store import Store
from memvec.store.transaction import Transaction

NEWER: dict[str, dict[str, Any]] = {
    "minor": {"version": [1, 7], "shine": {"new": 1}},
    "feature": {
        "features": {"optional": ["keys", "shine"], "required": ["context", "kv", "removed"]},
        "shine": {"new": 1},
    },
}
SOURCES = [Source("new.txt", b"The ferry leaves from the north pier at six, and dogs travel free.")]


def make_newer(store: Path, changes: dict[str, Any]) -> Path:
    """Rewrite the manifest as a newer writer would."""
    body = canonical.loads((store / manifest.FILE_NAME).read_bytes()[:-1])["manifest"] | changes
    data = canonical.dumps({"manifest": body, "sha256": hashlib.sha256(canonical.dumps(body)).hexdigest()})
    (store / manifest.FILE_NAME).write_bytes(data + b"\n")
    return store


@pytest.fixture(params=NEWER)
def newer(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A store that every verb has something to do in, of a newer minor version or with a feature nobody knows."""
    return make_newer(filled(tmp_path / "s"), NEWER[request.param])


VERBS: dict[str, Callable[[Path, str], Any]] = {
    "pack": lambda s, tiny: memvec.pack(SOURCES, s, model=tiny),
    "pack --dry-run": lambda s, tiny: estimate(SOURCES, s, model=tiny),
    "add": lambda s, tiny: memvec.add(SOURCES, s, model=tiny),
    "rm": lambda s, tiny: memvec.rm(s, ["a"]),
    "gc": lambda s, tiny: memvec.gc(s),
    "compact": lambda s, tiny: memvec.compact(s),
    "merge into": lambda s, tiny: memvec.merge([filled(s.parent / "other")], s),
    "merge from": lambda s, tiny: memvec.merge([s], s.parent / "copy"),
    "index build": lambda s, tiny: build_index(s, embedder="bm25"),
    "index drop": lambda s, tiny: drop_index(s),
    "repair": lambda s, tiny: memvec.repair(s, yes=True),
    "export": lambda s, tiny: export_store(s, s.parent / "copy"),
    "transaction": lambda s, tiny: Transaction.open(s),
    "create": lambda s, tiny: Transaction.create(s.parent / "copy", Store.open(s).manifest),
}


@pytest.mark.parametrize("verb", VERBS)
def test_refused(newer: Path, verb: str, tiny: str) -> None:
    """A verb that would lose data is refused."""
    before = {file: file.read_bytes() for file in newer.rglob("*") if file.is_file() and file.name != "LOCK"}
    with pytest.raises(FormatTooNewError, match=r"1\.7|shine"):
        VERBS[verb](newer, tiny)
    assert {file: file.read_bytes() for file in newer.rglob("*") if file.is_file() and file.name != "LOCK"} == before
    assert not (newer.parent / "copy").exists()


def test_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of a newer writer is not imported."""
    store = filled(tmp_path / "s")
    encode = manifest.encode

    def newer(state: manifest.Manifest) -> bytes:
        body = canonical.loads(encode(state)[:-1])["manifest"] | NEWER["minor"]
        return canonical.dumps({"manifest": body, "sha256": hashlib.sha256(canonical.dumps(body)).hexdigest()}) + b"\n"

    with monkeypatch.context() as patched:
        patched.setattr("memvec.maintenance.archive.manifest.encode", newer)
        export_store(store, tmp_path / "file")
    with pytest.raises(FormatTooNewError, match=r"1\.7"):
        import_store(tmp_path / "file", tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_read(newer: Path) -> None:
    """A store of a newer minor version can be read."""
    assert content(newer)["live"]
