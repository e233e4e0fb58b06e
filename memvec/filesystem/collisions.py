"""Find document names that the file system takes for one file, such as README and readme, and rename the second."""

from __future__ import annotations

import os
import secrets
import shutil
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from memvec.errors import UsageError
from memvec.filesystem.document_writer import OF_THE_NAME
from memvec.formats import files


def file_names(folder: Path, names: Sequence[str], rename: bool) -> dict[str, str]:
    """Return the file of each document below `folder`: its own name, or another one if two documents would share a file.

    The file system is asked by writing empty files, only for names that differ in case, composition or dots at the end.

    Raises:
        UsageError: Names collide and `rename` is False.
        WriteError: The empty files cannot be written.
    """
    found = _colliding(folder, names)
    if found and not rename:
        (name, other), more = next(iter(found.items())), f", and {len(found) - 1} more such pairs" * (len(found) > 1)
        raise UsageError(
            f"{other!r} and {name!r} are one file on the file system of {str(folder)!r}{more}. Pass "
            "rename_collisions=True to give the second another name, or unpack into a folder elsewhere."
        )
    taken = {_key(path) for path in (*names, *_folders(names))}
    return {name: _free(name, taken) if name in found else name for name in names}


def _key(name: str) -> str:
    """A key that names share if some file system ignores their difference: case, composition, dots and spaces at the end."""
    parts = [unicodedata.normalize("NFKC", part).casefold() for part in name.split("/")]
    return "/".join(unicodedata.normalize("NFKC", part).rstrip(". ") for part in parts)


def _folders(names: Iterable[str]) -> set[str]:
    found = set()
    for name in names:
        while "/" in name:
            name = name.rpartition("/")[0]
            found.add(name)
    return found


def _colliding(folder: Path, names: Sequence[str]) -> dict[str, str]:
    """{name: an earlier name that is the same file}, for documents that collide with a document or a folder."""
    groups: dict[str, list[str]] = {}
    for path in (*sorted(_folders(names)), *sorted(names)):  # folders first, because they keep their names
        groups.setdefault(_key(path), []).append(path)
    named = set(names)
    doubtful = [group for group in groups.values() if len(group) > 1 and not named.isdisjoint(group)]
    if not doubtful:
        return {}
    place = next(above for above in (folder, *folder.absolute().parents) if above.is_dir())
    scratch = place / f"{files.SCRATCH}{secrets.token_hex(8)}"
    try:
        return {name: other for group in doubtful for name, other in _asked(scratch, group, named)}
    except OSError as error:
        raise files.write_error(place, error) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _asked(scratch: Path, group: Sequence[str], named: set[str]) -> Iterable[tuple[str, str]]:
    """(name, earlier name) of names in `group`, which share a key, that the file system takes for one file."""
    room = scratch / secrets.token_hex(8)
    made: list[str] = []
    for name in group:
        path = room / name
        same = next((other for other in made if name in named and _one(path, room / other)), None)
        if same is not None:
            yield name, same
            continue
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        except OSError as error:
            if error.errno not in OF_THE_NAME:
                raise
        made.append(name)


def _one(path: Path, other: Path) -> bool:
    """Do two names lead to one file?"""
    return os.path.lexists(path) and os.path.samefile(path, other)


def _free(name: str, taken: set[str]) -> str:
    """A free name, such as notes~2.txt for notes.txt. It is added to `taken`."""
    path, number = PurePosixPath(name), 2
    while _key(other := str(path.with_name(f"{path.stem}~{number}{path.suffix}"))) in taken:
        number += 1
    taken.add(_key(other))
    return other
