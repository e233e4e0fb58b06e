"""Render for a terminal with `rich`: its width, its colours, its characters. The result is text; `streams.emit` writes it.

There are colours only on a terminal, and none with NO_COLOR or TERM=dumb.
"""

from __future__ import annotations

import io
import os
import sys
from typing import TYPE_CHECKING

from memvec.cli.streams import is_terminal

if TYPE_CHECKING:
    from rich.console import RenderableType

DEFAULT_WIDTH = 80  # where neither COLUMNS nor the terminal says it
UNLIMITED = 1 << 20  # rows; the height never matters


def columns(*, err: bool = False) -> int:
    """The width of standard output, or of standard error, in cells."""
    try:
        given = int(os.environ.get("COLUMNS", ""))
    except ValueError:
        given = 0
    if given > 0:
        return given
    try:
        return os.get_terminal_size((sys.stderr if err else sys.stdout).fileno()).columns or DEFAULT_WIDTH
    except (AttributeError, OSError, ValueError):  # no stream, no terminal, closed
        return DEFAULT_WIDTH


def rendered(what: RenderableType, width: int, *, err: bool = False) -> str:
    """`what` as text of at most `width` cells a line, with the colours that the stream shows."""
    from rich.console import Console

    target = _Buffer(sys.stderr if err else sys.stdout)
    plain = bool(os.environ.get("NO_COLOR")) or not is_terminal(err=err)
    console = Console(
        file=target,
        width=width,
        height=UNLIMITED,  # rich takes the width only together with a height when TERM=dumb
        force_terminal=True,  # else FORCE_COLOR decides
        force_jupyter=False,
        color_system=None if plain else "auto",
        legacy_windows=False,
        markup=False,
        highlight=False,
        emoji=False,
    )
    console.print(what, soft_wrap=False)
    return "\n".join(line.rstrip() for line in target.getvalue().splitlines())


class _Buffer(io.StringIO):
    """Text in memory that has the encoding of a stream: rich draws bars of other characters for ASCII."""

    def __init__(self, stream: object) -> None:
        super().__init__()
        self._encoding = str(getattr(stream, "encoding", None) or "utf-8")

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """The encoding of the stream."""
        return self._encoding
