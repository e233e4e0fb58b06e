"""Measured figures in the pages and in README: each is read from a JSON file in benchmarks/results/, never typed.

A page under docs/ has placeholders, which the build fills:

    {{ fit memvec.token_steps.median .0f }}      file without .json, path in it, format (Python's, `,.0f` or `.1%`)
    {{ table fit }}                              a call of a function that `fill` was given, with its arguments

README.md is read without a build. It has the figure itself, with a mark behind it that a reader does not see:

    37<!-- = fit memvec.token_steps.median .0f -->

    python docs/hooks/figures.py README.md       writes every marked figure anew

The paths are those of the JSON and of what views.py derives from it. `tests/docs/test_figures.py` holds both kinds.
"""

from __future__ import annotations

import functools
import json
import re
import shlex
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import views

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
PLACEHOLDER = re.compile(r"\{\{\s*(.+?)\s*\}\}")
NUMBER = r"[−-]?\d[\d,]*(?:\.\d+)?%?"
MARK = re.compile(rf"({NUMBER})?<!-- = (.*?) -->")


class FigureError(ValueError):
    """A placeholder or a mark names no figure. The message says where and what there is."""


@functools.cache
def view(name: str) -> Mapping[str, Any]:
    """Return the results of `name`.json with the values derived from them."""
    file = RESULTS / f"{name}.json"
    if not file.is_file():
        known = ", ".join(sorted(path.stem for path in RESULTS.glob("*.json")))
        raise FigureError(f"expected a file of benchmarks/results/, found {name!r}; there are {known}")
    raw = json.loads(file.read_text("utf-8"))
    derive = views.DERIVED.get(name.partition("-")[0])
    return {**raw, **derive(raw)} if derive else raw


def figure(name: str, path: str, spec: str) -> str:
    """Return the value at a dotted `path` of a results file, formatted by `spec`.

    Raises:
        FigureError: There is no such file, path or format.
    """
    value: Any = view(name)
    for key in path.split("."):
        try:
            value = value[int(key) if isinstance(value, list) else key]
        except (KeyError, IndexError, ValueError, TypeError):
            there = ", ".join(value) if isinstance(value, Mapping) else f"{type(value).__name__}"
            raise FigureError(f"expected a path in {name}.json, found {path!r}: no {key!r} in: {there}") from None
    if isinstance(value, str):
        return value
    if not isinstance(value, int | float):
        raise FigureError(f"expected the path of a number in {name}.json, found {path!r}: a {type(value).__name__}")
    try:
        return format(value, spec).replace("-", "−")
    except ValueError as error:
        raise FigureError(f"expected a format such as .0f for {name} {path}, found {spec!r}") from error


def fill(text: str, functions: Mapping[str, Callable[..., str]]) -> str:
    """Return the text of a page with every placeholder replaced.

    Raises:
        FigureError: A placeholder names neither a figure nor one of `functions`.
    """

    def filled(match: re.Match[str]) -> str:
        first, *rest = shlex.split(match[1])
        if first in functions:
            return functions[first](*rest)
        return figure(first, *_path_and_spec(match[1], rest))

    return PLACEHOLDER.sub(filled, text)


def refreshed(text: str) -> str:
    """Return the text of README with each marked figure as its file has it.

    Raises:
        FigureError: A mark names no figure, or no number stands before it.
    """

    def written(match: re.Match[str]) -> str:
        if match[1] is None:
            raise FigureError(f"expected a number right before <!-- = {match[2]} -->, found none")
        name, *rest = shlex.split(match[2])
        return f"{figure(name, *_path_and_spec(match[2], rest))}<!-- = {match[2]} -->"

    return MARK.sub(written, text)


def _path_and_spec(said: str, rest: list[str]) -> tuple[str, str]:
    if len(rest) != 2:
        raise FigureError(f"expected a file, a path and a format, as in fit memvec.steps.median .0f; found {said!r}")
    return rest[0], rest[1]


def main() -> None:
    """Write the marked figures of the given files anew."""
    for name in sys.argv[1:]:
        file = Path(name)
        before = file.read_text("utf-8")
        after = refreshed(before)
        if after != before:
            file.write_text(after, "utf-8")
        print(f"{name}: {len(MARK.findall(after))} figures, {'changed' if after != before else 'none changed'}")


if __name__ == "__main__":
    main()
