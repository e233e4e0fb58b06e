"""Types of string parameters, which check a command line before any work: paths and names are not empty, texts are UTF-8.

A path may hold any bytes that the file system accepts. Everything else must be UTF-8: it is compared with names in a
store, written into one, or given to a tokenizer. Python marks other bytes by lone surrogates ("surrogateescape").
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


class PathType(_Type):
    """A path in any bytes. It is not empty."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Refuse an empty path: it would mean the current folder."""
        if value == "":
            self.fail(EMPTY, param, ctx)
        return value


class TextType(_Type):
    """A text in UTF-8. It may be empty: the command checks that."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Refuse other bytes than UTF-8."""
        return _utf8(self, value, param, ctx)


class NameType(_Type):
    """A name, a pattern or a model in UTF-8. It is not empty."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Refuse an empty string and other bytes than UTF-8."""
        if value == "":
            self.fail(EMPTY, param, ctx)
        return _utf8(self, value, param, ctx)


PATH, TEXT, NAME = PathType(), TextType(), NameType()

# Parameters by name. Every other string parameter is a NAME, so a new one is checked too.
PATHS = frozenset(["store", "stores", "sources", "file", "folder", "path", "questions", "texts", "exact", "plot"])
TEXTS = frozenset({"prompt", "query", "answer"})


def set_types(command: click.Command) -> click.Command:
    """Give one of these types to each string parameter of a command and of its subcommands."""
    for param in command.params:
        if param.type is click.STRING:
            param.type = PATH if param.name in PATHS else TEXT if param.name in TEXTS else NAME
    if isinstance(command, click.Group):
        for each in command.commands.values():
            set_types(each)
    return command


def _utf8(kind: _Type, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
    """`value` without lone surrogates, or the error of click."""
    try:
        value.encode()
        return value
    except UnicodeEncodeError:
        pass
    try:  # in a locale of ASCII Python takes valid UTF-8 for other bytes
        return os.fsencode(value).decode()
    except UnicodeError:
        shown = value.encode("utf-8", "backslashreplace").decode()
        kind.fail(f"'{shown}' is not UTF-8. Pass it as UTF-8.", param, ctx)
