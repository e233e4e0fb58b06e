"""README: how long it may be, and that it runs as printed with the default model."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from printed import ROOT, Session, agrees, steps

README = (ROOT / "README.md").read_text()
SAID = re.sub(r"<!--.*?-->", "", README, flags=re.DOTALL)  # what a reader sees
NUMBER = re.compile(r"(?<![\w.])\d[\d,.]*\d|(?<![\w.])\d(?!\w)")


def test_it_is_short() -> None:
    """Lines, words with those in code blocks, and numbers outside of code."""
    prose = re.sub(r"```.*?```|`[^`]*`|\]\([^)]*\)", " ", SAID, flags=re.DOTALL)
    assert 120 <= len(README.splitlines()) <= 150
    assert len(SAID.split()) <= 900
    assert len(NUMBER.findall(prose)) <= 20, NUMBER.findall(prose)


def test_it_has_one_table() -> None:
    assert len(re.findall(r"^\|---", README, re.MULTILINE)) == 1
    assert len(re.findall(r"^\| (?!measured)[^-]", README, re.MULTILINE)) == 6


@pytest.mark.model
def test_it_runs_as_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsysbinary: Any) -> None:
    """Each command of the quick start and the program, in an empty folder, with the default model."""
    monkeypatch.chdir(tmp_path)
    session = Session(tmp_path, lambda command: command, capsysbinary)
    ran = []
    for step in steps(README):
        output = session.run(step)
        assert session.code == 0, f"{step.source}\n{output}"
        if step.language == "console":
            assert agrees(step.printed or "", output), f"{step.source}\n--- printed\n{step.printed}\n--- got\n{output}"
        ran.append(step.source.split()[:2])
    assert ["memvec", "pack"] in ran and ["memvec", "unpack"] in ran and ["memvec", "search"] in ran
    assert (tmp_path / "back/jane.txt").read_bytes() == (tmp_path / "letters/jane.txt").read_bytes()


@pytest.mark.parametrize("target", sorted(set(re.findall(r"make ([a-z-]+)", README)) | {"demo", "test"}))
def test_its_make_targets_exist(target: str) -> None:
    done = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, env=os.environ, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("requirement", re.findall(r"pip install (?:--no-deps )?([\w-]+==[\d.]+)", README))
def test_it_installs_what_the_makefile_installs(requirement: str) -> None:
    assert requirement in (ROOT / "Makefile").read_text()


def test_an_output_that_differs_is_noticed() -> None:
    """`…` stands for a part of a line or for lines, and for nothing else."""
    assert agrees("a … c\n…\nend\n", "a b c\nmore\nlines\nend\n") and agrees("…\nend", "end\n")
    assert not agrees("a … c\nend\n", "a b d\nend\n") and not agrees("a\n", "a\nb\n")


def test_steps_are_read_from_a_page(tmp_path: Path, capsysbinary: Any) -> None:
    page = "```console\n$ echo a \\\n    b\na b\n$ (exit 3)\n```\n\n<!-- not run: a GPU -->\n```python\nx = 1\n```\n\n```text\n1\n```\n"
    first, second, third = steps(page)
    assert (first.source, first.printed, first.line) == ("echo a b", "a b\n", 2)
    assert (third.runs, third.printed, third.language) == (False, "1\n", "python")
    session = Session(tmp_path, lambda command: command, capsysbinary)
    assert session.run(first) == "a b\n" and session.run(second) == "" and session.code == 3
