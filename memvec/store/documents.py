"""Where records lie, and which of them make up a document's content and its memory. Knows no file. SPEC §5.2."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from memvec.errors import NotFoundError
from memvec.filesystem.names import no_document
from memvec.types import Document

INCOMPLETE = "incomplete: its pack was interrupted. Run the same pack again to finish it"


@dataclass(frozen=True, slots=True)
class RecordRef:
    """Where a record lies: shard number and row, and the bytes of its document it stands for."""

    shard: int
    row: int
    start: int
    length: int


@dataclass(frozen=True, slots=True)
class StoredDocument:
    """A document, the records that hold its content and those that make up its memory, each in order of bytes."""

    document: Document
    records: tuple[RecordRef, ...]  # exact and raw ones; where they leave a gap, all there are
    complete: bool  # `records` cover the document without a gap: its content is whole
    memory: tuple[RecordRef, ...] = ()  # context ones; none unless they cover the document without a gap
    unjoined: tuple[RecordRef, ...] = ()  # context ones where they leave a gap

    @property
    def usable(self) -> bool:
        """Is its content whole, or its memory?"""
        return self.complete or bool(self.memory)

    @property
    def unfinished(self) -> bool:
        """Did a pack leave content or a memory that is not whole? What was never begun is not missing."""
        return bool(self.unjoined) or (bool(self.records) and not self.complete)


def joined(size: int, starts: Sequence[int], lengths: Sequence[int]) -> tuple[list[int], bool]:
    """Choose from records, given in the order of their commits, those that cover bytes 0 to `size` without a gap.

    Of several records with one start only the newest is used. The walk begins at byte 0 and takes the record that starts
    where the last one ended: records of an interrupted pack with other settings may lie across.

    Returns:
        (places of the chosen records in order of bytes, True). When there is a gap, (places of the newest record of each
        start, False).
    """
    newest = {start: place for place, start in enumerate(starts)}
    chosen: list[int] = []
    reached = 0
    while (place := newest.get(reached)) is not None and place not in chosen[-1:]:  # one without bytes ends the walk
        chosen.append(place)
        reached += lengths[place]
    return (chosen, True) if chosen and reached == size else (list(newest.values()), False)


def missing(name: str, unfinished: Collection[str], live: Iterable[str] = (), store: object = "") -> NotFoundError:
    """Return the error for a document that is not live in the store at the path `store`: it is unfinished, or unknown."""
    if name in unfinished:
        return NotFoundError(f"{name!r} is {INCOMPLETE}.")
    return no_document(name, live, store)
