"""The modules of the repository, for tests that hold rules over all of them."""

from __future__ import annotations

import ast
import functools
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = {"memvec": "memvec", "memvec.cli": "cli", "memvec.formats": "formats", "memvec.integrations": "integrations"}


def modules(*folders: str) -> list[Path]:
    """Every module below `folders`, at any depth; below all source folders if none is named.

    `memvec/cli`, `memvec/formats` and `memvec/integrations` are links to folders at the top level and are left out.
    """
    found = [file for folder in folders or FOLDERS.values() for file in sorted((ROOT / folder).rglob("*.py"))]
    return [file for file in found if not any((ROOT / up).is_symlink() for up in file.relative_to(ROOT).parents)]


def module_name(file: Path) -> str:
    """The dotted name under which a file is imported: `cli/main.py` is `memvec.cli.main`."""
    parts = file.relative_to(ROOT).with_suffix("").parts
    dotted = ".".join(parts if parts[0] == "memvec" else ("memvec", *parts))
    return dotted.removesuffix(".__init__")


def packages() -> dict[str, Path]:
    """Every package by its dotted name."""
    return {module_name(file): file.parent for file in modules() if file.name == "__init__.py"}


@functools.cache
def places() -> dict[str, Path]:
    """Every module by its dotted name."""
    return {module_name(file): file for file in modules()}


@functools.cache
def imports(file: Path) -> frozenset[str]:
    """The modules of memvec that a file imports anywhere: at its top, in functions, for types."""
    known = places().keys()
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inside = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= inside & known or {node.module}
    return frozenset(found & known)
