"""Files that are whole or absent: write beside, flush to disk, rename. What a store may read: no links. SPEC §2."""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path, PurePosixPath

from memvec.errors import WriteError
from memvec.formats.refusal import Refusal

SCRATCH = ".tmp-"  # how the name of a file begins that is not whole yet


def write_atomically(path: Path, data: bytes) -> None:
    """Put `data` at `path` so that a crash at any moment leaves the old file or the new one, on disk. WriteError."""
    scratch = path.parent / f"{SCRATCH}{secrets.token_hex(8)}"
    try:
        _write(scratch, data)
        os.replace(scratch, path)
        sync_folder(path.parent)
    except OSError as error:
        raise refused(path, error) from error
    finally:
        scratch.unlink(missing_ok=True)


def make_folder(path: Path) -> None:
    """A folder at `path`, on disk when this returns, unless it is there. WriteError."""
    if path.is_dir():
        return
    try:
        path.mkdir(parents=True, exist_ok=True)
        sync_folder(path.parent)
    except OSError as error:
        raise refused(path, error) from error


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to disk where the system knows how."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def size_of(root: Path, relative: str) -> int:
    """Bytes of a regular file below `root`. Refusal when it is not there, is something else, or lies behind a link."""
    path, below = root, PurePosixPath(relative).parts
    for part in below:
        path = path / part
        try:
            found = os.lstat(path)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise Refusal("missing-file", "the store names this file but it is not there") from error
        if stat.S_ISLNK(found.st_mode):
            raise Refusal("symlink", f"{part!r} is a link; a store holds its files itself. Copy what it leads to")
    if not stat.S_ISREG(found.st_mode):
        raise Refusal("not-a-file", "it is no regular file")
    return found.st_size


def refused(path: Path, error: OSError) -> WriteError:
    """The error of memvec for what the system said when it was to write `path`."""
    return WriteError(str(path), error.strerror or str(error))


def _write(path: Path, data: bytes) -> None:
    # Opened by hand for its mode: it follows the umask, where tempfile would give 0600.
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    with os.fdopen(handle, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
