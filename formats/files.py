"""Read and write the files of a store. Links and pipes are refused, and a write is complete or has no effect. SPEC §2.

The path to the store's folder may contain links. Inside the store there are none.
"""

from __future__ import annotations

import contextlib
import errno
import fnmatch
import hashlib
import os
import secrets
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from memvec.errors import MemvecError, ReadError, WriteError
from memvec.formats.refusal import Refusal

Data = bytes | memoryview | Iterable[bytes | memoryview]  # of a file, as a whole or in pieces
SCRATCH = ".tmp-"  # names of unfinished files begin so
AT_ONCE = 1 << 22  # bytes read at once for hashing
# Failures of this process or machine. They say nothing about the file.
OUT_OF_HANDLES = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
# Without O_NONBLOCK, opening a pipe waits for a writer. Windows has neither flag.
_READ = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


def read(root: Path, relative: str, limit: int | None = None) -> bytes:
    """Read a file of a store, or its first `limit` bytes. Raises Refusal as `size_of` does, and ReadError."""
    size_of(root, relative)
    with open_regular(root / relative) as file:
        return file.read() if limit is None else file.read(limit)


@contextlib.contextmanager
def open_regular(path: Path) -> Iterator[IO[bytes]]:
    """Open `path` for reading if it is a regular file. Never blocks.

    Only the last part of the path is checked; `size_of` checks the folders. Raises Refusal and ReadError, the latter
    also for an OSError inside the block.
    """
    try:
        _check_regular(os.lstat(path), path.name)  # before it is opened: opening a device can have an effect
        handle = os.open(path, _READ)
        with os.fdopen(handle, "rb") as file:
            _check_regular(os.fstat(handle), path.name)  # it may have been replaced in the meantime
            yield file
    except MemvecError:  # from inside the block; some of them are OSErrors too
        raise
    except (FileNotFoundError, NotADirectoryError) as error:
        raise _missing() from error
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise _linked(path.name) from error
        raise read_error(path, error) from error


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file, in hex. Links are followed. OSError."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(AT_ONCE):
            digest.update(block)
    return digest.hexdigest()


def size_of(root: Path, relative: str) -> int:
    """Return the size of a regular file below `root`. Refusal if it is missing, no regular file, or behind a link; ReadError."""
    path, below = root, PurePosixPath(relative).parts
    found = None
    for part in below:
        path = path / part
        try:
            found = os.lstat(path)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise _missing() from error
        except OSError as error:
            raise read_error(path, error) from error
        if stat.S_ISLNK(found.st_mode):
            raise _linked(part)
    assert found is not None, relative
    _check_regular(found, below[-1])
    return found.st_size


def listing(root: Path, folder: str, pattern: str = "*") -> list[str]:
    """Return the names in a folder of a store that match a glob, ascending; none if there is no such folder.

    Raises Refusal if the folder is a link or a file, and ReadError.
    """
    path = root / folder
    try:
        found = os.lstat(path)
        if folder and stat.S_ISLNK(found.st_mode):
            raise _linked(folder)
        return sorted(name for name in os.listdir(path) if fnmatch.fnmatchcase(name, pattern))
    except FileNotFoundError:
        return []
    except NotADirectoryError as error:
        raise Refusal("not-a-file", f"{folder or path.name!r} is no folder") from error
    except OSError as error:
        raise read_error(path, error) from error


def write_atomically(path: Path, data: Data) -> None:
    """Write `data` to `path` so that a crash at any moment leaves the old file or the new one. WriteError."""
    scratch = path.parent / f"{SCRATCH}{secrets.token_hex(8)}"
    try:
        write_new(scratch, data)
        os.replace(scratch, path)
        sync_folder(path.parent)
    except OSError as error:
        raise write_error(path, error) from error
    finally:
        with contextlib.suppress(OSError):  # the first error is reported
            scratch.unlink()


def write_new(path: Path, data: Data, sync: bool = True) -> None:
    """Write a new file. OSError if it exists or cannot be written completely. With `sync` it is on disk on return."""
    # Not by tempfile, which gives mode 0600: here the mode follows the umask.
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
    with os.fdopen(handle, "wb") as file:
        file.writelines([data] if isinstance(data, bytes | memoryview) else data)
        file.flush()
        if sync:
            os.fsync(file.fileno())


def make_folder(path: Path, inside: bool = False) -> None:
    """Make the folder `path` if it does not exist. It is on disk on return. WriteError.

    With `inside`, for a folder inside a store, a link is refused.
    """
    try:
        if inside and path.is_symlink():
            raise WriteError(str(path), "it is a link, and a store holds its files itself")
        if path.is_dir():
            return
        path.mkdir(parents=True, exist_ok=True)
        sync_folder(path.parent)
    except MemvecError:
        raise
    except OSError as error:
        raise write_error(path, error) from error


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to disk, if the system can."""
    if os.name == "posix":
        flush(folder, os.O_RDONLY)


def flush(path: Path, flags: int = os.O_RDWR) -> None:
    """Flush a file, opened with `flags`, to disk."""
    handle = os.open(path, flags)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_error(path: Path, error: OSError) -> WriteError:
    """Return the WriteError for an OSError about `path`. It has the same errno."""
    found = WriteError(str(path), error.strerror or str(error))
    found.errno = error.errno
    return found


def read_error(path: Path, error: OSError) -> ReadError:
    """Return the ReadError for an OSError about `path`. It has the same errno."""
    found = ReadError(str(path), error.strerror or str(error))
    found.errno = error.errno
    return found


def _check_regular(found: os.stat_result, name: str) -> None:
    if stat.S_ISLNK(found.st_mode):
        raise _linked(name)
    if not stat.S_ISREG(found.st_mode):
        raise Refusal("not-a-file", "it is no regular file")


def _missing() -> Refusal:
    return Refusal("missing-file", "the store names this file but it is not there")


def _linked(name: str) -> Refusal:
    return Refusal("symlink", f"{name!r} is a link; a store holds its files itself. Copy what it leads to")
