"""Tables: aligned for wide characters, of full width off a terminal, folded and in colours on one."""

from __future__ import annotations

import re
import subprocess
import sys
import time

import pytest
from rich.cells import cell_len

from memvec.cli import tables
from memvec.cli.tables import clock, facts, table

WIDE = ["ascii", "日本語.txt", "e\u0301te\u0301", "😀 smile", "ＡＢ", "👨‍👩‍👧 family", ""]
ROWS = [("name", "bytes", "note"), *((name, f"{len(name) * 1000:,}", "x") for name in WIDE)]
LONG = [("name", "bytes"), ("long/" * 30 + "name.txt", "1,234,567"), ("b", "2")]
ESCAPES = re.compile(r"\x1b\[[\d;]*m")


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Standard output is a terminal of 60 columns with colours."""
    monkeypatch.setattr("memvec.cli.tables.is_terminal", lambda **_: True)
    monkeypatch.setattr("memvec.cli.terminal.is_terminal", lambda **_: True)
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "60")
    return monkeypatch


class TestPlain:
    """A pipe or a file: one line a row."""

    def test_columns(self) -> None:
        """The first column is on the left, the others on the right, without spaces at the end."""
        made = table([("name", "bytes", ""), ("a", "1", "x"), ("long one", "20", "")])
        assert made == "  name      bytes\n  a             1  x\n  long one     20"

    def test_wide_characters(self) -> None:
        """Figures end in the same cell below each other."""
        lines = table(ROWS).splitlines()
        assert len({cell_len(line) for line in lines}) == 1 and len({len(line) for line in lines}) > 1

    def test_full_width(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Nothing is folded or cut in a pipe."""
        monkeypatch.setenv("COLUMNS", "40")
        lines = table(LONG).splitlines()
        assert len(lines) == len(LONG) and LONG[1][0] in lines[1]

    def test_no_colours(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A pipe gets no escape codes, whatever the environment asks for."""
        for name in ("FORCE_COLOR", "CLICOLOR_FORCE", "TTY_COMPATIBLE"):
            monkeypatch.setenv(name, "1")
        assert "\x1b" not in table(ROWS) + facts([("a", "b")])

    def test_no_rows(self) -> None:
        assert table([]) == ""

    def test_speed(self) -> None:
        """Rich would take half a minute for these rows."""
        rows = [(f"documents/日本/{number}.txt", *[f"{number:,}"] * 8) for number in range(50_000)]
        start = time.perf_counter()
        table(rows)
        assert time.perf_counter() - start < 15


class TestTerminal:
    """A terminal: names are folded, figures stay whole."""

    def test_folding(self, terminal: pytest.MonkeyPatch) -> None:
        lines = ESCAPES.sub("", table(LONG)).splitlines()
        assert len(lines) > len(LONG) and max(map(cell_len, lines)) <= 60
        assert "1,234,567" in lines[1] and LONG[1][0] in "".join(line.strip().split(" ")[0] for line in lines)

    def test_figures(self, terminal: pytest.MonkeyPatch) -> None:
        """No figure is cut, also where the terminal is too narrow for the table."""
        terminal.setenv("COLUMNS", "20")
        rows = [("name", *"abcdefgh"), ("a long name of a document", *["1,234,567"] * 8)]
        assert ESCAPES.sub("", table(rows)).count("1,234,567") == 8

    def test_same_cells(self, terminal: pytest.MonkeyPatch) -> None:
        """Where everything fits, a terminal and a pipe show the same text."""
        shown = ESCAPES.sub("", table(ROWS))
        terminal.setattr("memvec.cli.tables.is_terminal", lambda **_: False)
        assert [line.rstrip() for line in shown.splitlines()] == table(ROWS).splitlines()

    @pytest.mark.parametrize("value", ["[bold]x[/]", ":smile:", "http://x.y 12 True", "a\\[b"])
    def test_markup(self, terminal: pytest.MonkeyPatch, value: str) -> None:
        """A name is text: rich reads no markup, emoji or numbers in it."""
        assert table([("name",), (value,)]).splitlines()[1].strip() == value

    def test_facts(self, terminal: pytest.MonkeyPatch) -> None:
        """A long value goes on below itself."""
        lines = ESCAPES.sub("", facts([("key", "word " * 30), ("k", "v")])).splitlines()
        assert len(lines) > 3 and all(line.startswith("       word") for line in lines[1:-1])

    def test_many_rows(self, terminal: pytest.MonkeyPatch) -> None:
        """A long table is not given to rich, which would take seconds."""
        terminal.setattr("memvec.cli.tables.rendered", None)
        assert table([("a",)] * (tables.LONG + 1))


class TestColours:
    """Colours only on a terminal, and never against the user's wish."""

    def test_on(self, terminal: pytest.MonkeyPatch) -> None:
        assert "\x1b[1m" in table(ROWS) and "\x1b[36m" in facts([("a", "b")])

    @pytest.mark.parametrize("name, value", [("NO_COLOR", "1"), ("TERM", "dumb"), ("TERM", "unknown")])
    def test_off(self, terminal: pytest.MonkeyPatch, name: str, value: str) -> None:
        terminal.setenv("FORCE_COLOR", "1")
        terminal.setenv(name, value)
        assert "\x1b" not in table(ROWS) + facts([("a", "b")])

    def test_dumb_width(self, terminal: pytest.MonkeyPatch) -> None:
        """TERM=dumb does not change the width."""
        terminal.setenv("TERM", "dumb")
        terminal.setenv("COLUMNS", "200")
        assert LONG[1][0] in table(LONG)


class TestTime:
    @pytest.mark.parametrize("seconds, shown", [(7, "0:07"), (59.6, "1:00"), (3723, "1:02:03")])
    def test_clock(self, seconds: float, shown: str) -> None:
        assert clock(seconds) == shown

    def test_import(self) -> None:
        """Alignment of ASCII needs nothing of rich."""
        program = (
            "import sys; from memvec.cli.tables import table; table([('a', 'b')] * 3); print('rich' in sys.modules)"
        )
        assert subprocess.check_output([sys.executable, "-c", program], text=True) == "False\n"
