"""A store may come from anyone: the models and files that it names are not loaded, run, downloaded, converted or followed."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest

import memvec
from memvec.checkpoints import gguf as converted
from memvec.checkpoints import resolve as model_cache
from memvec.checkpoints.named import folder_named
from memvec.errors import MemvecError, NotFoundError, StoreDamagedError, UsageError
from memvec.formats import files, manifest
from memvec.formats import keys as keys_format
from memvec.formats.keys import Embedder
from memvec.formats.manifest import KeysEntry
from memvec.identity.match import find_model
from memvec.identity.verdict import stored_identity
from memvec.packing.pack import model_for
from memvec.retrieval.build import build_index, drop_index, index_info
from memvec.retrieval.embedders import Words
from memvec.retrieval.search import Searcher, load_embedder, retrieve, search
from memvec.settings import PackSettings
from memvec.store import index_files
from memvec.store.store import Store
from memvec.store.transaction import Transaction, keys_file

STRANGE = "sentence-transformers:./model-in-the-store"


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory, tiny: str, tiny_settings: Callable[..., PackSettings]) -> Path:
    """A store of a short text, with keys."""
    store = tmp_path_factory.mktemp("strange") / "s.memvec"
    source = memvec.Source("a.txt", b"The ferry leaves from the north pier at six, and dogs travel free.")
    memvec.pack([source], store, model=tiny, settings=tiny_settings(), dtype="float32")
    return store


@pytest.fixture
def store(packed: Path, tmp_path: Path) -> Path:
    """A copy to change."""
    return Path(shutil.copytree(packed, tmp_path / "s.memvec"))


@pytest.fixture(autouse=True)
def no_other_model(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names that sentence-transformers was asked to load."""
    asked: list[str] = []

    def load(name: str, **_: Any) -> None:
        asked.append(name)
        raise OSError("no such model")

    monkeypatch.setitem(sys.modules, "sentence_transformers", types.SimpleNamespace(SentenceTransformer=load))
    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse_downloads)
    return asked


def refuse_downloads(name: str, local_files_only: bool = False, **_: Any) -> str:
    assert local_files_only, f"{name} would be downloaded"
    raise FileNotFoundError(name)


def change(store: Path, **changes: Any) -> Path:
    """Change fields of the manifest."""
    state = dataclasses.replace(Store.open(store).manifest, **changes)
    (store / manifest.FILE_NAME).write_bytes(manifest.encode(state))
    return store


def naming(store: Path, source: str) -> Path:
    """Let the store name this as its model."""
    return change(store, fingerprint=dataclasses.replace(Store.open(store).manifest.fingerprint, source=source))


def add_keys(store: Path, embedder: Embedder, rows: int = 1) -> KeysEntry:
    """Add keys to a store that say they are of this embedder."""
    opened = Store.open(store)
    texts = [bytes([row] * 32) for row in range(rows)]
    if embedder.width:
        made = keys_format.dense(embedder, texts, np.ones((rows, embedder.width)))
    else:
        made = keys_format.lexical(embedder, texts, [{1: 1}] * rows)
    Transaction(opened).commit([], "made", [made])
    return keys_file(made)[0]


class TestSearch:
    """Only the model whose fingerprint was compared, and what the caller names."""

    def test_a_model_that_the_store_names_is_not_loaded(self, store: Path, no_other_model: list[str]) -> None:
        add_keys(store, Embedder(STRANGE, "0123456789abcdef", 8))
        assert Searcher(Store.open(store)).names == ("lm", "bm25")
        assert search(store, "ferry", 1)[0].document == "a.txt"
        assert retrieve(store, "ferry", 1, memories=False, min_score=None)
        assert [one.embedder for one in build_index(store)] == ["lm", "bm25", STRANGE]
        assert index_info(store)[2].texts == 0
        assert no_other_model == []
        with pytest.raises(OSError, match="no such model"):
            search(store, "ferry", embedder=STRANGE)
        assert no_other_model == ["./model-in-the-store"]

    def test_a_store_with_only_such_keys_says_how_to_go_on(self, store: Path, no_other_model: list[str]) -> None:
        change(store, keys=())
        add_keys(store, Embedder(STRANGE, "0123456789abcdef", 8))
        with pytest.raises(UsageError, match=r"only keys of.*Pass embedder='sentence.*build_index"):
            search(store, "ferry")
        build_index(store)
        assert search(store, "ferry", 1)[0].document == "a.txt" and no_other_model == []

    @pytest.mark.parametrize("width", [64, 0])
    @pytest.mark.parametrize("name", ["lm", "bm25"])
    def test_keys_of_another_width_are_damage(self, store: Path, name: str, width: int) -> None:
        own = load_embedder(name, memvec.open(store)).embedder
        entry = add_keys(store, Embedder(name, own.id, width), 80) if width != own.width else None
        for use in (lambda: search(store, "ferry"), lambda: build_index(store)):
            if entry is None:
                use()
                continue
            with pytest.raises(StoreDamagedError, match=entry.path):
                use()


class TestModel:
    """What a store names as its model."""

    @pytest.mark.parametrize("source", ["", "~", "~root/model", "model", "./model", "../x/y", "//host/share", "\\\\host\\x",
                                        "a/b/c", "x\0y", "/dev/zero", "/dev/stdin", "/", "file:///etc", "hub/owner"])  # fmt: skip
    def test_what_it_may_not_name(self, store: Path, source: str, monkeypatch: pytest.MonkeyPatch, tiny: str) -> None:
        shutil.copytree(tiny, store.parent / "model")
        shutil.copytree(tiny, store.parent / "hub" / "owner")
        monkeypatch.chdir(store.parent)
        naming(store, source)
        for use in (
            lambda: find_model(stored_identity(Store.open(store).manifest)),
            lambda: search(store, "ferry"),
            lambda: memvec.cat(store, "a.txt"),
        ):
            with pytest.raises(
                NotFoundError, match=r"the store names .* as its model, .* Pass the model|neither in the|no checkpoint"
            ):
                use()
        if source:
            with pytest.raises(NotFoundError):
                model_for(store, None)
        assert memvec.cat(store, "a.txt", model=tiny).startswith(b"The ferry")

    @pytest.mark.parametrize("link", [False, True])
    def test_a_folder_inside_a_store(self, store: Path, tiny: str, link: bool, tmp_path: Path) -> None:
        shutil.copytree(tiny, store / "model")
        (tmp_path / "link").symlink_to(store / "model")
        naming(store, str(tmp_path / "link" if link else store / "model"))
        with pytest.raises(NotFoundError, match="lies in a store"):
            search(store, "ferry")

    def test_a_folder_that_is_the_models(self, store: Path, tiny: str, tmp_path: Path) -> None:
        shutil.copytree(tiny, tmp_path / "moved")
        (tmp_path / "manifest.json").write_text('{"name": "of a web page"}')  # makes no store of the folder
        naming(store, str(tmp_path / "moved"))
        assert search(store, "ferry", 1) and model_for(store, None) == str(tmp_path / "moved")

    def test_a_hub_id_is_not_downloaded_by_add(self, store: Path) -> None:
        naming(store, "owner/name")
        source = memvec.Source("b.txt", b"A parrot in the hall says good morning to the baker.")
        with pytest.raises(NotFoundError, match="owner/name"):
            memvec.add([source], store)

    def test_a_gguf_file_is_not_converted(self, tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MEMVEC_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(model_cache, "_convert", lambda *_: pytest.fail("converted"))
        file = tmp_path / "x[1].gguf"
        file.write_bytes(b"GGUF")
        with pytest.raises(NotFoundError, match="no GGUF file that was converted before"):
            folder_named(str(file))
        made = model_cache.cache_folder() / f"x[1]-{files.sha256_of(file)[:12]}"
        shutil.copytree(tiny, made)
        with pytest.raises(NotFoundError):
            folder_named(str(file))  # nobody knows whether it is whole
        converted.seal(made)
        assert folder_named(str(file)) == made
        file.write_bytes(b"other")
        with pytest.raises(NotFoundError):
            folder_named(str(file))
        file.unlink()
        os.mkfifo(file)
        with pytest.raises(NotFoundError):
            folder_named(str(file))


class TestIndex:
    """A kept index is a file for a parser in C++."""

    @pytest.fixture
    def indexed(self, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setenv("MEMVEC_CACHE", str(tmp_path / "cache"))
        build_index(store)
        return store

    def test_one_of_others_is_not_read(self, indexed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        assert index_info(indexed)[0].factory == "Flat"
        expected = search(indexed, "ferry")
        monkeypatch.setenv("MEMVEC_CACHE", str(tmp_path / "of another user"))
        with monkeypatch.context() as patched:
            patched.setattr(faiss, "read_index", lambda *_: pytest.fail("read"))
            assert search(indexed, "ferry") == expected and index_info(indexed)[0].factory is None
            memvec.gc(indexed)
        assert next((indexed / index_files.FOLDER).glob("*.faiss"))  # theirs is left alone
        build_index(indexed)
        assert index_info(indexed)[0].factory == "Flat"

    @pytest.mark.parametrize(
        "changes",
        [{"keys": [3]}, {"keys": [[]]}, {"keys": 3}, {"texts": "1"}, {"width": 0}, {"width": "x"}, {"space": 3}, {"more": 1},
         {"embedder_id": "../x"}, {"texts": True}, None],
    )  # fmt: skip
    def test_a_description_that_says_nonsense(self, indexed: Path, changes: dict[str, Any] | None) -> None:
        expected = search(indexed, "ferry")
        file = next((indexed / index_files.FOLDER).glob("*.json"))
        value = json.loads(file.read_text())
        file.write_text("[" * 100_000 if changes is None else json.dumps(value | changes))
        assert search(indexed, "ferry") == expected and index_info(indexed)[0].factory is None
        memvec.gc(indexed)

    @pytest.mark.parametrize("name", ["json", "faiss", "space"])
    def test_a_pipe_or_link_in_its_place(self, indexed: Path, name: str, tmp_path: Path) -> None:
        expected = search(indexed, "ferry")
        file = next((indexed / index_files.FOLDER).glob(f"*.{name}"))
        file.rename(tmp_path / "moved")
        file.symlink_to(tmp_path / "moved")
        assert search(indexed, "ferry") == expected
        file.unlink()
        os.mkfifo(file)
        assert search(indexed, "ferry") == expected

    def test_an_id_is_no_path(self, store: Path, tmp_path: Path) -> None:
        entry = dataclasses.replace(Store.open(store).manifest.keys[0], embedder_id="../../secret")
        change(store, keys=(entry,))
        (tmp_path / "secret.json").write_text("{}")
        assert index_files.describe(store / index_files.FOLDER, "../../secret") is None

    def test_a_linked_folder_is_left_alone(self, store: Path, tmp_path: Path) -> None:
        mine = tmp_path / "mine"
        mine.mkdir()
        names = ["package.json", f"{'0' * 16}.json", ".tmp-mine", f"{'0' * 64}.safetensors"]
        for name in names:
            (mine / name).write_text("{}")
        for folder in ("index", "keys", "shards", "damaged"):
            shutil.rmtree(store / folder, ignore_errors=True)
            (store / folder).symlink_to(mine)
        change(store, keys=(), shards=())
        assert drop_index(store) == 0
        memvec.gc(store)
        assert sorted(file.name for file in mine.iterdir()) == sorted(names)
        opened = Store.open(store)
        with pytest.raises(MemvecError, match="link"):
            Transaction(opened).commit([], "made", [Words().keys({bytes(32): "a word"})])
        assert sorted(file.name for file in mine.iterdir()) == sorted(names)

    def test_drop_takes_what_is_an_index(self, indexed: Path) -> None:
        (indexed / index_files.FOLDER / "notes.json").write_text("{}")
        assert drop_index(indexed) == 1
        assert [file.name for file in (indexed / index_files.FOLDER).iterdir()] == ["notes.json"]
