"""An extension of griffe: `Example:` of a docstring is shown as code, and a default that has a name as its value.

griffe by itself shows only `Examples:` as code, and the names of constants.
"""

from __future__ import annotations

import importlib
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


def valued(default: Any, module: str) -> Any:
    """The value of a default that is a constant of its module, as `DEFAULT_MODEL`; any other default as it is."""
    if not re.fullmatch(r"[A-Z][A-Z_]+", str(default)):
        return default
    value = getattr(importlib.import_module(module), str(default), default)
    return repr(value) if isinstance(value, (str, int, float, tuple)) else default


class Examples(griffe.Extension):
    """Change each docstring and each signature as it is read."""

    def on_instance(self, *, obj: Any, **_: Any) -> None:
        """Called for every module, class, function and attribute."""
        if obj.docstring:
            obj.docstring.value = shown(obj.docstring.value)

    def on_function_instance(self, *, func: Any, **_: Any) -> None:
        """Called for every function and method."""
        for parameter in func.parameters:
            parameter.default = valued(parameter.default, func.module.path)
