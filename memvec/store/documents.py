"""Choose the records that form a document's content and its memories. Knows no file. SPEC §5.2."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from memvec.errors import NotFoundError
from memvec.filesystem.names import no_document
from memvec.types import Document, Kind

Version = tuple[str, str]  # a document's name and the sha256 of its bytes
INCOMPLETE = "incomplete: its pack was interrupted. Run the same pack again to finish it"


@dataclass(frozen=True, slots=True)
class RecordRef:
    """Where a record is: shard number and row, and its byte range in the document."""

    shard: int
    row: int
    start: int
    length: int


@dataclass(frozen=True, slots=True)
class StoredDocument:
    """A document version, the records of its content and those of its memories, each in order of bytes.

    It may have content, a context memory and a kv memory, each independently of the others.
    """

    document: Document
    records: tuple[RecordRef, ...]  # exact and raw records; with a gap, all of them
    complete: bool  # `records` cover the document without a gap
    memory: tuple[RecordRef, ...] = ()  # context records that cover the document without a gap, else none
    unjoined: tuple[RecordRef, ...] = ()  # context records that leave a gap, then kv records that leave one
    kv: tuple[RecordRef, ...] = ()  # kv records that cover the document without a gap, else none
    unjoined_kv: int = 0  # how many of `unjoined`, the last ones, are kv records

    @property
    def version(self) -> Version:
        """The name and the sha256 of the document."""
        return self.document.name, self.document.sha256

    @property
    def usable(self) -> bool:
        """Is its content or a memory complete?"""
        return self.complete or bool(self.memory) or bool(self.kv)

    @property
    def unfinished(self) -> bool:
        """Was content or a memory begun and not finished?"""
        return bool(self.unjoined) or (bool(self.records) and not self.complete)

    def memory_of(self, kind: Kind) -> tuple[RecordRef, ...]:
        """Its records of the kind `Kind.CONTEXT` or `Kind.KV`, also those that leave a gap."""
        cut = len(self.unjoined) - self.unjoined_kv
        if kind == Kind.CONTEXT:
            return self.memory or self.unjoined[:cut]
        return self.kv or self.unjoined[cut:]


def joined(size: int, starts: Sequence[int], lengths: Sequence[int]) -> tuple[list[int], bool]:
    """Choose from records, given in the order of their commits, those that cover bytes 0 to `size` without a gap.

    Of several records with one start only the newest is used. The walk begins at byte 0. It takes the record that starts
    where the last one ended: records of an interrupted pack with other settings may overlap.

    Returns:
        (places of the chosen records in order of bytes, True). When there is a gap, (places of the newest record of each
        start, False).
    """
    newest = {start: place for place, start in enumerate(starts)}
    chosen: list[int] = []
    reached = 0
    while (place := newest.get(reached)) is not None and place not in chosen[
        -1:
    ]:  # a record without bytes ends the walk
        chosen.append(place)
        reached += lengths[place]
    return (chosen, True) if chosen and reached == size else (list(newest.values()), False)


def missing(name: str, unfinished: Collection[str], live: Iterable[str] = (), store: object = "") -> NotFoundError:
    """Return the error for a document that is unfinished, or unknown in the store at the path `store`."""
    if name in unfinished:
        return NotFoundError(f"{name!r} is {INCOMPLETE}.")
    return no_document(name, live, store)
