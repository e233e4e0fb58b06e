"""The cache folder, for files that memvec can make again, and a temporary folder in its place if it cannot be used."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import stat
import tempfile
from pathlib import Path

from platformdirs import user_cache_path

NOWHERE = Path(os.devnull) / "memvec"  # nothing can be read or written below it


def cache_root() -> Path:
    """$MEMVEC_CACHE, else the user's cache folder, else `temporary_root`. It may be missing or not writable."""
    if named := os.environ.get("MEMVEC_CACHE"):
        return Path(os.path.abspath(os.path.expanduser(named)))
    try:
        found = user_cache_path("memvec")
    except RuntimeError:  # neither HOME nor an entry for this user, as under `docker run -u`
        return temporary_root()
    return found if found.is_absolute() else temporary_root()


def temporary_root() -> Path:
    """A folder for temporary files. All processes of a user share it, unless another user could have written to it."""
    try:
        base = _base()
    except FileNotFoundError:  # the system has no folder for temporary files that can be written to
        return NOWHERE
    user = os.getuid() if hasattr(os, "getuid") else 0
    folder = base / f"memvec-{user}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = os.lstat(folder)
    except OSError:
        return _own(base)
    private = stat.S_ISDIR(found.st_mode) and not found.st_mode & 0o022 and found.st_uid == user
    return folder if private or not hasattr(os, "getuid") else _own(base)


def roots() -> tuple[Path, ...]:
    """The places to look in, and to write to, in this order."""
    return tuple(dict.fromkeys((cache_root(), temporary_root())))


def _base() -> Path:
    return Path(tempfile.gettempdir())


@functools.cache
def _own(base: Path) -> Path:
    """A folder of this process alone, removed when it ends."""
    try:
        made = tempfile.mkdtemp(prefix="memvec-", dir=base)
    except OSError:
        return NOWHERE
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return Path(made)
