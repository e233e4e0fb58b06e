"""Paths that callers give are not empty, and outputs are never inside a store."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from made import TEXT, exact, put

from memvec.errors import UsageError
from memvec.filesystem import paths
from memvec.store.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store of one document."""
    return put(tmp_path / "s", exact("a", TEXT)).path


def test_empty_path(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty path does not mean the current folder."""
    monkeypatch.chdir(store)
    assert Store.open(".").documents()
    with pytest.raises(UsageError, match="expected a path"):
        Store.open("")


class TestOutside:
    """Outputs lie outside of stores."""

    @pytest.mark.parametrize("value", ["", "a\0b", None, 3, b"a"])
    def test_no_path(self, value: object) -> None:
        with pytest.raises(UsageError, match=r"output is .*expected a path"):
            paths.outside(value, "output")  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        "target",
        [
            lambda s: s,
            lambda s: s / "manifest.json",
            lambda s: s / "new",
            lambda s: s / "not/there/yet",
            lambda s: s / "shards",
            lambda s: s.parent / "x" / ".." / s.name / "new",
        ],
    )
    def test_inside(self, store: Path, target: Callable[[Path], Path]) -> None:
        (store.parent / "x").mkdir()
        with pytest.raises(UsageError, match="in the store"):
            paths.outside(target(store), "output")

    def test_through_links(self, store: Path, tmp_path: Path) -> None:
        (tmp_path / "folder").symlink_to(store / "shards")
        (tmp_path / "file").symlink_to(store / "manifest.json")
        for target in (tmp_path / "folder" / "new", tmp_path / "file"):
            with pytest.raises(UsageError, match="in the store"):
                paths.outside(target, "output")

    def test_from_within(self, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(store / "shards")
        with pytest.raises(UsageError, match="in the store"):
            paths.outside("new", "output")

    def test_same_folder(self, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """On a file system that ignores case, S is s. A link stands for that here."""
        (tmp_path / "S").symlink_to(store)
        monkeypatch.setattr("os.path.realpath", os.path.abspath)
        with pytest.raises(UsageError, match="in the store"):
            paths.outside(tmp_path / "S" / "new", "output", store)

    def test_damaged_stores(self, store: Path, tmp_path: Path) -> None:
        (store / "manifest.json").unlink()
        with pytest.raises(UsageError, match="in the store"):
            paths.outside(store / "new", "output")
        (tmp_path / "ruin").mkdir()
        assert paths.outside(tmp_path / "ruin" / "new", "output")
        with pytest.raises(UsageError, match="in the store"):
            paths.outside(tmp_path / "ruin" / "new", "output", tmp_path / "ruin")

    def test_elsewhere(self, store: Path, tmp_path: Path) -> None:
        (tmp_path / "manifest.json").write_text('{"name": "of a web page", "icons": []}')
        for target in (tmp_path / "new", tmp_path / "s2" / "new", tmp_path / "manifest.json"):
            assert paths.outside(target, "output", store) == target

    @pytest.mark.skipif(os.name != "posix", reason="devices and pipes of POSIX")
    def test_no_devices(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe")
        for target in ("/dev/null", tmp_path / "pipe"):
            with pytest.raises(UsageError, match="no regular file"):
                paths.outside(target, "output")
