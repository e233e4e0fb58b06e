"""Cache the results of reading a checkpoint's files, so that the next call compares only the files' dates.

An entry is valid while every file in the folder has the same name, size, inode and times of change. There are two times:
of the content and of the inode. This detects a file that was replaced or written to, even if its date was set back. It
cannot detect damage below the file system, or a write while the clock is set back to the earlier moment.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from memvec.checkpoints.traits import sha256
from memvec.filesystem.cache_folder import roots
from memvec.formats import canonical, files

RECENT_NS = 2_000_000_000  # two changes within this time may have the same date on a coarse file system [ns]
MOST = 100  # most entries; the oldest are deleted
FINGERPRINTS = "fingerprints"

Stamp = list[list[Any]]  # [name, size, mtime_ns, ctime_ns, inode] of each file

_unwritten: dict[str, Mapping[str, Any]] = {}  # entries by name, if no place can be written to


def cached(
    folder: Path, version: str, make: Callable[[], Mapping[str, Any]], shelf: str = FINGERPRINTS
) -> dict[str, Any]:
    """Return what `make` reads from the files in `folder`, from the cache if none has changed.

    `version` is that of `make`. Each `shelf` has its own entry for a folder. OSError if the folder cannot be read.
    """
    before = stamp(folder)
    head = {"folder": ascii(str(folder.resolve())), "version": version, "files": before}
    name = f"{shelf}/{sha256(head['folder'])[:32]}.json"
    for root in roots():
        if (found := _read(root / name, head)) is not None:
            return found
    if (body := _unwritten.get(name)) is not None and _is_of(body, head):
        return dict(body["value"])
    value = dict(make())
    youngest = max((max(entry[2], entry[3]) for entry in before), default=0)
    if stamp(folder) == before and time.time_ns() - youngest > RECENT_NS:
        _store(name, head | {"value": value})
    return value


def stamp(folder: Path) -> Stamp:
    """A value that changes when a file in `folder` is changed, added or removed. OSError."""
    # Names as ASCII: JSON has no place for bytes that are no UTF-8.
    found = [(path.name, path.stat()) for path in sorted(folder.iterdir()) if path.is_file()]
    return [[ascii(name), s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino] for name, s in found]


def _is_of(body: Mapping[str, Any], head: Mapping[str, Any]) -> bool:
    return all(body[name] == value for name, value in head.items())


def _read(file: Path, head: Mapping[str, Any]) -> dict[str, Any] | None:
    """The value in an entry. None if the entry is damaged, or of another version or other files."""
    try:
        if not file.is_file():  # reading a pipe would never end
            return None
        body = canonical.unseal("entry", file.read_bytes())
        if not _is_of(body, head):
            return None
        value: dict[str, Any] = body["value"]
        return value
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _store(name: str, body: Mapping[str, Any]) -> None:
    """Write an entry to the first place that can be written to. Without one, it lasts as long as this process."""
    for root in roots():
        try:
            _write(root / name, body)
            return
        except OSError:
            continue
    _unwritten[name] = body
    for old in list(_unwritten)[:-MOST]:
        _unwritten.pop(old, None)


def _write(file: Path, body: Mapping[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    files.write_atomically(file, canonical.seal("entry", body))
    entries = sorted(file.parent.glob("*.json"), key=_date)
    for old in entries[:-MOST]:
        old.unlink(missing_ok=True)


def _date(file: Path) -> float:
    try:
        return os.path.getmtime(file)
    except OSError:  # another process deleted it
        return 0.0
