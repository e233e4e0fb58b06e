"""Tables as text. Columns align for wide characters too, and no figure is ever cut.

On a terminal `rich` draws a table in the terminal's width: long names are folded. Elsewhere a row is one line of any
length. There rich would do no more than put in spaces, at 0.5 ms a row: a minute for 100,000 documents.
"""

from __future__ import annotations

from collections.abc import Sequence

from memvec.cli.streams import is_terminal
from memvec.cli.terminal import columns, rendered

GAP = 2  # cells between columns
LONG = 1000  # rows; a longer table would take rich more than half a second
NARROWEST = 12  # cells; a name is folded to no less

Row = Sequence[str]


def table(rows: Sequence[Row], alignment: str = "lr", *, heading: bool = True, indent: str = "  ") -> str:
    """Rows as aligned columns, without spaces at the ends of lines.

    Args:
        rows: The cells; all rows are of one length. With `heading` the first row holds the headings.
        alignment: For each column `l` or `r`, left or right. The last letter holds for all further columns.
        heading: Show the first row as headings.
        indent: In front of each line.
    """
    if not rows:
        return ""
    sides = alignment.ljust(len(rows[0]), alignment[-1])[: len(rows[0])]
    widths = [max(_cells(row[column]) for row in rows) for column in range(len(rows[0]))]
    if is_terminal(err=False) and len(rows) <= LONG:
        lines = _folded(rows, sides, widths, heading, columns() - len(indent)).splitlines()
    else:
        lines = [_line(row, sides, widths) for row in rows]
    return "\n".join((indent + line).rstrip() for line in lines)


def facts(rows: Sequence[tuple[str, str]]) -> str:
    """A name and a value on each line."""
    return table(rows, "l", heading=False)


def clock(seconds: float) -> str:
    """Seconds as 1:02:03 or 2:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def optional(value: float | None, form: str = ".2f") -> str:
    """A figure, or a dash if there is none."""
    return "-" if value is None else format(value, form)


def _cells(text: str) -> int:
    """The cells that `text` takes in a terminal: two for a Chinese character, none for a combining one."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def _line(row: Row, sides: str, widths: Sequence[int]) -> str:
    cells = []
    for text, side, width in zip(row, sides, widths, strict=True):
        space = " " * (width - _cells(text))
        cells.append(space + text if side == "r" else text + space)
    return (" " * GAP).join(cells)


def _folded(rows: Sequence[Row], sides: str, widths: Sequence[int], heading: bool, width: int) -> str:
    """The table in `width` cells. Columns on the left are folded; where that is not enough, the terminal wraps."""
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=None, show_header=heading, header_style="bold", padding=(0, GAP, 0, 0), pad_edge=False)
    least = [wide if side == "r" else min(wide, NARROWEST) for side, wide in zip(sides, widths, strict=True)]
    for number, side in enumerate(sides):
        drawn.add_column(
            Text(rows[0][number]) if heading else "",
            justify="right" if side == "r" else "left",
            style="cyan" if number == 0 and not heading else "",
            no_wrap=side == "r",
            overflow="fold",
            min_width=least[number],
        )
    for row in rows[1:] if heading else rows:
        drawn.add_row(*map(Text, row))
    return rendered(drawn, max(width, sum(least) + GAP * (len(least) - 1)))
