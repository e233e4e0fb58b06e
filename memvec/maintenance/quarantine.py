"""Move or link damaged files into the folder `damaged/` of a store. Nothing there is ever deleted."""

from __future__ import annotations

import filecmp
import os
import shutil
from pathlib import Path

from memvec.formats import files
from memvec.types import Problem

FOLDER = "damaged"
# Files with these problems are moved. Others get a second name first: their sound records must still be read.
MOVED = ("unreadable", "symlink", "not-a-file")


def set_apart(store: Path, wrong: Problem) -> None:
    """Put the file of a problem into `damaged/`, without replacing anything there. WriteError.

    A damaged file also keeps its name in the store, until a new manifest no longer names it.
    """
    source, folder = store / wrong.location, store / FOLDER
    files.make_folder(folder, inside=True)
    try:
        if wrong.code in MOVED:
            os.rename(source, _free(folder, source.name))
            files.sync_folder(source.parent)
        elif not _is_there(folder, source):
            _second_name(source, _free(folder, source.name))
        files.sync_folder(folder)
    except OSError as error:
        raise files.write_error(folder / source.name, error) from error


def _second_name(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links, or another user's file
        scratch = target.with_name(f"{files.SCRATCH}{target.name}")
        try:
            shutil.copyfile(source, scratch)
            with scratch.open("rb") as file:
                os.fsync(file.fileno())
            os.rename(scratch, target)
        finally:
            scratch.unlink(missing_ok=True)


def _free(folder: Path, name: str) -> Path:
    """Return an unused name in the folder: the same, or with a number appended."""
    target, number = folder / name, 0
    while os.path.lexists(target):
        number += 1
        target = folder / f"{name}.{number}"
    return target


def _is_there(folder: Path, source: Path) -> bool:
    """Is the file there already, from a repair that was killed?"""
    names = (name for name in files.listing(folder.parent, folder.name) if name.startswith(source.name))
    return any(_same(folder / name, source) for name in names)


def _same(found: Path, source: Path) -> bool:
    return not found.is_symlink() and found.is_file() and filecmp.cmp(found, source, shallow=False)
