"""Turn errors of the system that no verb has handled into errors of memvec, with an exit code and the path."""

from __future__ import annotations

import errno
import os

from memvec.causes import out_of_memory
from memvec.cli.streams import reason
from memvec.errors import MemvecError, NotFoundError, OutOfMemoryError, ReadError, WriteError

WRITING = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)  # only a write fails with these
REFUSED = (errno.EACCES, errno.EPERM)
TOO_MANY_FILES = (errno.EMFILE, errno.ENFILE)


def as_memvec_error(error: Exception) -> Exception:
    """Return memvec's error for an error of the system. Return any other error unchanged."""
    if isinstance(error, MemvecError):
        return error
    if out_of_memory(error):
        return OutOfMemoryError("finish the command", error)
    if not isinstance(error, OSError) or isinstance(error, ImportError):
        return error
    place, said = _place(error), reason(error)
    if error.errno in TOO_MANY_FILES:
        return ReadError(place, f"{said}. `ulimit -n` shows the limit; raise it to 256 or more")
    if error.errno == errno.ENOENT:
        return NotFoundError(f"{place!r} does not exist: {said}. Check the path; another program may have removed it.")
    if error.errno in WRITING or (error.errno in REFUSED and _written(place)):
        return WriteError(place, said)
    return ReadError(place, said)


def _place(error: OSError) -> str:
    found = error.filename2 or error.filename
    if found is None or isinstance(found, int):
        return "a file or folder that the system does not name"
    return os.fsdecode(found)


def _written(place: str) -> bool:
    """Was the refused access to `place` a write? Yes if the file can be read, or if there is no file."""
    if not os.access(os.path.dirname(place) or ".", os.X_OK):
        return False  # the folder cannot be looked into
    return not os.path.lexists(place) or os.access(place, os.R_OK)
