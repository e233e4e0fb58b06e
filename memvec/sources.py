"""Which files a pack reads, and under which names. Knows no model and no store."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from memvec.errors import NotFoundError, UsageError
from memvec.formats.documents import check_name


@dataclass(frozen=True, slots=True)
class Source:
    """One document to be packed."""

    name: str
    data: bytes

    @property
    def sha256(self) -> str:
        """Of the bytes, in hex."""
        return hashlib.sha256(self.data).hexdigest()


def gather(
    paths: Sequence[str | Path],
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    store: Path | None = None,
) -> tuple[list[Source], list[tuple[str, str]]]:
    """(documents in order of name, skipped (name, reason)) of files and folders; names are relative to each folder.

    `include` and `exclude` are globs over the whole name or its last part; an excluded folder is not entered. `store` is left out where it lies inside.
    UsageError when two files get one name, NotFoundError when a path does not exist.
    """
    found: dict[str, Source] = {}
    skipped: list[tuple[str, str]] = []
    for path in map(Path, paths):
        if store is not None and path.resolve() == store.resolve():
            raise UsageError(f"{str(path)!r} is the store itself. Name the documents to pack.")
        if not path.exists():
            raise NotFoundError(f"no file or folder {str(path)!r} to pack.")
        for name, file in _files(path, store, exclude, skipped):
            if not _wanted(name, include, exclude):
                continue
            try:
                check_name(name)
                data = file.read_bytes()
            except (OSError, ValueError) as error:  # an unreadable file, a name no store can hold
                skipped.append((_printable(name), str(error)))
                continue
            if name in found:
                raise UsageError(f"two inputs would be named {name!r}. Pack their common folder, or one at a time.")
            found[name] = Source(name, data)
    return [found[name] for name in sorted(found)], [(n, why) for n, why in skipped if _wanted(n, include, exclude)]


def _files(
    path: Path, store: Path | None, exclude: Sequence[str], skipped: list[tuple[str, str]]
) -> Iterator[tuple[str, Path]]:
    if not path.is_dir():
        yield path.name, path
        return
    hidden = store.resolve() if store else None
    for folder, folders, names in os.walk(path, onerror=lambda e: skipped.append((str(e.filename), str(e)))):
        kept = []
        for name in sorted(folders):
            below = Path(folder, name)
            if matches(below.relative_to(path).as_posix(), exclude):
                continue
            if below.is_symlink():
                skipped.append((_printable(str(below.relative_to(path))), "a link to a folder is not followed"))
            elif below.resolve() != hidden:
                kept.append(name)
        folders[:] = kept
        for name in names:
            file = Path(folder, name)
            relative = file.relative_to(path).as_posix()
            if file.is_file():
                yield relative, file
            else:
                skipped.append((_printable(relative), "not a regular file"))


def matches(name: str, globs: Sequence[str]) -> bool:
    """Is `name`, or its last part, one of `globs` or matched by one? A `*` crosses `/`."""
    parts = (name, PurePosixPath(name).name)
    return any(part == glob or fnmatchcase(part, glob) for glob in globs for part in parts)


def check_together(names: Iterable[str]) -> None:
    """UsageError where one name would be a file and another's folder."""
    known = set(names)
    for name in known:
        for above in PurePosixPath(name).parents:
            if str(above) in known:
                raise UsageError(f"{str(above)!r} cannot be a document beside {name!r}: no folder could hold both.")


def _wanted(name: str, include: Sequence[str], exclude: Sequence[str]) -> bool:
    return (not include or matches(name, include)) and not matches(name, exclude)


def _printable(name: str) -> str:
    escaped = name.encode("utf-8", "backslashreplace").decode()
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in escaped)
