"""Describe a fault in a file of a store: as a `Problem` of a report, or as the StoreDamagedError to raise."""

from __future__ import annotations

from memvec.errors import ReadError, StoreDamagedError
from memvec.formats import files
from memvec.formats.refusal import code_of
from memvec.types import Problem, ProblemKind

# The formats refuse bytes with Refusal, a ValueError. A parser that fails in another way has met damage as well.
PARSE_ERRORS = (ValueError, OverflowError, RecursionError)

_KINDS: dict[str, ProblemKind] = {"missing-file": "missing_file", "digest-mismatch": "digest_mismatch"}


def problem(location: str, error: Exception) -> Problem:
    """Return the problem that `error` found at `location`: one of PARSE_ERRORS, or a ReadError.

    Raises:
        ReadError: `error` itself, if the fault is in this process and not in the file.
    """
    if not isinstance(error, ReadError):
        return Problem(location, _KINDS.get(code_of(error), "invalid_value"), str(error), code_of(error))
    if error.errno in files.OUT_OF_HANDLES:
        raise error
    return Problem(location, "unreadable", f"the system could not read it ({error.reason})")


def damaged(location: str, kind: ProblemKind, message: str) -> StoreDamagedError:
    """Return a StoreDamagedError with one problem."""
    return StoreDamagedError([Problem(location, kind, message)])


def refused(location: str, error: Exception) -> StoreDamagedError:
    """Return a StoreDamagedError with the problem that a parser found at `location`."""
    return StoreDamagedError([problem(location, error)])
