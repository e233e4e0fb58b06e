"""What commands share: the common options, JSON on stdout, messages and progress on stderr."""

from __future__ import annotations

import contextlib
import functools
import json
import math
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import click

from memvec.cli.streams import ReaderGoneError, emit, is_terminal
from memvec.errors import UsageError, WriteError
from memvec.filesystem.plain_text import printable
from memvec.progress import Progress

F = TypeVar("F", bound=Callable[..., None])

SCHEMA = "memvec.cli/1"
REDRAW_SECONDS = 0.2
LINE_SECONDS = 20.0  # between lines where stderr is no terminal
PLAIN = str.maketrans({"█": "#", "░": "-", "·": "|", "…": "..."})  # for terminals that know only ASCII


@dataclass(slots=True)
class Call:
    """One call of the program, for the place that reports its errors."""

    as_json: bool
    answered: bool = False  # the one JSON object is out, or begun
    command: click.Command | None = None


@dataclass(slots=True)
class Output:
    """How this call wants to be answered."""

    as_json: bool = False
    quiet: bool = False
    progress: bool = True
    _drawn: float = field(default=0.0, init=False)
    _stage: str = field(default="", init=False)
    _width: int = field(default=0, init=False)

    def result(self, value: Mapping[str, Any], text: str, notice: bool = False) -> None:
        """Print a result: `value` with --json, else `text`; of a mere notice nothing with -q."""
        self.clear()
        if self.as_json:
            print_json(value)
        elif text and not (notice and self.quiet):
            emit(f"{text}\n")

    def note(self, text: str) -> None:
        """Print a remark on stderr."""
        self.clear()
        emit(f"memvec: {text}\n", err=True)

    def watch(self, progress: Progress) -> None:
        """Draw how far a verb is: in place on a terminal, now and then as a line elsewhere."""
        if self.quiet or not self.progress:
            return
        terminal, now = is_terminal(), time.monotonic()
        if progress.stage == self._stage and now - self._drawn < (REDRAW_SECONDS if terminal else LINE_SECONDS):
            return
        self._drawn, self._stage = now, progress.stage
        line = _shown(describe(progress))
        if terminal:
            line = line[: max(0, shutil.get_terminal_size().columns - 1)]
            emit("\r" + line.ljust(self._width), err=True)
            self._width = len(line)
        else:
            emit(f"{line}\n", err=True)

    def clear(self) -> None:
        """Take a drawn progress line away."""
        if self._width:
            emit("\r" + " " * self._width + "\r", err=True)
            self._width = 0


def common(command: F) -> F:
    """Add --json, -q and --no-progress; the command gets them as one `output`."""

    @click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
    @click.option("-q", "--quiet", is_flag=True, help="Print nothing but data and errors.")
    @click.option("--no-progress", is_flag=True, help="Draw no progress.")
    @functools.wraps(command)
    def wrapped(*args: Any, as_json: bool, quiet: bool, no_progress: bool, **kwargs: Any) -> None:
        output, context = Output(as_json, quiet, not no_progress), click.get_current_context()
        if isinstance(context.obj, Call):
            context.obj.command, context.obj.as_json = context.command, as_json
        try:
            command(*args, output=output, **kwargs)
        finally:
            output.clear()

    return cast(F, wrapped)


lock_wait = click.option(
    "--lock-wait",
    type=click.FloatRange(0),
    default=0.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for another writer to end.",
)
documents = click.option(
    "--doc",
    "documents",
    multiple=True,
    metavar="NAME_OR_PATTERN",
    help="Only this document, or those that match. Repeatable.",
)
dry_run = click.option("--dry-run", is_flag=True, help="Say what would be done; change nothing.")


def describe(p: Progress) -> str:
    """One line: documents, segments, exact so far, tokens a second, time left."""
    if not p.tokens or not p.seconds:
        return f"memvec: {p.stage}" + (f" · {p.documents_done}/{p.documents} documents" if p.documents_done else "")
    packing = bool(p.segments)
    share = min(1.0, p.segments_done / p.segments if packing else p.tokens_done / p.tokens)
    bar = "█" * int(share * 10) + "░" * (10 - int(share * 10))
    done = (
        f"{p.segments_done}/{p.segments} segments" + (f" · {p.exact} exact" if p.exact else "")
        if packing
        else f"{p.tokens_done}/{p.tokens} tokens"
    )
    left = "…" if p.seconds_left is None else f"{clock(p.seconds_left)} left"
    documents = f"{p.documents_done}/{p.documents} documents"
    return f"{p.stage} {bar} {left} · {done} · {p.tokens_per_second:.1f} tokens/s · {documents}"


def pairs(given: Sequence[str], option: str) -> dict[str, str]:
    """{key: value} of options KEY=VALUE. UsageError."""
    split = [text.partition("=") for text in given]
    if bad := [text for text, (key, mark, _) in zip(given, split, strict=True) if not (key and mark)]:
        raise UsageError(f"{option} is {bad[0]!r}, expected KEY=VALUE.")
    return {key: value for key, _, value in split}


def aligned(rows: Sequence[Sequence[str]], indent: str = "  ") -> str:
    """A table, the first column to the left and all others to the right, without spaces at the ends of lines."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(f"{cell:{'>' if column else '<'}{widths[column]}}" for column, cell in enumerate(row)) for row in rows
    ]
    return "\n".join((indent + line).rstrip() for line in lines)


def clock(seconds: float) -> str:
    """1:02:03 or 2:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def print_json(value: Mapping[str, Any]) -> None:
    """Print one JSON object with its schema on stdout. After this an error of the same call has only its message."""
    context = click.get_current_context(silent=True)
    if context and isinstance(context.obj, Call):
        context.obj.answered = True  # also when only a part of it gets out: a second object would not mend it
    emit(json.dumps({"schema": SCHEMA, **_valid(value)}, allow_nan=False) + "\n")


def print_error(kind: str, message: str, code: int, as_json: bool, said: bool = False) -> None:
    """Print an error in words on stderr, unless it was `said`, and as an object on stdout when JSON was asked for."""
    if not said:
        emit(f"memvec: {printable_lines(message)}\n", err=True)
    if as_json:
        with contextlib.suppress(WriteError, ReaderGoneError):  # report the first error, not this one
            print_json({"error": {"type": kind, "message": message, "exit_code": code}})


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


def _shown(line: str) -> str:
    """A progress line in characters that stderr can show."""
    try:
        line.encode(sys.stderr.encoding or "utf-8")
    except (AttributeError, UnicodeError):  # AttributeError: no stderr
        return line.translate(PLAIN)
    return line


def printable_lines(text: str) -> str:
    """Escape each line of a message as `printable` does: a stranger's store may have chosen the names in it."""
    return "\n".join(map(printable, text.split("\n")))
