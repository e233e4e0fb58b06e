"""The cache of identities: what makes an entry count, what makes it be made again, and that it does no harm."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from memvec.checkpoints import cache as identity_cache
from memvec.checkpoints.cache import cached


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of two files, an empty cache, and files that count as settled at once."""
    monkeypatch.setenv("MEMVEC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(identity_cache, "RECENT_NS", 0)
    monkeypatch.setattr(identity_cache, "_unwritten", {})
    there = tmp_path / "model"
    there.mkdir()
    (there / "config.json").write_text("{}")
    (there / "a.safetensors").write_bytes(b"weights")
    return there


@pytest.fixture
def made(folder: Path) -> Callable[..., int]:
    """How often the value was made, after asking for it once more."""
    calls: list[int] = []

    def make() -> dict[str, Any]:
        calls.append(1)
        return {"weights": (folder / "a.safetensors").read_bytes().decode(), "list": [1, 2.5, None]}

    def ask(version: str = "1") -> int:
        assert cached(folder, version, make) == make() and calls.pop()
        return len(calls)

    return ask


def entries(tmp_path: Path) -> list[Path]:
    return list((tmp_path / "cache" / "fingerprints").iterdir())


def test_an_unchanged_folder_is_not_read_again(made: Callable[..., int], folder: Path) -> None:
    assert (made(), made()) == (1, 1)
    os.utime(folder)  # of the folder itself, whose files are the same
    assert made() == 1


@pytest.mark.parametrize("what", ["size", "date", "set back", "replaced", "added", "removed"])
def test_a_changed_file_is_read_again(what: str, made: Callable[..., int], folder: Path) -> None:
    made()
    file = folder / "a.safetensors"
    before = file.stat()
    if what == "size":
        file.write_bytes(b"more weights")
    elif what == "date":
        file.write_bytes(b"WEIGHTS")
    elif what == "set back":  # the same size and date: the inode's own date tells, which nobody can set
        file.write_bytes(b"WEIGHTS")
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert (file.stat().st_size, file.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    elif what == "replaced":
        (folder.parent / "new").write_bytes(b"WEIGHTS")
        (folder.parent / "new").replace(file)
    elif what == "added":
        (folder / "added_tokens.json").write_text("{}")
    else:
        (folder / "config.json").unlink()
    assert (made(), made()) == (2, 2)


@pytest.mark.parametrize("damage", [b"", b"[]", b'{"entry": {}, "sha256": ""}', b"\xff\xfe", b"[" * 100_000, None])
def test_a_damaged_entry_is_made_again(damage: bytes | None, made: Callable[..., int], tmp_path: Path) -> None:
    made()
    (file,) = entries(tmp_path)
    whole = file.read_bytes()
    file.write_bytes(whole.replace(b'"weights"', b'"Weights"', 1) if damage is None else damage)
    assert (made(), made()) == (2, 2)
    assert file.read_bytes() == whole


def test_an_entry_of_other_code_is_made_again(made: Callable[..., int]) -> None:
    assert [made("1"), made("2"), made("2"), made("1")] == [1, 2, 2, 3]


def test_nothing_is_kept_of_files_that_may_still_change(
    made: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identity_cache, "RECENT_NS", 3600 * 10**9)
    assert (made(), made()) == (1, 2)
    assert not (tmp_path / "cache").exists()


def test_nothing_is_kept_of_files_that_changed_meanwhile(folder: Path, tmp_path: Path) -> None:
    def make() -> dict[str, Any]:
        (folder / "a.safetensors").write_bytes(b"of another writer")
        return {}

    cached(folder, "1", make)
    assert not (tmp_path / "cache").exists()


def test_without_a_place_to_keep_it_this_process_remembers(
    made: Callable[..., int], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cache").write_bytes(b"a file stands in the way")
    monkeypatch.setattr("memvec.filesystem.cache_folder._base", lambda: tmp_path / "cache")
    assert (made(), made()) == (1, 1)
    (folder / "a.safetensors").write_bytes(b"more weights")
    assert made() == 2


def test_many_writers_leave_one_whole_entry(folder: Path, tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda n: cached(folder, "1", lambda: {"n": "x" * 5000}), range(32)))
    assert all(value == {"n": "x" * 5000} for value in found)
    (file,) = entries(tmp_path)
    assert json.loads(file.read_bytes())["entry"]["value"] == {"n": "x" * 5000}


def test_the_oldest_entries_go(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity_cache, "MOST", 2)
    for name in "abc":
        other = tmp_path / name
        other.mkdir()
        (other / "config.json").write_text(name)
        cached(other, "1", dict)
        for file in entries(tmp_path):  # dates of one tick could not be told apart
            os.utime(file, ns=(0, file.stat().st_mtime_ns - 10**9))
    assert len(entries(tmp_path)) == 2
    assert cached(tmp_path / "c", "1", lambda: pytest.fail("the newest is there")) == {}
