"""The write lock of a store: one writer at a time, and a first pack that commits nothing leaves no trace."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from memvec.errors import StoreLockedError, UsageError
from memvec.formats import manifest

LOCK_NAME = "LOCK"


@contextlib.contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Hold the write lock of the store at `path`, made when missing; StoreLockedError when another process has it."""
    path = Path(path)
    _refuse_foreign(path)
    made = not path.exists()
    path.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path / LOCK_NAME)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise StoreLockedError(
            f"another process is writing to {str(path)!r}. Wait for it to end and try again."
        ) from None
    try:
        yield
    finally:
        if made and not any((path / "shards").glob("*.safetensors")):
            shutil.rmtree(path, ignore_errors=True)  # a first pack that committed nothing leaves no trace
        lock.release()


def _refuse_foreign(path: Path) -> None:
    """UsageError when something else than a store, an empty folder or nothing is at `path`."""
    if not path.exists() or (path / manifest.FILE_NAME).exists():
        return
    if not path.is_dir() or any(entry.name not in (LOCK_NAME, "shards") for entry in path.iterdir()):
        raise UsageError(f"{str(path)!r} exists and is no memvec store. Choose another name for -o.")
