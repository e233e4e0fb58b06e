"""What is right of a document that is not whole, under a name that nobody takes for the document."""

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
    """Write those of `pieces` that are right, end to end, and which bytes are missing; (files, a sentence on them).

    Names in `taken` are documents of the same folder and are never written over.
    """
    right = [piece for piece in pieces if piece.error is None]
    if not right:
        return [], "Nothing of it is right."
    gaps = missing_ranges(document.bytes, [(piece.ref.start, piece.ref.start + piece.ref.length) for piece in right])
    if not gaps:  # right one by one, but not together: it cannot be told which of them belongs to another version
        return [], "Nothing of it was written: its records do not belong together."
    names = [document.name + ending for ending in (PARTIAL, REPORT)]
    if len(names[1].rpartition("/")[2].encode()) > PART_BYTES:
        return [], f"What is right of it was not written: {names[1]!r} is too long for a file name."
    there = [name for name in names if _is_taken(folder, name, taken, overwrite)]
    if there:
        return [], f"What is right of it was not written: {there[0]!r} is there already."
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
        return [], f"What is right of it was not written: {error.reason}."
    shown = ", ".join(f"{begin} to {end}" for begin, end in gaps[:3]) + (" and more" if len(gaps) > 3 else "")
    return names, f"{len(data)} of its {document.bytes} bytes are in {names[0]!r}; missing are bytes {shown}."


def _is_taken(folder: Path, name: str, taken: Collection[str], overwrite: bool) -> bool:
    """Does something lie there that must stay? On some file systems a name in `taken` leads to it by other letters."""
    path = folder / name
    if name in taken or os.path.isdir(path):
        return True
    if not os.path.lexists(path):
        return False
    alike = [other for other in taken if other.casefold() == name.casefold()]
    return not overwrite or any(os.path.lexists(folder / o) and os.path.samefile(path, folder / o) for o in alike)


def missing_ranges(length: int, there: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The half-open ranges of [0, length) that the ascending ranges `there` leave out."""
    gaps, reached = [], 0
    for begin, end in [*there, (length, length)]:
        if begin > reached:
            gaps.append((reached, begin))
        reached = max(reached, end)
    return gaps
