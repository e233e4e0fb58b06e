"""The write lock of a store: one writer at a time. A first pack that commits nothing leaves no folder."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from memvec.errors import MemvecError, StoreDamagedError, StoreLockedError, UsageError
from memvec.filesystem import paths
from memvec.formats import files, limits, manifest
from memvec.formats.refusal import Refusal
from memvec.store.store import Store
from memvec.types import Problem

LOCK_NAME = "LOCK"
LONGEST_WAIT = 1_000_000  # seconds; some systems cannot wait longer
# Files that a killed first pack may leave, beside unfinished writes.
OWN_NAMES = (LOCK_NAME, "shards", "keys", "catalogue")


@contextlib.contextmanager
def writing(path: str | Path, wait: float = 0.0, dry_run: bool = False) -> Iterator[None]:
    """Hold the write lock of the store at `path`. The folder is made if it does not exist.

    A dry run writes nothing, so it takes no lock.

    Args:
        path: The store's folder.
        wait: How long to wait for another writer [s].
        dry_run: Take no lock.

    Raises:
        StoreLockedError: Another process holds the lock.
        UsageError: The folder holds other files than a store's, or is in another store.
        StoreDamagedError: The lock is no regular file.
        ReadError, WriteError: The system refuses to read or write.
    """
    path = Path(path)
    if not 0 <= wait <= LONGEST_WAIT:
        raise UsageError(f"lock_wait is {wait}, expected 0 to {LONGEST_WAIT} seconds.")
    try:
        _refuse_foreign(path)
        made = not path.exists()
    except OSError as error:
        raise error if isinstance(error, MemvecError) else files.read_error(path, error) from error
    if dry_run:
        yield
        return
    _check_lock(path)
    lock = _acquire(path, wait)
    try:
        _sign(path / LOCK_NAME)
        yield
    finally:
        if made and not _committed(path):
            shutil.rmtree(path, ignore_errors=True)  # a first pack that committed nothing leaves no folder
        lock.release()


def _acquire(path: Path, wait: float) -> FileLock:
    lock = FileLock(path / LOCK_NAME)
    while True:
        files.make_folder(path)
        try:
            lock.acquire(timeout=wait)
            return lock
        except Timeout as error:
            waited = f" after {wait:g} s" if wait else ""
            raise StoreLockedError(
                f"another process is writing to {str(path)!r}{waited}: {_holder(path)}. Wait for it to end "
                "and try again, or pass lock_wait=SECONDS."
            ) from error
        except OSError as error:
            if path.is_dir():
                raise files.write_error(path / LOCK_NAME, error) from error
            # else: the writer we waited for removed its empty store; make the folder again


def _sign(file: Path) -> None:
    """Write into the lock's file which process holds it. Only people read it."""
    with contextlib.suppress(OSError):  # a full disk is reported by the first write that matters
        file.write_text(f"process {os.getpid()} on {socket.gethostname()}\n", encoding="utf-8")


def _check_lock(path: Path) -> None:
    """Raise StoreDamagedError if the lock is a link or a pipe: locking would overwrite the target of a link."""
    try:
        files.size_of(path, LOCK_NAME)
    except Refusal as refusal:
        if refusal.code != "missing-file":
            problem = Problem(LOCK_NAME, "invalid_value", f"{refusal}. Remove it", refusal.code)
            raise StoreDamagedError([problem]) from refusal


def _holder(path: Path) -> str:
    try:
        signed = files.read(path, LOCK_NAME, 1000).decode("utf-8").strip()
    except (OSError, ValueError):
        signed = ""
    return signed[:200] if signed.isprintable() and signed else "it does not say which"


def _committed(path: Path) -> bool:
    """Was anything committed to the store at `path`, or may it have been?"""
    try:
        if files.listing(path, "shards", "*.safetensors"):
            return True
        return manifest.decode(files.read(path, manifest.FILE_NAME, limits.MANIFEST_BYTES + 1)).generation > 0
    except Refusal as refusal:
        return refusal.code != "missing-file"
    except (ValueError, RecursionError, MemvecError):  # damaged or of a newer format, so do not delete it
        return True


def _refuse_foreign(path: Path) -> None:
    """Raise UsageError unless there is a store, an empty folder or nothing at `path`."""
    if Store.exists(path):
        return
    paths.outside(Path(os.path.realpath(path)).parent, "store")  # a store in another store would become part of it
    if not path.exists():
        return
    if not path.is_dir() or any(
        entry.name not in OWN_NAMES and not entry.name.startswith(files.SCRATCH) for entry in path.iterdir()
    ):
        raise UsageError(f"{str(path)!r} exists and is no memvec store. Choose another name.")
