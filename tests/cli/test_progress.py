"""Progress: a bar on a terminal, a line every 20 seconds elsewhere, nothing with -q."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.cells import cell_len

from memvec.cli import output as outputs
from memvec.cli import progress_line
from memvec.cli.output import Output
from memvec.progress import Progress

FITTING = Progress("fitting", 4, 1, 40, 10, 9, 2000, 500, 40000, 100.0, usual=60.0)
DECODING = Progress("decoding", 4, 1, tokens=2000, tokens_done=500, seconds=10.0)
ESCAPES = re.compile(r"\x1b\[[\d;]*m")


class Stream(io.StringIO):
    """A standard error that says it is a terminal, or that it is none."""

    def __init__(self, terminal: bool, encoding: str = "utf-8") -> None:
        super().__init__()
        self._terminal, self._encoding = terminal, encoding

    def isatty(self) -> bool:
        return self._terminal

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._encoding


@pytest.fixture
def open_screen(monkeypatch: pytest.MonkeyPatch) -> Callable[[], Stream]:
    """A function that makes standard error a terminal of 100 columns. Before a test begins pytest would undo that."""

    def opened() -> Stream:
        stream = Stream(terminal=True)
        monkeypatch.setattr("sys.stderr", stream)
        monkeypatch.setenv("COLUMNS", "100")
        monkeypatch.setenv("TERM", "xterm-256color")
        monkeypatch.delenv("NO_COLOR", raising=False)
        return stream

    return opened


class TestWords:
    """The line of a log."""

    def test_fitting(self) -> None:
        line = progress_line.words(FITTING)
        for part in ("fitting 25%", "1/4 documents", "10/40 segments", "9 exact", "5.0 tokens/s", "3:20 left"):
            assert part in line

    def test_decoding(self) -> None:
        line = progress_line.words(DECODING)
        assert "500/2000 tokens" in line and "0:30 left" in line

    def test_begun(self) -> None:
        """Without figures there is only the stage."""
        assert progress_line.words(Progress("loading the model")) == "loading the model"
        assert progress_line.words(Progress("reading", 9, 2)) == "reading · 2/9 documents"

    def test_strange_stage(self) -> None:
        assert progress_line.words(Progress("\x1b[2J")) == "\\x1b[2J"


class TestTerminal:
    """One line, drawn in place."""

    def test_bar(self, open_screen: Callable[[], Stream]) -> None:
        screen = open_screen()
        Output().watch(FITTING)
        line = screen.getvalue()
        assert line.startswith("\r") and "━" in line and "\x1b[" in line and "\n" not in line

    @pytest.mark.parametrize("width", [200, 100, 60, 30, 10, 1])
    @pytest.mark.parametrize(
        "progress", [FITTING, DECODING, Progress("日本語" * 30), Progress("日" * 90, 1, 1, 2, 1, tokens=2, seconds=1.0)]
    )
    def test_width(self, open_screen: Callable[[], Stream], width: int, progress: Progress) -> None:
        """The line is one line and fits, also with wide characters."""
        open_screen()
        line, cells = progress_line.drawn(progress, width)
        assert cells == cell_len(ESCAPES.sub("", line)) <= width and "\n" not in line

    def test_redraw(self, open_screen: Callable[[], Stream]) -> None:
        """A shorter line covers the longer one, and nothing is left in the end."""
        screen = open_screen()
        output = Output()
        output.watch(FITTING)
        output.watch(Progress("done"))
        output.clear()
        long, short, last, _ = screen.getvalue().split("\r")[1:]
        assert cell_len(ESCAPES.sub("", short)) == cell_len(ESCAPES.sub("", long)) > len("done")
        assert short.rstrip() == "done" and set(last) == {" "}

    def test_no_colours(self, open_screen: Callable[[], Stream], monkeypatch: pytest.MonkeyPatch) -> None:
        screen = open_screen()
        monkeypatch.setenv("NO_COLOR", "1")
        Output().watch(FITTING)
        shown = screen.getvalue()
        assert "\x1b" not in shown and "fitting ━" in shown

    def test_ascii(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A terminal of ASCII gets a bar of ASCII."""
        monkeypatch.setattr("sys.stderr", Stream(terminal=True, encoding="ascii"))
        line, _ = progress_line.drawn(FITTING, 100)
        assert line.isascii() and "---" in line

    def test_often(self, open_screen: Callable[[], Stream]) -> None:
        """It is not drawn for every token."""
        screen = open_screen()
        output = Output()
        for _ in range(50):
            output.watch(FITTING)
        assert screen.getvalue().count("\r") < 10


class TestLog:
    """Without a terminal."""

    def test_lines(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A new stage is said at once, then every 20 seconds."""
        stream, now = Stream(terminal=False), [0.0]
        monkeypatch.setattr("sys.stderr", stream)
        monkeypatch.setattr(outputs.time, "monotonic", lambda: now[0])
        output = Output()
        for now[0] in (100.0, 110.0, 119.9, 120.1, 130.0):
            output.watch(FITTING)
        output.watch(DECODING)
        lines = stream.getvalue().splitlines()
        assert [line.split()[:2] for line in lines] == [["memvec:", "fitting"]] * 2 + [["memvec:", "decoding"]]
        assert "\r" not in stream.getvalue() and "\x1b" not in stream.getvalue()

    @pytest.mark.parametrize("output", [Output(quiet=True), Output(progress=False)])
    def test_quiet(self, open_screen: Callable[[], Stream], output: Output) -> None:
        screen = open_screen()
        output.watch(FITTING)
        assert screen.getvalue() == ""


@pytest.mark.skipif(os.name != "posix", reason="needs a pseudo-terminal")
class TestRealTerminal:
    def test_cat(self, packed: Path, documents: dict[str, bytes]) -> None:
        """Progress on the terminal, data in the pipe."""
        import pty

        leader, follower = pty.openpty()
        command = [sys.executable, "-m", "memvec.cli", "cat", str(packed), "prose.txt"]
        environment = os.environ | {"TERM": "xterm", "COLUMNS": "70"}
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=follower, env=environment, check=True)
        os.close(follower)
        shown = b""
        try:
            while block := os.read(leader, 4096):
                shown += block
        except OSError:  # the end, on Linux
            pass
        os.close(leader)
        assert done.stdout == documents["prose.txt"] and b"\r" in shown and b"\n" not in shown
        *_, last, end = shown.split(b"\r")
        assert end == b"" and set(last) <= {ord(" ")}
