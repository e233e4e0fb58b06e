"""The table of exit codes in README.md, made from the error classes: `python -m memvec.cli.exit_codes` prints it."""

from __future__ import annotations

import re
from collections.abc import Iterator

from memvec.cli.streams import CLOSED_PIPE, emit
from memvec.errors import MemvecError

# What no error class stands for.
OTHERS = {
    0: "All is well",
    1: "Unexpected: most likely a bug",
    129: "Stopped by SIGHUP: the terminal was closed",
    130: "Stopped by Ctrl-C",
    CLOSED_PIPE: "The program that read the output has ended",
    143: "Stopped by SIGTERM",
}


def table() -> str:
    """A row for each class, in order of code and then of kinship, as Markdown."""
    rows = [(code, "", meaning) for code, meaning in OTHERS.items()]
    rows += [(cls.exit_code, f"`{cls.__name__}`", _meaning(cls)) for cls in _classes(MemvecError)]
    lines = [f"| {code} | {name} | {meaning} |" for code, name, meaning in sorted(rows, key=lambda row: row[0])]
    return "\n".join(["| exit code | error | meaning |", "|---|---|---|", *lines])


def _classes(base: type[MemvecError]) -> Iterator[type[MemvecError]]:
    for cls in base.__subclasses__():
        if cls.__module__ == base.__module__:  # what a host program derives is not ours
            yield cls
            yield from _classes(cls)


def _meaning(cls: type[MemvecError]) -> str:
    """The first sentence of a class's docstring, up to what it says of attributes."""
    (first, *_) = (cls.__doc__ or "").strip().splitlines()
    return re.split(r"[;.](?: |$)", first)[0]


if __name__ == "__main__":
    emit(f"{table()}\n")
