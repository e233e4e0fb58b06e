"""The exit codes, made from the error classes: a block of `memvec --help`, and a table in Markdown.

`python -m memvec.cli.exit_codes` prints the table.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from memvec.cli.streams import CLOSED_PIPE, emit
from memvec.errors import MemvecError

# Codes without an error class.
OTHERS = {
    0: "All is well",
    1: "Unexpected: most likely a bug",
    129: "Stopped by SIGHUP: the terminal was closed",
    130: "Stopped by Ctrl-C",
    CLOSED_PIPE: "The program that read the output has ended",
    143: "Stopped by SIGTERM",
}


def meanings() -> list[tuple[int, str]]:
    """Each exit code with one sentence, in ascending order. Of several classes with one code the base class speaks."""
    found = dict(OTHERS)
    for cls in _classes(MemvecError):
        found.setdefault(cls.exit_code, _meaning(cls))
    return sorted(found.items())


def table() -> str:
    """A row for each class, in order of code and then of kinship, as Markdown."""
    rows = [(code, "", meaning) for code, meaning in OTHERS.items()]
    rows += [(cls.exit_code, f"`{cls.__name__}`", _meaning(cls)) for cls in _classes(MemvecError)]
    lines = [f"| {code} | {name} | {meaning} |" for code, name, meaning in sorted(rows, key=lambda row: row[0])]
    return "\n".join(["| exit code | error | meaning |", "|---|---|---|", *lines])


def _classes(base: type[MemvecError]) -> Iterator[type[MemvecError]]:
    """The subclasses of `base` that memvec defines, each before its own subclasses."""
    for cls in base.__subclasses__():
        if cls.__module__ == base.__module__:  # a host program may derive more
            yield cls
            yield from _classes(cls)


def _meaning(cls: type[MemvecError]) -> str:
    """The first sentence of a class's docstring, up to its list of attributes."""
    (first, *_) = (cls.__doc__ or "").strip().splitlines()
    return re.split(r"[;.](?: |$)", first)[0]


if __name__ == "__main__":
    emit(f"{table()}\n")
