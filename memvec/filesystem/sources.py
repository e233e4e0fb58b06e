"""Which files a pack reads, and under which names. Knows no model and no store."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from memvec.errors import NotFoundError, UsageError
from memvec.filesystem.names import Patterns
from memvec.filesystem.plain_text import printable
from memvec.formats.documents import check_name
from memvec.formats.manifest import FILE_NAME

TRIES = 3  # readings of a file that is written to meanwhile
MOST_UNSIZED = 16 * 1024**2  # most bytes of a file that states a length of 0, such as those in /proc
ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG)


@dataclass(frozen=True, slots=True)
class Source:
    """One document to be packed."""

    name: str
    data: bytes

    @property
    def sha256(self) -> str:
        """Of the bytes, in hex."""
        return hashlib.sha256(self.data).hexdigest()


class Gathered(NamedTuple):
    """What was found of the inputs of a pack."""

    documents: list[Source]  # in order of name
    skipped: list[tuple[str, str]]  # (name, why)
    unmatched: list[str]  # patterns that matched no file and no folder


class UnfitError(Exception):
    """A file that no pack reads; the message says why."""


def gather(
    paths: str | Path | Sequence[str | Path],
    include: str | Sequence[str] = (),
    exclude: str | Sequence[str] = (),
    store: Path | None = None,
) -> Gathered:
    """Read files and folders; names are relative to each folder.

    Args:
        paths: Files and folders. A file is named by the last part of its path.
        include: Patterns (see `memvec.filesystem.names`). Only files that they take are read. Without any, all are.
        exclude: Patterns. No file that they take is read, one named in `paths` neither; excluded folders are not entered.
        store: The store that is packed into. It is left out where it lies in one of the folders.

    Raises:
        UsageError: A path is empty or lies in the store, two files get one name, or a pattern is broken.
        NotFoundError: A path does not exist.
    """
    gathering = _Gathering(Patterns(include, "include"), Patterns(exclude, "exclude"), store)
    for path in [paths] if isinstance(paths, str | Path) else paths:
        gathering.add(path)
    found = gathering.found
    unmatched = [*gathering.include.unmatched, *gathering.exclude.unmatched]
    return Gathered([found[name][1] for name in sorted(found)], gathering.skipped, unmatched)


def read_file(path: Path) -> bytes:
    """Read a file as it is at one moment. UnfitError if it is no regular file, or keeps changing; OSError."""
    _check_regular(os.stat(path))  # before it is opened: to open a pipe or a device can have effects
    for _ in range(TRIES):
        with open(path, "rb", opener=_open_at_once) as file:
            before = os.fstat(file.fileno())
            _check_regular(before)
            data = file.read(before.st_size + 1 if before.st_size else MOST_UNSIZED + 1)
            after = os.fstat(file.fileno())
        if data is None:
            raise UnfitError("it has nothing to read yet")
        if not before.st_size and len(data) > MOST_UNSIZED:
            raise UnfitError("it does not say how long it is")
        if (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns):
            return data
    raise UnfitError("something writes to it while it is read")


class _Gathering:
    """Inputs of a pack as they are read."""

    def __init__(self, include: Patterns, exclude: Patterns, store: Path | None) -> None:
        self.include, self.exclude = include, exclude
        self.found: dict[str, tuple[Path, Source]] = {}
        self.skipped: list[tuple[str, str]] = []
        self._store = _stat(store) if store is not None else None

    def add(self, given: str | Path) -> None:
        """Read a file or a folder that was named."""
        if str(given) == "":
            raise UsageError("a path to pack is empty. Name a file or a folder; '.' is the current folder.")
        path = Path(given)
        try:
            mode = path.stat().st_mode
        except (OSError, ValueError) as error:
            if isinstance(error, ValueError) or (error.errno in ABSENT and not os.path.lexists(path)):
                raise NotFoundError(f"no file or folder {str(path)!r} to pack.") from error
            self._skip(path.name, _why(error, path))
            return
        self._refuse_store(path)
        if stat.S_ISDIR(mode):
            self._add_folder(path)
        else:
            self._add_file(path.name, path)

    def _refuse_store(self, path: Path) -> None:
        """UsageError for the store and for paths inside it."""
        if self._is_store(path):
            raise UsageError(f"{str(path)!r} is the store itself. Name the documents to pack.")
        above = Path(os.path.realpath(path)).parents if self._store else ()
        if any(self._is_store(folder) and (folder / FILE_NAME).exists() for folder in above):
            raise UsageError(f"{str(path)!r} lies in the store itself. Name the documents to pack.")

    def _add_folder(self, top: Path) -> None:
        def unreadable(error: OSError) -> None:
            self._skip(os.path.relpath(error.filename or top, top), _why(error, top))

        for folder, folders, names in os.walk(top, onerror=unreadable):
            below = Path(folder).relative_to(top)
            folders[:] = [name for name in sorted(folders) if self._enters((below / name).as_posix(), top)]
            for name in names:
                self._add_file((below / name).as_posix(), Path(folder, name))

    def _enters(self, name: str, top: Path) -> bool:
        """Is a folder to be read? `name` is relative to `top`."""
        if self.exclude.ignore(name, folder=True):
            return False
        if (top / name).is_symlink():
            if not self.include or self.include.take(name, folder=True):
                self._skip(name, "a link to a folder is not followed")
            return False
        return not self._is_store(top / name)

    def _add_file(self, name: str, path: Path) -> None:
        included = not self.include or self.include.take(name)
        if self.exclude.ignore(name) or not included:  # both are asked, to know which patterns match
            return
        if name in self.found:
            other = self.found[name][0]
            one, two = _stat(path), _stat(other)
            if one is None or two is None or not os.path.samestat(one, two):
                raise UsageError(
                    f"{str(other)!r} and {str(path)!r} would both be named {name!r}. Pack their common folder, or one at a time."
                )
            return
        try:
            check_name(name)
            self.found[name] = path, Source(name, read_file(path))
        except (OSError, UnfitError, ValueError, MemoryError) as error:  # ValueError: a name no store can hold
            self._skip(name, _why(error, path))

    def _is_store(self, path: Path) -> bool:
        found = _stat(path) if self._store else None
        return found is not None and self._store is not None and os.path.samestat(found, self._store)

    def _skip(self, name: str, why: str) -> None:
        self.skipped.append((printable(name), printable(why)))


def check_given(source: Source) -> None:
    """UsageError unless a `Source` has a name that a store can hold, and bytes."""
    if not isinstance(source.name, str) or not isinstance(source.data, bytes):
        kinds = f"{type(source.name).__name__} and {type(source.data).__name__}"
        raise UsageError(f"a Source is of {kinds}, expected a name as str and data as bytes.")
    try:
        check_name(source.name)
    except ValueError as error:
        raise UsageError(f"{error}.") from error


def check_together(names: Iterable[str]) -> None:
    """UsageError where one name would be a file and another's folder."""
    known = set(names)
    for name in known:
        for above in PurePosixPath(name).parents:
            if str(above) in known:
                raise UsageError(f"{str(above)!r} cannot be a document beside {name!r}: no folder could hold both.")


def _open_at_once(path: str, flags: int) -> int:
    """Open a file without blocking, since it may have become a pipe that waits for a writer."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _check_regular(found: os.stat_result) -> None:
    """UnfitError for what is no regular file."""
    mode = found.st_mode
    if stat.S_ISFIFO(mode):
        raise UnfitError(
            "not a regular file but a pipe. Pass its content as memvec.Source(name, data), or on standard input"
        )
    if not stat.S_ISREG(mode):
        raise UnfitError("not a regular file")


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except (OSError, ValueError):
        return None


def _why(error: Exception, path: Path) -> str:
    if isinstance(error, FileNotFoundError):
        return "a link that leads nowhere" if path.is_symlink() else "it is gone"
    if isinstance(error, MemoryError):
        return "it is too large for the memory"
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return str(error)
