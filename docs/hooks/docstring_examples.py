"""An extension of griffe: `Example:` of a docstring is shown as code, as griffe shows only `Examples:`."""

from __future__ import annotations

import re
from typing import Any

import griffe

SECTION = re.compile(r"^Example:\n((?:(?: {4}.*)?\n?)+)", re.MULTILINE)


def shown(docstring: str) -> str:
    """The docstring with a section that griffe knows; lines without prompts get a fence."""

    def section(match: re.Match[str]) -> str:
        block = match[1]
        return "Examples:\n" + (block if ">>>" in block else f"    ```python\n{block.rstrip()}\n    ```\n\n")

    return SECTION.sub(section, docstring)


class Examples(griffe.Extension):
    """Change each docstring as it is read."""

    def on_instance(self, *, obj: Any, **_: Any) -> None:
        """Called for every module, class, function and attribute."""
        if obj.docstring:
            obj.docstring.value = shown(obj.docstring.value)
