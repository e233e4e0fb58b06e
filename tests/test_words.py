"""Phrases that readers stumble over stand nowhere in the repository."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from tree import ROOT

FOLDERS = ("memvec", "cli", "formats", "integrations", "docs", "tests", "benchmarks", "examples", "README.md")
# The log tells what happened and stays as it was written. Texts and models are data.
LEFT_OUT = (
    "docs/LOG.md",
    "tests/test_words.py",
    "tests/tiny/",
    "tests/vectors/",
    "benchmarks/texts/",
    "benchmarks/facts/",
)
ENDINGS = {".py", ".md", ".toml", ".yml", ".yaml", ".txt"}
BANNED = (
    "nothing of them",
    "nothing of it",
    "cannot be meant",
    "what counts",
    "whole or not at all",
    "who opened",
    "made of any more",
    "count again",
    "counts again",
    "what stays of",
    "written anew",
    "which begins with a text",
    "all have company",
    "what is said of",
    "whoever",
    "what he reads",
)


def files() -> list[Path]:
    """The text files of the repository that people read."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", *FOLDERS],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    found = [Path(name) for name in listed.stdout.splitlines()]
    return [file for file in found if file.suffix in ENDINGS and not file.as_posix().startswith(LEFT_OUT)]


def plain(text: str) -> str:
    """The text in lower case on one line, without the marks of comments, quotes and lists at the start of lines."""
    return re.sub(r"\s+", " ", re.sub(r"""["']?\n[ \t]*(?:#|>|[-*] |f?["'])?""", " ", text)).lower()


def phrases(text: str) -> list[str]:
    """The banned phrases in a text, also those in names and those that run over the end of a line."""
    told = plain(text.replace("_", " "))
    return [phrase for phrase in BANNED if re.search(rf"\b{re.escape(phrase)}\b", told)]


def test_a_phrase_is_found_across_lines() -> None:
    """In prose, in comments, in strings that are joined and in names."""
    assert phrases("Nothing\n    # of them") == ["nothing of them"]
    assert phrases('    f"they cannot be "\n    f"meant"') == ["cannot be meant"]
    assert phrases("The account again") == []
    assert phrases("def test_what_counts()") == ["what counts"]


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="needs a checkout")
def test_no_banned_phrase() -> None:
    found = {file.as_posix(): phrases((ROOT / file).read_text()) for file in files() if (ROOT / file).is_file()}
    assert len(found) > 300
    assert {name: wrong for name, wrong in found.items() if wrong} == {}
