"""The answer of a command: a result or one JSON object on standard output, messages and progress on standard error."""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import click

from memvec.cli.streams import ReaderGoneError, emit, is_terminal
from memvec.errors import WriteError
from memvec.filesystem.plain_text import printable
from memvec.progress import Progress

SCHEMA = "memvec.cli/1"  # the version of the objects of --json; cli/schemas/ describes them
NOTHING_FOUND = "nothing matches"  # of a search without hits
REDRAW_SECONDS = 0.2  # between two drawings on a terminal
LINE_SECONDS = 20.0  # between two lines where standard error is no terminal


@dataclass(slots=True)
class Call:
    """One run of the program, for the code that reports its errors."""

    as_json: bool
    answered: bool = False  # the JSON object was printed, or a part of it
    command: click.Command | None = None


@dataclass(slots=True)
class Output:
    """The form of the answer, as --json, -q and --no-progress ask for it."""

    as_json: bool = False
    quiet: bool = False
    progress: bool = True
    _drawn: float = field(default=0.0, init=False)
    _stage: str = field(default="", init=False)
    _cells: int = field(default=0, init=False)  # of the progress line that is on the terminal now

    def result(self, value: Mapping[str, Any], text: str | Callable[[], str], notice: bool = False) -> None:
        """Print a result: `value` with --json, else `text`. A notice is not printed with -q.

        Pass a function as `text` if it draws a table: --json then saves the time.
        """
        self.clear()
        if self.as_json:
            print_json(value)
        elif not (notice and self.quiet) and (shown := text if isinstance(text, str) else text()):
            emit(f"{shown}\n")

    def note(self, text: str) -> None:
        """Print a remark on standard error."""
        self.clear()
        emit(f"memvec: {text}\n", err=True)

    def watch(self, progress: Progress) -> None:
        """Show progress: redraw a line on a terminal, print a line now and then elsewhere."""
        if self.quiet or not self.progress:
            return
        terminal, now = is_terminal(), time.monotonic()
        if progress.stage == self._stage and now - self._drawn < (REDRAW_SECONDS if terminal else LINE_SECONDS):
            return
        self._drawn, self._stage = now, progress.stage
        from memvec.cli import progress_line
        from memvec.cli.terminal import columns

        if not terminal:
            emit(f"memvec: {progress_line.words(progress)}\n", err=True)
            return
        line, cells = progress_line.drawn(progress, columns(err=True) - 1)
        emit("\r" + line + " " * (self._cells - cells), err=True)
        self._cells = cells

    def clear(self) -> None:
        """Remove the progress line from the terminal."""
        if self._cells:
            emit("\r" + " " * self._cells + "\r", err=True)
            self._cells = 0


def print_json(value: Mapping[str, Any]) -> None:
    """Print one JSON object with its schema on standard output. A later error of this run prints only its message."""
    context = click.get_current_context(silent=True)
    if context and isinstance(context.obj, Call):
        context.obj.answered = True  # also if only a part gets out: a second object would not mend it
    emit(json.dumps({"schema": SCHEMA, **_valid(value)}, allow_nan=False) + "\n")


def print_error(kind: str, message: str, code: int, as_json: bool, said: bool = False) -> None:
    """Print an error on standard error, unless it was `said`, and as an object on standard output with --json."""
    if not said:
        emit(f"memvec: {printable_lines(message)}\n", err=True)
    if as_json:
        with contextlib.suppress(WriteError, ReaderGoneError):  # report the first error, not this one
            print_json({"error": {"type": kind, "message": message, "exit_code": code}})


def printable_lines(text: str) -> str:
    """Escape each line of a message as `printable` does: the names in it may come from a stranger's store."""
    return "\n".join(map(printable, text.split("\n")))


def _valid(value: Any) -> Any:
    """`value` as JSON can express it: null for numbers that are not finite, lone surrogates escaped."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {_valid(key): _valid(member) for key, member in value.items()}
    if isinstance(value, list | tuple):
        return [_valid(member) for member in value]
    return value
