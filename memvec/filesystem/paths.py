"""Check paths that callers pass: those that are written into a store, and outputs, which are never inside a store."""

from __future__ import annotations

import os
from pathlib import Path

from memvec import arguments
from memvec.errors import ReadError, UsageError
from memvec.formats import files
from memvec.formats.manifest import FILE_NAME, HEAD
from memvec.formats.refusal import Refusal

SHARDS = f"shards/{'?' * 64}.safetensors"  # named by their digests


def keepable(value: str, name: str) -> str:
    """Return `value`, a path that can be written into a store.

    Raises:
        UsageError: `value` is not UTF-8. Python marks the bytes of such a path by lone surrogates.
    """
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise UsageError(
            f"{name} is {value!r}, a path that is not UTF-8, so it cannot be written into the store. Rename the folder, or "
            "make a link to it whose path is UTF-8."
        ) from error
    return value


def outside(target: str | os.PathLike[str], name: str, store: str | os.PathLike[str] | None = None) -> Path:
    """Return `target` as a path where an output may be written: in no store, neither `store` nor any other.

    Links are followed. The file system compares folders, so letter case does not matter if it ignores case.

    Args:
        target: The file or folder to be written.
        name: The caller's parameter, for the message.
        store: A folder that counts as a store even if it is damaged.

    Raises:
        UsageError: `target` is empty, is a store or lies in one, or is a device, a pipe or a socket.
    """
    wanted = Path(arguments.path(name, target))
    real = Path(os.path.realpath(wanted))
    if real.exists() and not real.is_file() and not real.is_dir():
        raise UsageError(f"{name} is {str(wanted)!r}, which is no regular file. Pass another {name}.")
    for folder in (real, *real.parents):
        if folder.is_dir() and (_same(folder, store) or is_store(folder)):
            raise UsageError(
                f"{name} is {str(wanted)!r}, which is in the store {str(folder)!r} and could destroy it. "
                f"Pass another {name}."
            )
    return wanted


def is_store(folder: Path) -> bool:
    """Is `folder` a store, damaged or not? It has the manifest of one, or shards."""
    try:
        if files.read(folder, FILE_NAME, len(HEAD)) == HEAD:
            return True
    except (Refusal, ReadError):
        pass
    return any(folder.glob(SHARDS))


def _same(folder: Path, store: str | os.PathLike[str] | None) -> bool:
    try:
        return store is not None and os.path.samefile(folder, store)
    except OSError:
        return False
