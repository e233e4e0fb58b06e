"""One line about a running verb: its stage, the share done, the time left and counts."""

from __future__ import annotations

import sys

from memvec.cli.tables import clock
from memvec.cli.terminal import rendered
from memvec.filesystem.plain_text import printable
from memvec.progress import Progress

BAR = 20  # cells
ASCII = str.maketrans({"·": "|", "…": "..."})


def words(p: Progress) -> str:
    """The line as plain text, for a log."""
    share = done(p)
    percent = "" if share is None else f" {share:.0%} ·"
    return _shown(f"{printable(p.stage)}{percent} {_counts(p)}".rstrip(" ·"))


def drawn(p: Progress, width: int) -> tuple[str, int]:
    """The line for a terminal, with a bar and in its colours: at most `width` cells. Return it and its cells."""
    from rich.cells import cell_len
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    share, stage, crop = done(p), _shown(printable(p.stage)), {"no_wrap": True, "overflow": "crop"}
    room = width - BAR - 2  # for words; the bar has a space on both sides
    grid = Table.grid(padding=(0, 1), pad_edge=False)
    if share is None or room < 2:
        grid.add_column(**crop)  # type: ignore[arg-type]
        grid.add_row(Text(words(p)))
    else:
        first = min(cell_len(stage), room - 1)  # of too many words the last ones are cut
        for cells in (first, BAR, room - first):
            grid.add_column(width=cells, **crop)  # type: ignore[arg-type]
        bar = ProgressBar(total=1.0, completed=share, width=BAR)
        grid.add_row(Text(stage), bar, Text(_shown(f"{share:.0%} · {_counts(p)}")))
    line, *_ = rendered(grid, max(1, width), err=True).splitlines() or [""]
    return line, cell_len(Text.from_ansi(line).plain)


def done(p: Progress) -> float | None:
    """The share done, by segments in a pack and by tokens elsewhere. None as long as it is not known."""
    if not p.tokens or not p.seconds:
        return None
    return min(1.0, p.segments_done / p.segments if p.segments else p.tokens_done / p.tokens)


def _counts(p: Progress) -> str:
    documents = f"{p.documents_done}/{p.documents} documents"
    if done(p) is None:
        return f"· {documents}" if p.documents_done else ""
    exact = f" · {p.exact} exact" if p.exact else ""
    work = f"{p.segments_done}/{p.segments} segments{exact}" if p.segments else f"{p.tokens_done}/{p.tokens} tokens"
    left = "…" if p.seconds_left is None else f"{clock(p.seconds_left)} left"
    return f"{left} · {work} · {p.tokens_per_second:.1f} tokens/s · {documents}"


def _shown(line: str) -> str:
    """The line in characters that standard error can show."""
    try:
        line.encode(sys.stderr.encoding or "utf-8")
    except (AttributeError, UnicodeError):  # AttributeError: no stderr
        return line.translate(ASCII)
    return line
