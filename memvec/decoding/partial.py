"""Write the right segments of a damaged document, as NAME.partial, and the missing ranges, as NAME.partial.json."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Sequence
from pathlib import Path

from memvec.decoding.reader import Piece
from memvec.errors import WriteError
from memvec.filesystem.document_writer import OF_THE_NAME
from memvec.formats import files
from memvec.formats.limits import PART_BYTES
from memvec.types import Document

PARTIAL, REPORT = ".partial", ".partial.json"


def write_partial(
    folder: Path, document: Document, pieces: Sequence[Piece], taken: Collection[str], overwrite: bool
) -> tuple[list[str], str]:
    """Write the right pieces end to end, and a report of the missing bytes. Return the files and a sentence on them.

    Names in `taken` are documents in the same folder and are not overwritten.
    """
    right = [piece for piece in pieces if piece.error is None]
    if not right:
        return [], "No segment of it is right."
    gaps = missing_ranges(document.bytes, [(piece.ref.start, piece.ref.start + piece.ref.length) for piece in right])
    if not gaps:  # each piece is right, but they do not join: some belong to another version, and it is not known which
        return [], "No segment was written: its records belong to different versions."
    names = [document.name + ending for ending in (PARTIAL, REPORT)]
    if len(names[1].rpartition("/")[2].encode()) > PART_BYTES:
        return [], f"Its right segments were not written: {names[1]!r} is too long for a file name."
    there = [name for name in names if _is_taken(folder, name, taken, overwrite)]
    if there:
        return [], f"Its right segments were not written: {there[0]!r} exists."
    data = b"".join(piece.data for piece in right)
    report = {
        "document": document.name,
        "bytes": document.bytes,
        "sha256": document.sha256,
        "written": len(data),
        "missing": [list(gap) for gap in gaps],
    }
    try:
        files.make_folder((folder / names[0]).parent)
        files.write_atomically(folder / names[0], data)
        files.write_atomically(folder / names[1], (json.dumps(report, indent=1) + "\n").encode())
    except WriteError as error:
        if error.errno not in OF_THE_NAME:
            raise
        return [], f"Its right segments were not written: {error.reason}."
    shown = ", ".join(f"{begin} to {end}" for begin, end in gaps[:3]) + (" and more" if len(gaps) > 3 else "")
    return names, f"{len(data)} of its {document.bytes} bytes are in {names[0]!r}; missing are bytes {shown}."


def _is_taken(folder: Path, name: str, taken: Collection[str], overwrite: bool) -> bool:
    """Is there a file that must stay? On some file systems a name in `taken` that differs in case is the same file."""
    path = folder / name
    if name in taken or os.path.isdir(path):
        return True
    if not os.path.lexists(path):
        return False
    alike = [other for other in taken if other.casefold() == name.casefold()]
    return not overwrite or any(os.path.lexists(folder / o) and os.path.samefile(path, folder / o) for o in alike)


def missing_ranges(length: int, there: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The half-open ranges of [0, length) that are not in the ascending ranges `there`."""
    gaps, reached = [], 0
    for begin, end in [*there, (length, length)]:
        if begin > reached:
            gaps.append((reached, begin))
        reached = max(reached, end)
    return gaps
