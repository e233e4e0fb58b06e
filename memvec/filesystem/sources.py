"""Find the files that a pack reads, and name their documents. Knows no model and no store."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from memvec.chunks import chunked
from memvec.errors import NotFoundError, UsageError
from memvec.filesystem.names import Patterns
from memvec.filesystem.plain_text import may_be_text, printable
from memvec.formats.documents import check_name
from memvec.formats.manifest import FILE_NAME
from memvec.types import Skipped

TRIES = 3  # readings of a file that another process writes to
MOST_UNSIZED = 16 * 1024**2  # most bytes of a file that states a length of 0, such as those in /proc
LARGE = 64 * 1024**2  # bytes; a longer file is read at once only if it may be text
CHANGED = "it changed while it was packed"
ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG)


@dataclass(frozen=True)
class Source:
    """One document to pack: its name in the store and its bytes.

    Args:
        name: The document's name. "/" separates folders.
        data: The document's bytes. Encode a text first.
        meta: Its metadata, to filter by. It replaces earlier metadata; {} removes it, None leaves it.

    Example:
        >>> source = memvec.Source("letters/jane.txt", "Dear Jane,".encode())
        >>> len(source.data)
        10
    """

    name: str
    data: bytes
    meta: Mapping[str, str] | None = field(default=None, hash=False)

    @cached_property
    def sha256(self) -> str:
        """The sha256 of the bytes, in hex. It is computed once."""
        return hashlib.sha256(self.data).hexdigest()

    @property
    def size(self) -> int:
        """The number of its bytes."""
        return len(self.data)

    def frames(self, size: int) -> Iterator[bytes]:
        """The bytes in pieces of `size`; one piece even when there are none."""
        return chunked(self.data, size) if self.data else iter([b""])


@dataclass(frozen=True, slots=True)
class LargeBinary:
    """A file that is not text and too long to hold in memory. Its bytes are read piece by piece."""

    name: str
    size: int  # bytes
    sha256: str
    path: Path

    @classmethod
    def of(cls, name: str, path: Path) -> LargeBinary | None:
        """The file at `path`, read once for its sha256. None if it may be text. UnfitError or OSError."""
        digest, size = hashlib.sha256(), 0
        for piece in _pieces(path):
            if not size and may_be_text(piece):
                return None
            digest.update(piece)
            size += len(piece)
        return cls(name, size, digest.hexdigest(), path)

    def frames(self, size: int) -> Iterator[bytes]:
        """The bytes in pieces of `size`. UnfitError before the last piece if the file has changed; OSError."""
        digest, length = hashlib.sha256(), 0
        last: bytes | None = None
        for piece in _pieces(self.path, size):
            if last is not None:
                yield last
            digest.update(piece)
            length, last = length + len(piece), piece
            if length > self.size:
                break
        if last is None or digest.hexdigest() != self.sha256:
            raise UnfitError(CHANGED)
        yield last


@dataclass(frozen=True, slots=True)
class Entry:
    """A document whose bytes were not read yet, or a `Source`, which holds them."""

    name: str
    size: int  # bytes, as the file system stated them
    place: Path | Source

    def read(self) -> Source | LargeBinary:
        """Read the document. UnfitError, OSError or MemoryError if that fails."""
        if isinstance(self.place, Source):
            return self.place
        large = LargeBinary.of(self.name, self.place) if self.size > LARGE else None
        return large or Source(self.name, read_file(self.place))

    def part(self, begin: int, size: int) -> bytes:
        """Read up to `size` bytes from byte `begin` on. UnfitError or OSError if that fails."""
        if isinstance(self.place, Source):
            return self.place.data[begin : begin + size]
        with open(self.place, "rb", opener=_open_at_once) as file:
            _check_regular(os.fstat(file.fileno()))
            file.seek(begin)
            return file.read(size) or b""


class Gathered:
    """The documents of a pack: names and sizes are listed at once, bytes are read one document at a time."""

    def __init__(
        self, entries: Iterable[Entry], skipped: Iterable[Skipped] = (), patterns: Sequence[Patterns] = ()
    ) -> None:
        """`patterns` are those of `include` and `exclude`, which have noted what they matched."""
        self.entries = sorted(entries, key=lambda entry: entry.name)
        self.skipped = list(skipped)  # inputs that cannot be read; reading adds to them
        self.patterns = patterns
        self.bytes = sum(entry.size for entry in self.entries)
        self.reached = self.reached_bytes = 0  # documents, and their bytes, that the current reading has reached
        self.failed: set[str] = set()  # names of listed documents that could not be read

    def __iter__(self) -> Iterator[Source | LargeBinary]:
        return self.read()

    @property
    def names(self) -> list[str]:
        """The names of all listed files, in order."""
        return [entry.name for entry in self.entries]

    @property
    def unmatched(self) -> tuple[str, ...]:
        """The patterns that matched no file, no folder and no document of a corpus."""
        return tuple(pattern for some in self.patterns for pattern in some.unmatched)

    @property
    def count(self) -> int:
        """How many documents there are."""
        return len(self.entries)

    def read(self, without: Container[str] = (), only: Container[str] | None = None) -> Iterator[Source | LargeBinary]:
        """Read the documents in order of name, except those named in `without` and those not named in `only`.

        A document that cannot be read is added to `skipped`. Later readings leave it out.
        """
        self.reached = self.reached_bytes = 0
        for entry in self.entries:
            self.reached, self.reached_bytes = self.reached + 1, self.reached_bytes + entry.size
            if not self._wanted(entry.name, without, only):
                continue
            try:
                source = entry.read()
            except (OSError, UnfitError, MemoryError) as error:
                self.skip(entry.name, reason_of(error, entry.place))
                continue
            yield source

    def _wanted(self, name: str, without: Container[str], only: Container[str] | None) -> bool:
        return name not in without and name not in self.failed and (only is None or name in only)

    def skip(self, name: str, reason: str) -> None:
        """Leave a document out of this pack from now on."""
        self.failed.add(name)
        self.skipped.append(Skipped(printable(name), printable(reason)))


class UnfitError(Exception):
    """A file that a pack cannot read. The message says why."""


def gather(
    paths: str | Path | Sequence[str | Path],
    include: str | Sequence[str] | Patterns = (),
    exclude: str | Sequence[str] | Patterns = (),
    store: Path | None = None,
) -> Gathered:
    """List files and folders without reading them. Names are relative to each folder.

    Args:
        paths: Files and folders. A file is named by the last part of its path.
        include: Patterns (see `memvec.filesystem.names`). Only files that match are listed. Without any, all are.
        exclude: Patterns. Files that match are left out, also files named in `paths`. Excluded folders are not entered.
        store: The store to pack into. It is left out if it lies in one of the folders.

    Returns:
        The documents, in order of name. Iterating over them reads them.

    Raises:
        UsageError: A path is empty or lies in the store, two files get one name, or a pattern is broken.
        NotFoundError: A path does not exist.
    """
    include = include if isinstance(include, Patterns) else Patterns(include, "include")
    exclude = exclude if isinstance(exclude, Patterns) else Patterns(exclude, "exclude")
    gathering = _Gathering(include, exclude, store)
    for path in [paths] if isinstance(paths, str | Path) else paths:
        gathering.add(path)
    return Gathered(gathering.found.values(), gathering.skipped, (include, exclude))


def read_file(path: Path) -> bytes:
    """Read a file as it is at one moment. UnfitError if it is not a regular file or keeps changing; OSError."""
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
    """Lists the inputs of a pack."""

    def __init__(self, include: Patterns, exclude: Patterns, store: Path | None) -> None:
        self.include, self.exclude = include, exclude
        self.found: dict[str, Entry] = {}
        self.skipped: list[Skipped] = []
        self._store = _stat(store) if store is not None else None

    def add(self, given: str | Path) -> None:
        """List a file, or the files of a folder."""
        if str(given) == "":
            raise UsageError("a path to pack is empty. Name a file or a folder; '.' is the current folder.")
        path = Path(given)
        try:
            mode = path.stat().st_mode
        except (OSError, ValueError) as error:
            if isinstance(error, ValueError) or (error.errno in ABSENT and not os.path.lexists(path)):
                raise NotFoundError(f"no file or folder {str(path)!r} to pack.") from error
            self._skip(path.name, reason_of(error, path))
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
            self._skip(os.path.relpath(error.filename or top, top), reason_of(error, top))

        for folder, folders, names in os.walk(top, onerror=unreadable):
            below = Path(folder).relative_to(top)
            folders[:] = [name for name in sorted(folders) if self._enters((below / name).as_posix(), top)]
            for name in names:
                self._add_file((below / name).as_posix(), Path(folder, name))

    def _enters(self, name: str, top: Path) -> bool:
        """Does a pack read this folder? `name` is relative to `top`."""
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
            other = self.found[name].place
            assert isinstance(other, Path)
            one, two = _stat(path), _stat(other)
            if one is None or two is None or not os.path.samestat(one, two):
                raise UsageError(
                    f"{str(other)!r} and {str(path)!r} would both be named {name!r}. Pack their common folder, or one at a time."
                )
            return
        try:
            check_name(name)
            found = os.stat(path)
            _check_regular(found)
            self.found[name] = Entry(name, found.st_size, path)
        except (OSError, UnfitError, ValueError) as error:  # ValueError: a name that no store can hold
            self._skip(name, reason_of(error, path))

    def _is_store(self, path: Path) -> bool:
        found = _stat(path) if self._store else None
        return found is not None and self._store is not None and os.path.samestat(found, self._store)

    def _skip(self, name: str, why: str) -> None:
        self.skipped.append(Skipped(printable(name), printable(why)))


def _pieces(path: Path, size: int = 1024**2) -> Iterator[bytes]:
    """The bytes of a regular file, piece by piece. UnfitError or OSError."""
    with open(path, "rb", opener=_open_at_once) as file:
        _check_regular(os.fstat(file.fileno()))
        while piece := file.read(size):
            yield piece


def check_given(source: Source) -> None:
    """UsageError unless a `Source` has a name that a store can hold, and bytes."""
    if not isinstance(source.name, str) or not isinstance(source.data, bytes):
        kinds = f"{type(source.name).__name__} and {type(source.data).__name__}"
        raise UsageError(f"a Source is of {kinds}, expected a name as str and data as bytes.")
    try:
        check_name(source.name)
    except ValueError as error:
        raise UsageError(f"{error}.") from error


def _open_at_once(path: str, flags: int) -> int:
    """Open a file without blocking, since it may have become a pipe that waits for a writer."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _check_regular(found: os.stat_result) -> None:
    """UnfitError unless the file is a regular one."""
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


def reason_of(error: Exception, path: Path | Source) -> str:
    """Why a document cannot be read, in words."""
    if isinstance(error, FileNotFoundError):
        return "a link that leads nowhere" if isinstance(path, Path) and path.is_symlink() else "it is gone"
    if isinstance(error, MemoryError):
        return "it is too large for the machine's memory"
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return str(error)
