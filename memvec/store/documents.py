"""Where records lie, and which of them make up a document's content and its memory. Knows no file. SPEC §5.2."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

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


def assemble(document: Document, content: Mapping[int, RecordRef], context: Mapping[int, RecordRef]) -> StoredDocument:
    """The document of its `content` and `context` records by start."""
    records, memory = joined(document, content), joined(document, context)
    return StoredDocument(
        document,
        records=records or tuple(content.values()),
        complete=bool(records),
        memory=memory,
        unjoined=() if memory else tuple(context.values()),
    )


def joined(document: Document, refs: Mapping[int, RecordRef]) -> tuple[RecordRef, ...]:
    """Those of `refs`, by start, that cover the document in order; none when there is a gap."""
    # Records of an interrupted pack with other settings may lie across: the walk takes those that join, newest first.
    ordered: list[RecordRef] = []
    reached = 0
    while (ref := refs.get(reached)) is not None and ref not in ordered[-1:]:
        ordered.append(ref)
        reached += ref.length
    return tuple(ordered) if reached == document.bytes else ()
