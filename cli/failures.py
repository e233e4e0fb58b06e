"""Give system errors that no verb has handled a class of memvec, an exit code and the path they are about."""

from __future__ import annotations

import errno
import os

from memvec.causes import out_of_memory
from memvec.cli.streams import reason
from memvec.errors import MemvecError, NotFoundError, OutOfMemoryError, ReadError, WriteError

WRITING = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)  # only a write can fail so
REFUSED = (errno.EACCES, errno.EPERM)
TOO_MANY_FILES = (errno.EMFILE, errno.ENFILE)


def typed(error: Exception) -> Exception:
    """Return memvec's error for a system error, and any other error unchanged."""
    if isinstance(error, MemvecError):
        return error
    if out_of_memory(error):
        return OutOfMemoryError("finish the command", error)
    if not isinstance(error, OSError) or isinstance(error, ImportError):
        return error
    place, said = _place(error), reason(error)
    if error.errno in TOO_MANY_FILES:
        return ReadError(place, f"{said}. `ulimit -n` is the limit, raise it to 256 or more")
    if error.errno == errno.ENOENT:
        return NotFoundError(f"{place!r} is not there: {said}. Was it removed meanwhile? Check the path.")
    if error.errno in WRITING or (error.errno in REFUSED and _written(place)):
        return WriteError(place, said)
    return ReadError(place, said)


def _place(error: OSError) -> str:
    found = error.filename2 or error.filename
    if found is None or isinstance(found, int):
        return "a file or folder that the system does not name"
    return os.fsdecode(found)


def _written(place: str) -> bool:
    """Was the refused access to `place` a write? It was if the file can be read, or if there is no file."""
    if not os.access(os.path.dirname(place) or ".", os.X_OK):
        return False  # nothing can be known of what is in there
    return not os.path.lexists(place) or os.access(place, os.R_OK)
