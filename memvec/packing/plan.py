"""Plan a pack: cut documents into segments to fit and windows to remember, one lot of documents at a time.

A lot is some 128 KiB of text. Its segments are fitted, and the first records committed, before later documents are read.
Segments are ordered within a lot, and their surprisal is computed in batches within a lot. So a pack that is one lot makes
the same vectors as if all documents were planned at once.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from memvec.chunks import chunked
from memvec.filesystem.plain_text import as_text
from memvec.filesystem.sources import LargeBinary, Source
from memvec.formats import raw
from memvec.lm.frozen import FrozenLM
from memvec.packing.outstanding import Unpacked
from memvec.packing.records import Made, each_raw_record
from memvec.packing.reuse import Held, moved
from memvec.settings import PackSettings
from memvec.store import catalogue
from memvec.store.documents import Version
from memvec.store.store import Store, StoredDocument
from memvec.training.fit import Task
from memvec.training.segments import MIN_TOKENS, Segment, cut, surprisal, tile, vectors_for
from memvec.types import Document, Kind, RawReason, Record, Skipped

SORTED_AT_ONCE = 64  # tasks that are sorted by length together
LOT_TEXT, LOT_BYTES = 128 * 1024, 16 * 1024**2  # a lot ends with the document that reaches either [bytes]

Finished = Callable[[Collection[bytes]], Mapping[bytes, Record]]  # exact records by the sha256 of their texts
Partial = Mapping[Version, StoredDocument]  # versions of documents of which the store holds a part


class Reading:
    """A document that was read, with its text if it is one."""

    __slots__ = ("document", "source", "text")

    def __init__(self, source: Source | LargeBinary, document: Document) -> None:
        self.source, self.document = source, document
        self.text = as_text(source.data) if isinstance(source, Source) else None

    @property
    def held_bytes(self) -> int:
        """The bytes of it that are loaded."""
        return self.source.size if isinstance(self.source, Source) else 0


@dataclass(frozen=True, slots=True)
class Waiting:
    """A segment to be fitted: where it belongs, and its surprisal without vectors [nats]."""

    document: Document
    segment: Segment
    digest: bytes  # sha256 of its text
    nats: float
    again: tuple[tuple[Document, int], ...] = ()  # where the same text comes again: document, first byte

    @property
    def places(self) -> list[tuple[Document, int]]:
        """Every place of the text: document, first byte."""
        return [(self.document, self.segment.start), *self.again]


@dataclass(frozen=True, slots=True)
class Unfit:
    """A document that no vectors can carry."""

    document: Document
    source: Source | LargeBinary
    reason: RawReason

    def records(self, width: int, compress: raw.Compressor) -> Iterator[Record]:
        """Its raw records, each made when it is asked for. UnfitError or OSError if a large file cannot be read."""
        pieces = self.source.frames(raw.MAX_RAW_BYTES)
        return each_raw_record(self.document, 0, pieces, self.document.tokens, self.reason, width, None, compress)


@dataclass(frozen=True, slots=True)
class Plan:
    """The work of a pack on one lot."""

    raw: list[Unfit]
    waiting: list[Waiting]
    reused: list[Made] = field(
        default_factory=list
    )  # copies of records that the store has under another name or in another place


@dataclass(frozen=True, slots=True)
class Window:
    """A part of a document that needs a memory: the text that shares one record."""

    document: Document
    segment: Segment
    text: str

    @property
    def text_sha256(self) -> bytes:
        """The sha256 of the text's bytes."""
        return hashlib.sha256(self.text.encode()).digest()


def partial_content(store: Store) -> dict[Version, StoredDocument]:
    """Return the versions whose content the store does not hold in full."""
    if not catalogue.answer(store, lambda known: known.partial):
        return {}
    scan = catalogue.scan(store)
    every = [scan.stored(number) for number in np.flatnonzero(~scan.complete).tolist()]
    return {stored.version: stored for stored in every}


def lots(documents: Iterable[Unpacked]) -> Iterator[list[Reading]]:
    """Divide documents into lots, in their order."""
    lot: list[Reading] = []
    text = size = 0
    for source, document in documents:
        lot.append(Reading(source, document))
        size += lot[-1].held_bytes
        text += source.size if lot[-1].text else 0
        if text >= LOT_TEXT or size >= LOT_BYTES:
            yield lot
            lot, text, size = [], 0, 0
    if lot:
        yield lot


def plan(
    lot: Sequence[Reading],
    partial: Partial,
    lm: FrozenLM,
    settings: PackSettings,
    held: Held | None = None,
    finished: Finished = lambda texts: {},
) -> Plan:
    """Cut the documents of a lot into segments to be fitted.

    Documents that are not text become raw records. Segments that an interrupted pack finished are left out. Segments in
    `held`, and those that this pack `finished` in an earlier lot, are copied. Of segments with the same text only one is
    fitted.
    """
    known_documents = held.documents([r.source for r in lot if isinstance(r.source, Source)], settings) if held else {}
    reused: list[Made] = []
    left = []
    for reading in lot:
        if records := known_documents.get(reading.source.sha256):
            document = dataclasses.replace(reading.document, tokens=records[0].document.tokens)
            reused += [Made(record, _text(reading, record), True) for record in moved(records, document)]
        else:
            left.append(reading)
    raws, todo = _segments(left, partial, lm, settings)
    texts = {digest for *_, digest in todo}
    known = {**(held.exact(texts, settings) if held else {}), **finished(texts)}
    places: dict[bytes, list[tuple[Document, Segment]]] = {}
    for reading, document, segment, digest in todo:
        if digest in known:
            (record,) = moved([known[digest]], document, segment.start - known[digest].start)
            reused.append(Made(record, _text(reading, record), True))
        else:
            places.setdefault(digest, []).append((document, segment))
    alone = [same[0][1].ids for same in places.values()]
    own = surprisal(
        lm, alone, window=max(map(len, alone), default=1)
    )  # measured again, because a fit knows nothing before its segment
    waiting = [
        Waiting(*same[0], digest, sum(row), tuple((document, segment.start) for document, segment in same[1:]))
        for (digest, same), row in zip(places.items(), own, strict=True)
    ]
    return Plan(raws, waiting, reused)


def _segments(
    lot: Sequence[Reading], partial: Partial, lm: FrozenLM, settings: PackSettings
) -> tuple[list[Unfit], list[tuple[Reading, Document, Segment, bytes]]]:
    """(documents that cannot be cut, segments with their text's sha256), without those in `partial`."""
    ids = [lm.encode(reading.text) if reading.text else [] for reading in lot]
    fits = [len(row) >= MIN_TOKENS for row in ids]
    nats = surprisal(lm, [row if fit else [] for row, fit in zip(ids, fits, strict=True)])
    raws: list[Unfit] = []
    todo: list[tuple[Reading, Document, Segment, bytes]] = []
    for reading, row, surprise in zip(lot, ids, nats, strict=True):
        text = reading.text
        named = dataclasses.replace(reading.document, tokens=len(row))
        segments = cut(text, row, surprise, lm, settings) if text and surprise else None
        if text is None or segments is None:
            raws.append(Unfit(named, reading.source, _reason(text, row)))
            continue
        data = text.encode()
        known = partial.get((named.name, named.sha256))
        there = {(ref.start, ref.length) for ref in known.records} if known else set()
        document = known.document if known else named
        todo += [
            (reading, document, s, hashlib.sha256(data[s.start : s.start + s.length]).digest())
            for s in segments
            if (s.start, s.length) not in there
        ]
    return raws, todo


def tasks(waiting: Sequence[Waiting], width: int, settings: PackSettings, first: int = 0) -> Iterator[Task]:
    """A fit task for each waiting segment. The keys are the places in the list, counted from `first`.

    Segments of similar length come together, but only within a few batches. So documents still end in order.
    """
    made = [
        Task(first + place, item.segment.ids, vectors_for(item.nats, len(item.segment.ids), width, settings))
        for place, item in enumerate(waiting)
    ]
    for some in chunked(made, SORTED_AT_ONCE):
        yield from sorted(some, key=lambda task: -(len(task.ids) + task.vectors))


def windows(
    lot: Sequence[Reading], known: Partial, lm: FrozenLM, most: int, kind: Kind
) -> tuple[list[Window], list[Skipped]]:
    """(the windows of at most about `most` tokens that need a memory, the documents that have no text for one).

    Windows with a record of the `kind` in `known` are left out.
    """
    todo: list[Window] = []
    refused: list[Skipped] = []
    for reading in lot:
        document, text = reading.document, reading.text
        ids = lm.encode(text) if text else []
        segments = tile(text, ids, lm.decode, most) if text and len(ids) >= MIN_TOKENS else None
        if text is None or segments is None:
            why = (
                "not valid UTF-8 text, or control characters"
                if text is None
                else "text of a few tokens, or text that the tokenizer changes"
            )
            refused.append(Skipped(document.name, f"{why}: it has no memory"))
            continue
        stored = known.get((document.name, document.sha256))
        named = stored.document if stored else dataclasses.replace(document, tokens=len(ids))
        there = {(ref.start, ref.length) for ref in stored.memory_of(kind)} if stored else set()
        todo += [Window(named, s, lm.decode(s.ids)) for s in segments if (s.start, s.length) not in there]
    return todo, refused


def _text(reading: Reading, record: Record) -> str | None:
    """The text of an exact record, taken from its document."""
    if record.kind != Kind.EXACT or not isinstance(reading.source, Source):
        return None
    return reading.source.data[record.start : record.start + record.length].decode()


def _reason(text: str | None, ids: Sequence[int]) -> RawReason:
    if text is None:
        return RawReason.NOT_TEXT
    return RawReason.TOO_SHORT if len(ids) < MIN_TOKENS else RawReason.TOKENIZER
