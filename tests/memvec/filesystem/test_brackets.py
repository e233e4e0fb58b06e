"""Character classes match as in git."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from memvec.filesystem.names import Patterns, select

PATTERNS = (
    "data[!0-9]",
    "data[^x]a",
    "[!a][!b]",
    "[[:alpha:]]",
    "[[:digit:]x]",
    "[![:alpha:]]",
    "x[\\]]",
    "x[]]",
    "x[!]]",
    "[a-]",
    "[z-a]",
    "[a\\-c]",
    "[[]",
    "[/]",
    "x[[:nope:]]",
    "data/**",
)
NAMES = ("a", "b", "x", "x]", "z", "-", "[", "1", "data/a", "data/xa", "data5", "datax", "ab", "cd/a", "x1/b")


@pytest.mark.parametrize("pattern", PATTERNS)
def test_as_git(pattern: str, tmp_path: Path) -> None:
    """Every pattern takes the names that git ignores."""
    if shutil.which("git") is None:
        pytest.skip("there is no git")
    for name in NAMES:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "rules").write_text(f"{pattern}\n")
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    listed = ["git", "ls-files", "-z", "--others", "--exclude-from=rules"]
    kept = subprocess.run(listed, cwd=tmp_path, check=True, capture_output=True, text=True).stdout.split("\0")
    ours = Patterns([pattern])
    assert {name for name in NAMES if not ours.take(name)} == {name for name in NAMES if name in kept}


def test_negated() -> None:
    """A negated class does not match a slash."""
    assert not Patterns("data[!0-9]").ignore("data", folder=True)
    assert select("data[!0-9]a", {"data/a", "dataxa"}, removed=()).names == ("dataxa",)


def test_excluded_folder() -> None:
    """A file in an excluded folder stays excluded."""
    rules = Patterns(["*", "!data/**"])
    assert rules.ignore("data", folder=True)
    assert Patterns(["*", "!/"]).ignore("data", folder=True)
