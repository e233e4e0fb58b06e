"""Read the code blocks of README and pages, run them, and compare what they print with what the page says.

A block may have a comment in front of it:

    <!-- not run: WHY -->               its options and names are checked, it is not run
    <!-- output of the default model -->  it is run, but only the default model prints this

In an output `…` stands for anything within a line, and a line with nothing but `…` for any number of lines.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(
    r"^(?:<!-- (?P<mark>[^\n]*?) -->\n\n?)?```(?P<language>\w+)\n(?P<text>.*?)^```\n(?:\n```text\n(?P<printed>.*?)^```\n)?",
    re.DOTALL | re.MULTILINE,
)
MEMVEC = re.compile(r"(?<![\w./-])memvec (?=[a-z])")


@dataclass(frozen=True)
class Step:
    """One command, or one Python block, with the output that the page prints behind it."""

    line: int
    language: str
    source: str
    printed: str | None
    runs: bool
    only_default: bool


def steps(page: str) -> Iterator[Step]:
    """Yield the commands and Python blocks of a page, in order."""
    for found in BLOCK.finditer(page):
        language, text, mark = found["language"], found["text"], found["mark"] or ""
        line = page.count("\n", 0, found.start("text")) + 1
        marks = not mark.startswith("not run"), mark == "output of the default model"
        if language == "python":
            yield Step(line, language, text, found["printed"], *marks)
        elif language == "console":
            for part in re.split(r"^(?=\$ )", text, flags=re.MULTILINE):
                if part.strip():
                    command, _, printed = part.partition("\n")
                    while command.endswith("\\"):
                        more, _, printed = printed.partition("\n")
                        command = command[:-1] + more.removeprefix(">").lstrip()
                    yield Step(line + text[: text.find(part)].count("\n"), language, command[2:], printed, *marks)


def agrees(printed: str, output: str) -> bool:
    """Whether an output is what the page prints, with `…` for anything."""
    lines = [line.rstrip() for line in printed.strip("\n").splitlines()]
    pattern = ""
    for line in lines:
        pattern += r"(?:[^\n]*\n)*" if line.strip() == "…" else re.escape(line).replace("…", r"[^\n]*") + r"\n"
    shown = "".join(line.rstrip() + "\n" for line in output.strip("\n").splitlines())
    return re.fullmatch(pattern, shown) is not None


def shape(text: str) -> str:
    """An output without what another model changes: figures and their plurals, digests, and how wide columns are."""
    text = re.sub(r"\b[0-9a-f]{12,}\b", "#", text)
    text = re.sub(r"[-−]?\d(?:[\d,.:]*\d)?(?:[–-]\d+)?|(?<= )-(?=\s)", "0", text)
    text = re.sub(r"(\b0|…) ([a-z]+[^s\W])s\b", r"\1 \2", text)
    return "\n".join(" ".join(line.split()) for line in text.splitlines())


class Session:
    """A folder in which the steps of one page run, one after the other."""

    def __init__(self, folder: Path, prepare: Callable[[str], str], capture: Any) -> None:
        self.folder, self.prepare, self.capture = folder, prepare, capture
        self.names: dict[str, Any] = {"__name__": "page"}
        self.code = 0

    def run(self, step: Step) -> str:
        """Run a step; what it printed, and the error message of a command that failed."""
        if step.language == "python":
            return self._python(step)
        command = self.prepare(step.source)
        if re.fullmatch(r"memvec [^|><&;$`]*", command):
            return self._memvec(shlex.split(command, comments=True)[1:])
        return self._shell(command)

    def _python(self, step: Step) -> str:
        out = io.StringIO()
        code = compile("\n" * step.line + step.source, "page", "exec")
        with contextlib.redirect_stdout(out):
            exec(code, self.names)  # noqa: S102  # a block of a page, which the tests are there to run
        return out.getvalue()

    def _memvec(self, arguments: list[str]) -> str:
        from memvec.cli.main import run

        self.capture.readouterr()
        self.code = run(arguments)
        out, err = (stream.decode() for stream in self.capture.readouterr())
        return out + (_message(err) if self.code else "")

    def _shell(self, command: str) -> str:
        shim = f'memvec() {{ {shlex.quote(sys.executable)} -m memvec.cli "$@"; }}'
        done = subprocess.run(
            ["bash", "-c", f"{shim}\nset -o pipefail\n(exit {self.code})\n{command}"],
            cwd=self.folder, capture_output=True, text=True, env=os.environ, check=False,
        )  # fmt: skip
        self.code = done.returncode
        return done.stdout + (_message(done.stderr) if self.code else "")


def _message(err: str) -> str:
    """The error message of a command, without what it said of its progress before."""
    lines = [line for line in err.splitlines() if line.strip()]
    begins = [i for i, line in enumerate(lines) if line.startswith(("memvec: ", "Error: "))]
    return "".join(line + "\n" for line in lines[begins[-1] if begins else 0 :])
