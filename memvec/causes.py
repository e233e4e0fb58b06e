"""What an error of a library shows: that memory ran out, or a mistake in memvec's own code, or neither."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from errno import ENOMEM

from memvec.errors import MemvecError, OutOfMemoryError

# What torch and the system say where they have no class of their own for it.
SAID = ("not enough memory", "out of memory", "cannot allocate memory", "can't allocate memory", "failed to allocate")
MISTAKES = (AttributeError, TypeError, NameError, AssertionError, IndexError)


def out_of_memory(error: BaseException) -> bool:
    """Did memory run out, of the machine or of a GPU?"""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if isinstance(error, OSError):
        return error.errno == ENOMEM
    return isinstance(error, Exception) and any(words in str(error).lower() for words in SAID)


def own_mistake(error: BaseException) -> bool:
    """Is it a mistake that memvec's own code made, not a library that was given bad input?"""
    if not isinstance(error, MISTAKES):
        return False
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    return place is not None and str(place.tb_frame.f_globals.get("__name__", "")).split(".")[0] == "memvec"


@contextmanager
def enough_memory(what: str) -> Iterator[None]:
    """Turn running out of memory into an OutOfMemoryError that names `what` was to be done."""
    try:
        yield
    except Exception as error:
        if isinstance(error, MemvecError) or not out_of_memory(error):
            raise
        raise OutOfMemoryError(what, error) from error
