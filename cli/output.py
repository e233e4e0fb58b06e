"""What commands share: the common options, JSON on stdout, messages and progress on stderr."""

from __future__ import annotations

import functools
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import click
from click.exceptions import Exit

from memvec.errors import MemvecError, UsageError
from memvec.progress import Progress

F = TypeVar("F", bound=Callable[..., None])

SCHEMA = "memvec.cli/1"
REDRAW_SECONDS = 0.2
CLOSED_PIPE = 128 + 13  # what a shell says of a program that SIGPIPE ended
LINE_SECONDS = 20.0  # between lines where stderr is no terminal


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
            if (context := click.get_current_context(silent=True)) and context.obj is not None:
                context.obj.append(True)  # an error from now on has only its message
        elif text and not (notice and self.quiet):
            click.echo(text)

    def watch(self, progress: Progress) -> None:
        """Draw how far a verb is: in place on a terminal, now and then as a line elsewhere."""
        if self.quiet or not self.progress:
            return
        terminal, now = sys.stderr.isatty(), time.monotonic()
        if progress.stage == self._stage and now - self._drawn < (REDRAW_SECONDS if terminal else LINE_SECONDS):
            return
        self._drawn, self._stage = now, progress.stage
        line = describe(progress)
        if terminal:
            line = line[: shutil.get_terminal_size().columns - 1]
            click.echo("\r" + line.ljust(self._width), err=True, nl=False)
            self._width = len(line)
        else:
            click.echo(line, err=True)

    def clear(self) -> None:
        """Take a drawn progress line away."""
        if self._width:
            click.echo("\r" + " " * self._width + "\r", err=True, nl=False)
            self._width = 0


def common(command: F) -> F:
    """Add --json, -q and --no-progress; the command gets them as one `output`."""

    @click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
    @click.option("-q", "--quiet", is_flag=True, help="Print nothing but data and errors.")
    @click.option("--no-progress", is_flag=True, help="Draw no progress.")
    @functools.wraps(command)
    def wrapped(*args: Any, as_json: bool, quiet: bool, no_progress: bool, **kwargs: Any) -> None:
        output = Output(as_json, quiet, not no_progress)
        try:
            command(*args, output=output, **kwargs)
        except BrokenPipeError:  # the reader is gone: stay quiet, also when Python flushes at exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise Exit(CLOSED_PIPE) from None
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
    """One JSON object with its schema on stdout."""
    click.echo(json.dumps({"schema": SCHEMA, **value}))


def write_bytes(data: bytes) -> None:
    """Bytes as they are on stdout."""
    sys.stdout.flush()
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def print_error(error: Exception, code: int, as_json: bool) -> None:
    """An error in words on stderr, and as an object on stdout when JSON was asked for."""
    message = str(error)
    if isinstance(error, OSError) and not isinstance(error, MemvecError):
        message = f"{error}. Check the path, its permissions and the space left."
    elif code == 1:
        message = f"unexpected {type(error).__name__}: {error}. MEMVEC_TRACEBACK=1 shows where."
    click.echo(f"memvec: {printable_lines(message)}", err=True)
    if as_json:
        print_json_error(error, message, code)


def print_json_error(error: BaseException, message: str, code: int) -> None:
    """An error as an object on stdout."""
    print_json({"error": {"type": type(error).__name__, "message": message, "exit_code": code}})


def printable(name: str) -> str:
    """A name with control characters escaped, so that it cannot steer a terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)


def printable_lines(text: str) -> str:
    """The same of a message of several lines, which may hold a stranger's names."""
    return "\n".join(map(printable, text.split("\n")))
