"""Which files a pack reads, and under which names."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from memvec.errors import NotFoundError, UsageError
from memvec.sources import gather


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.txt", "b.py", "sub/a.txt", "sub/deep/c.md", ".hidden", "s.memvec/manifest.json"):
        file = tmp_path / "tree" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(name)
    return tmp_path / "tree"


def names(*args: object, **kwargs: object) -> list[str]:
    return [source.name for source in gather(*args, **kwargs)[0]]  # type: ignore[arg-type]


def test_names_are_relative_and_in_order(folder: Path) -> None:
    assert names([folder], store=folder / "s.memvec") == [".hidden", "a.txt", "b.py", "sub/a.txt", "sub/deep/c.md"]
    assert names([folder / "b.py", folder / "sub"]) == ["a.txt", "b.py", "deep/c.md"]


def test_globs(folder: Path) -> None:
    assert names([folder], include=["*.txt"]) == ["a.txt", "sub/a.txt"]
    assert names([folder], exclude=["sub/*", ".*", "manifest.json"]) == ["a.txt", "b.py"]
    assert names([folder], include=["*.txt", "*.md"], exclude=["sub/a*"]) == ["a.txt", "sub/deep/c.md"]


def test_excluded_things_are_not_even_skipped(folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    (folder / "loop").symlink_to(folder)
    assert sorted(name for name, _ in gather([folder])[1]) == ["loop", "pipe"]
    found, skipped, _ = gather([folder], exclude=["pipe", "loop", "sub", "s.memvec"])
    assert [s.name for s in found] == [".hidden", "a.txt", "b.py"] and skipped == []
    assert gather([folder], include=["*.py"])[1] == []


def test_names_cannot_steer_a_terminal(folder: Path) -> None:
    os.mkfifo(folder / "\x1b[31mred\n")
    ((name, _),) = gather([folder])[1]
    assert name == "\\x1b[31mred\\n"


def test_two_files_of_one_name_are_refused(folder: Path) -> None:
    with pytest.raises(UsageError, match=r"a\.txt"):
        gather([folder / "a.txt", folder / "sub"])


def test_missing_paths_are_named(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="nothing-here"):
        gather([tmp_path / "nothing-here"])


def test_names_no_store_can_hold_are_skipped(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "good").write_bytes(b"x")
    (tree / "back\\slash").write_bytes(b"x")
    with open(os.path.join(os.fsencode(tree), b"latin-\xe9"), "wb") as file:
        file.write(b"x")
    found, skipped, _ = gather([tree])
    assert [source.name for source in found] == ["good"]
    assert len(skipped) == 2
    "".join(name + why for name, why in skipped).encode()  # can be printed
