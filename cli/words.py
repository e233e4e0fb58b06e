"""Check the words of a command line before any work: paths and names are not empty, texts are UTF-8.

A path may hold any bytes that the file system accepts. Everything else must be UTF-8, because it is compared with names
in a store, written into one or given to a tokenizer. Python marks other bytes by lone surrogates ("surrogateescape").
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    _Type = click.ParamType[str]  # generic in stubs alone: not in every click that memvec works with
else:
    _Type = click.ParamType

EMPTY = "it is empty. Is a variable of the shell not set?"


class PathWord(_Type):
    """A path, as the file system has it."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Refuse an empty path: it would be the current folder."""
        if value == "":
            self.fail(EMPTY, param, ctx)
        return value


class TextWord(_Type):
    """A text. It may be empty: the command itself checks that."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Refuse what is not UTF-8."""
        return _utf8(self, value, param, ctx)


class Word(_Type):
    """A name, a pattern, a model: anything else that is written in letters."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Refuse what is empty or not UTF-8."""
        if value == "":
            self.fail(EMPTY, param, ctx)
        return _utf8(self, value, param, ctx)


PATH, TEXT, WORD = PathWord(), TextWord(), Word()

# Parameters by name. Every other string parameter is a WORD, so a new one is checked too.
PATHS = frozenset(
    ["store", "stores", "sources", "file", "folder", "path", "target", "questions", "texts", "exact", "plot"]
)
TEXTS = frozenset({"prompt", "query", "answer"})


def checked(command: click.Command) -> click.Command:
    """Set checked types on the string parameters of a command and of its subcommands."""
    for param in command.params:
        if param.type is click.STRING:
            param.type = PATH if param.name in PATHS else TEXT if param.name in TEXTS else WORD
    if isinstance(command, click.Group):
        for each in command.commands.values():
            checked(each)
    return command


def _utf8(kind: _Type, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
    try:
        value.encode()
        return value
    except UnicodeEncodeError:
        pass
    try:  # a locale that knows only ASCII hides good UTF-8
        return os.fsencode(value).decode()
    except UnicodeError:
        shown = value.encode("utf-8", "backslashreplace").decode()
        kind.fail(f"'{shown}' is not UTF-8. Pass it as UTF-8.", param, ctx)
