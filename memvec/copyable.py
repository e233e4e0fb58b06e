"""Exceptions that can be copied, also between processes, without losing their attributes."""

from __future__ import annotations

from typing import Any

# Attributes that OSError and ImportError hold outside __dict__.
_SLOTS = ("errno", "strerror", "filename", "filename2", "name", "path", "msg")


class Copyable(BaseException):
    """An exception that can be copied, also to another process, whatever arguments its __init__ takes.

    Python copies an exception by calling its class with `args`, which is the message alone. A copy made here skips
    __init__ and gets the message, the attributes and the notes of the original.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        """The recipe by which copy.copy, copy.deepcopy and process pools make the same error again."""
        slots = {name: getattr(self, name) for name in _SLOTS if getattr(self, name, None) is not None}
        return _again, (type(self), self.args), {**slots, **self.__dict__}


def _again(cls: type[Copyable], args: tuple[Any, ...]) -> Copyable:
    builtin: Any = cls
    while builtin.__module__ != "builtins":
        builtin = builtin.__base__  # not by the MRO: Python refuses the __new__ of another class than this
    error: Copyable = builtin.__new__(cls)
    error.args = args
    return error
