"""Rules for the text of errors and for their causes, held over all sources."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from tree import ROOT, modules

LIBRARY = modules("memvec", "formats", "integrations")
PROGRAM = modules("cli")

# Where a cause is left out: (file, function): why.
WITHOUT_CAUSE = {
    ("cli/cmd_capacity.py", "_numbers"): "the cause is what the user typed, and the message shows it",
    ("cli/cmd_search.py", "_least"): "the cause is what the user typed, and the message shows it",
}
# Flags of other programs.
FOREIGN = re.compile(r"(-m )?pip install.*|iconv .*")


def name(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


def functions(tree: ast.AST, inside: str = "") -> Iterator[tuple[str, ast.AST]]:
    """Every node with the name of the function that it is in."""
    for node in ast.iter_child_nodes(tree):
        here = node.name if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) else inside
        yield here, node
        yield from functions(node, here)


def test_causes() -> None:
    """Errors are raised from their causes: without them a fault is hard to report."""
    found = set()
    for file in (*LIBRARY, *PROGRAM):
        for where, node in functions(ast.parse(file.read_text())):
            if isinstance(node, ast.Raise) and isinstance(node.cause, ast.Constant):
                found.add((name(file), where))
    assert found <= set(WITHOUT_CAUSE), "raise it from its cause, or say here why not"


def texts(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Strings that are not docstrings. The pieces of an f-string are joined."""
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.lineno, node.value


@pytest.mark.parametrize("file", LIBRARY, ids=name)
def test_no_flags(file: Path) -> None:
    """The library names `overwrite=True` and `memvec.verify(…)`. The command line makes flags and commands of them."""
    for line, text in texts(ast.parse(file.read_text())):
        assert not re.search(r"`memvec [a-z]", text), f"{name(file)}:{line} names a command: {text!r}"
        flags = re.findall(r"(?:(?<=[\s`(])|^)(?:--[a-z][a-z-]+|-[a-z])(?=[\s`.,;:)]|$)", FOREIGN.sub("", text))
        assert not flags, f"{name(file)}:{line} speaks of {flags}: {text!r}"


@pytest.mark.parametrize("file", LIBRARY, ids=name)
def test_sentences(file: Path) -> None:
    """Messages of UsageErrors and NotFoundErrors end with a full stop, so that a next sentence can follow."""
    for node in ast.walk(ast.parse(file.read_text())):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and len(node.args) == 1):
            continue
        if node.func.id not in ("UsageError", "NotFoundError", "_NoRoom", "_NoText"):
            continue
        said = node.args[0]
        last = said.values[-1] if isinstance(said, ast.JoinedStr) else said
        if isinstance(last, ast.Constant):
            assert str(last.value).endswith("."), f"{name(file)}:{node.lineno}: {last.value!r}"
