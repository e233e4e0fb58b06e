"""Outputs are refused inside a store, dry runs need no permission to write, and a full disk leaves no index."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from made import TEXT, content, exact, files, filled, put, raw

import memvec
from memvec.errors import StoreDamagedError, UsageError
from memvec.retrieval import faiss_index
from memvec.store import index_files
from memvec.store.index_files import FOLDER
from memvec.store.lock import LOCK_NAME


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    """Two stores of one model."""
    return filled(tmp_path / "s"), put(tmp_path / "other", exact("z", TEXT), raw("a", b"\xff other")).path


class TestInsideAStore:
    """No output is written into a store."""

    def test_an_export_is_refused(self, two: tuple[Path, Path]) -> None:
        store, other = two
        before = {path: path.read_bytes() for each in two for path in each.rglob("*") if path.is_file()}
        for target in (
            store / "manifest.json",
            store / "new",
            next((store / "shards").iterdir()),
            other / "manifest.json",
            other / "shards" / "deep" / "er",
        ):
            with pytest.raises(UsageError, match="in the store"):
                memvec.export_store(store, target, overwrite=True)
        assert {path: path.read_bytes() for each in two for path in each.rglob("*") if path.is_file()} == before

    def test_an_export_through_a_link_is_refused(self, two: tuple[Path, Path], tmp_path: Path) -> None:
        store, _ = two
        (tmp_path / "way").symlink_to(store)
        with pytest.raises(UsageError, match="in the store"):
            memvec.export_store(store, tmp_path / "way" / "manifest.json", overwrite=True)

    def test_a_store_is_refused(self, two: tuple[Path, Path], tmp_path: Path) -> None:
        store, other = two
        memvec.export_store(store, tmp_path / "one")
        before = files(store)
        with pytest.raises(UsageError, match="in the store"):
            memvec.import_store(tmp_path / "one", store / "new")
        with pytest.raises(UsageError, match="in the store"):
            memvec.merge([other], store / "shards" / "new")
        assert files(store) == before

    def test_a_merge_into_one_of_its_sources_loses_nothing(self, two: tuple[Path, Path]) -> None:
        store, other = two
        before = content(store)["live"]
        assert not memvec.merge([store], store).changed
        assert memvec.merge([store, other], store).changed
        after = content(store)["live"]
        assert {name: after[name] for name in before if name != "a"} == {n: before[n] for n in before if n != "a"}
        assert set(after) == {*before, "z", "a"} and memvec.verify(store).ok
        assert memvec.cat(store, "a") == b"\xff other"  # the last store's counts


class TestImport:
    """`import_store` takes regular files only."""

    def test_of_something_else_than_a_file(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe")
        for name in ("none", "pipe", "."):
            with pytest.raises(memvec.errors.NotFoundError):
                memvec.import_store(tmp_path / name, tmp_path / "new")
        with (tmp_path / "sparse").open("wb") as file:
            file.truncate(1 << 40)
        with pytest.raises(StoreDamagedError, match="at most"):
            memvec.import_store(tmp_path / "sparse", tmp_path / "new")
        assert not (tmp_path / "new").exists()

    def test_through_a_link(self, tmp_path: Path) -> None:
        memvec.export_store(filled(tmp_path / "s"), tmp_path / "one")
        (tmp_path / "way").symlink_to("one")
        assert memvec.import_store(tmp_path / "way", tmp_path / "back").documents == 2


def test_read_only_store() -> None:
    """Another user reads a read-only store and makes dry runs: no lock and no file is written."""
    program = (
        "import os, sys; from memvec.cli.main import run; s, other = sys.argv[1:]\n"
        "run(['list', s, '-q'])\n"  # everything is imported before the user changes
        "for v in ('compact', 'gc', 'rm', 'merge', 'repair', 'verify', 'info', 'show'):\n"
        "    __import__(f'memvec.cli.cmd_{v}')\n"
        "import memvec.maintenance.repair, memvec.maintenance.merge, memvec.maintenance.gc, memvec.maintenance.compact\n"
        "import memvec.decoding.verify\n"
        "if os.geteuid() == 0: os.setgid(65534); os.setuid(65534)\n"
        "for words in (['repair', s], ['compact', s, '--dry-run'], ['gc', s, '--dry-run'], ['verify', s], ['info', s],\n"
        "              ['merge', other, '-o', s, '--dry-run'], ['list', s]):\n"
        "    print(words[0], run([*words, '-q']), file=sys.stderr)\n"
    )
    with tempfile.TemporaryDirectory() as name:  # pytest's own folders are closed to other users
        store = filled(Path(name) / "s")
        other = put(Path(name) / "other", exact("z", TEXT)).path
        (store / LOCK_NAME).unlink()
        for path in (Path(name), store, store / "shards", store / "keys", other, other / "shards"):
            path.chmod(0o555)
        try:
            done = subprocess.run(
                [sys.executable, "-c", program, str(store), str(other)], capture_output=True, text=True, check=False
            )
            there = {path.name for path in store.iterdir()}
        finally:
            for path in (Path(name), store, store / "shards", store / "keys", other, other / "shards"):
                path.chmod(0o755)
        if "setuid" in done.stderr or "setgid" in done.stderr:
            pytest.skip("no other user to be")
        said = [line for line in done.stderr.splitlines() if line[-2:] in (" 0", "10", " 1", " 3", "12")]
        verbs = ("repair", "compact", "gc", "verify", "info", "merge", "list")
        assert said == [f"{verb} 0" for verb in verbs], done.stderr
        assert there == {"manifest.json", "shards", "keys"}


def test_dry_run(tmp_path: Path) -> None:
    """A dry run leaves no lock."""
    store = filled(tmp_path / "s")
    (store / LOCK_NAME).unlink()
    assert memvec.compact(store, dry_run=True).changed and memvec.repair(store).ok
    memvec.gc(store, dry_run=True), memvec.merge([store], store, dry_run=True)
    assert not (store / LOCK_NAME).exists()


def test_folder_for_index(tmp_path: Path) -> None:
    """A folder with the name of an index is replaced."""
    values = np.random.default_rng(0).standard_normal((50, 8)).astype("f4")
    made = {"embedder": "noise", "embedder_id": "0" * 16, "factory": "Flat", "texts": 50, "width": 8, "keys": ()}
    for ending in ("json", "faiss", "space"):
        (tmp_path / f"{'0' * 16}.{ending}" / "inside").mkdir(parents=True)
    faiss_index.save(tmp_path, faiss_index.VectorIndex.build(values, "Flat"), made)
    assert index_files.describe(tmp_path, "0" * 16) is not None
    (tmp_path / f"{'0' * 16}.space").unlink()
    (tmp_path / f"{'0' * 16}.space").mkdir()
    faiss_index.drop(tmp_path, "0" * 16)
    assert not os.listdir(tmp_path)


def test_full_disk(tmp_path: Path) -> None:
    """FAISS reports no error on a full disk. The digest finds the cut index, and it is removed."""
    pytest.importorskip("resource")
    store = filled(tmp_path / "s")
    program = (
        "import json, resource, sys, numpy as np; from pathlib import Path\n"
        "from memvec.retrieval import faiss_index; from memvec.store import index_files\n"
        "values = np.random.default_rng(0).standard_normal((5000, 8)).astype('f4')\n"
        "made = {'embedder': 'noise', 'embedder_id': '0' * 16, 'factory': 'Flat', 'texts': 5000, 'width': 8, 'keys': ()}\n"
        "built = faiss_index.VectorIndex.build(values, 'Flat')\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
        "try: faiss_index.save(Path(sys.argv[1]) / index_files.FOLDER, built, made)\n"
        "except Exception as error: print(json.dumps([type(error).__name__, str(error)]))\n"
    )
    done = subprocess.run([sys.executable, "-c", program, store], capture_output=True, text=True, check=True)
    kind, said = json.loads(done.stdout or '["nothing", ""]')
    assert kind == "WriteError" and "File too large" in said
    assert not os.listdir(store / FOLDER)
