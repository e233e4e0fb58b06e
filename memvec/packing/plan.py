"""Which segments a pack has to fit: documents in, raw records and waiting segments out."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from memvec.chunks import chunked
from memvec.filesystem.plain_text import as_text
from memvec.filesystem.sources import Source
from memvec.formats import raw
from memvec.lm.frozen import FrozenLM
from memvec.packing.records import raw_records
from memvec.packing.reuse import Held, moved
from memvec.settings import PackSettings
from memvec.store.store import StoredDocument
from memvec.training.fit import Task
from memvec.training.segments import MIN_TOKENS, Segment, cut, surprisal, vectors_for
from memvec.types import Document, Kind, RawReason, Record

SORTED_AT_ONCE = 64

Partial = Mapping[tuple[str, str], StoredDocument]  # documents without whole content, by name and sha256


@dataclass(frozen=True, slots=True)
class Waiting:
    """A segment to be fitted: where it belongs, and its surprisal without vectors [nats]."""

    document: Document
    segment: Segment
    nats: float
    again: tuple[tuple[Document, int], ...] = ()  # where the same text comes again: document, first byte

    @property
    def places(self) -> list[tuple[Document, int]]:
        """Every place of the text: document, first byte."""
        return [(self.document, self.segment.start), *self.again]


@dataclass(frozen=True, slots=True)
class Plan:
    """What a pack will do."""

    raw: list[Record]  # records that are finished already
    waiting: list[Waiting]
    reused: list[Record] = field(default_factory=list)  # copies of what the store holds under another name or place
    texts: Mapping[bytes, str] = field(default_factory=dict)  # of the exact ones of these, by sha256


def plan(
    sources: Sequence[Source], partial: Partial, lm: FrozenLM, settings: PackSettings, held: Held | None = None
) -> Plan:
    """Cut `sources` into segments to be fitted.

    Documents that are no text become raw records. Segments that an interrupted pack finished are left out, and those that
    `held` has are copied. Of segments with the same text only one is fitted.
    """
    documents = baseline(sources)
    whole = held.documents(sources, settings) if held else {}
    reused: list[Record] = []
    left = []
    for source, document in zip(sources, documents, strict=True):
        if records := whole.get(source.sha256):
            reused += moved(records, dataclasses.replace(document, tokens=records[0].document.tokens))
        else:
            left.append((source, document))
    raws, todo = _segments(left, partial, lm, settings)
    known = held.exact({digest for _, _, digest in todo}, settings) if held else {}
    places: dict[bytes, list[tuple[Document, Segment]]] = {}
    for document, segment, digest in todo:
        if digest in known:
            reused += moved([known[digest]], document, segment.start - known[digest].start)
        else:
            places.setdefault(digest, []).append((document, segment))
    alone = [same[0][1].ids for same in places.values()]
    own = surprisal(lm, alone, window=max(map(len, alone), default=1))  # again, now that each starts from nothing
    waiting = [
        Waiting(*same[0], sum(row), tuple((document, segment.start) for document, segment in same[1:]))
        for same, row in zip(places.values(), own, strict=True)
    ]
    return Plan(raws, waiting, reused, _texts_of(reused, sources))


def _segments(
    sources: Sequence[tuple[Source, Document]], partial: Partial, lm: FrozenLM, settings: PackSettings
) -> tuple[list[Record], list[tuple[Document, Segment, bytes]]]:
    """(raw records of documents that cannot be cut, segments with their text's sha256), without those in `partial`."""
    texts = [as_text(source.data) for source, _ in sources]
    ids = [lm.encode(text) if text else [] for text in texts]
    fits = [len(row) >= MIN_TOKENS for row in ids]
    nats = surprisal(lm, [row if fit else [] for row, fit in zip(ids, fits, strict=True)])
    raws: list[Record] = []
    todo: list[tuple[Document, Segment, bytes]] = []
    for (source, document), text, row, surprise in zip(sources, texts, ids, nats, strict=True):
        named = dataclasses.replace(document, tokens=len(row))
        segments = cut(text, row, surprise, lm, settings) if text and surprise else None
        if segments is None:
            raws += raw_records(named, 0, source.data, len(row), _reason(text, row), lm.width)
            continue
        known = partial.get((named.name, named.sha256))
        there = {(ref.start, ref.length) for ref in known.records} if known else set()
        todo += [
            (known.document if known else named, s, hashlib.sha256(source.data[s.start : s.start + s.length]).digest())
            for s in segments
            if (s.start, s.length) not in there
        ]
    return raws, todo


def _texts_of(records: Sequence[Record], sources: Sequence[Source]) -> dict[bytes, str]:
    """The texts of exact records, by sha256, taken from the documents that they are in."""
    data = {source.name: source.data for source in sources}
    return {
        record.text_sha256: data[record.document.name][record.start : record.start + record.length].decode()
        for record in records
        if record.kind == Kind.EXACT
    }


def tasks(waiting: Sequence[Waiting], width: int, settings: PackSettings) -> Iterator[Task]:
    """A fit task for each waiting segment, its place in the list as key.

    Those of like length come together, within a few batches: less padding, and documents still end in order.
    """
    made = [
        Task(key, item.segment.ids, vectors_for(item.nats, len(item.segment.ids), width, settings))
        for key, item in enumerate(waiting)
    ]
    for some in chunked(made, SORTED_AT_ONCE):
        yield from sorted(some, key=lambda task: -(len(task.ids) + task.vectors))


def baseline(sources: Sequence[Source]) -> list[Document]:
    """A `Document` for each source, with its share by length of one zstd -19 stream over all of them."""
    total = raw.stream_size(source.data for source in sources)
    ends = [0, *accumulate(len(source.data) for source in sources)]
    marks = [total * end // max(1, ends[-1]) for end in ends]
    return [
        Document(source.name, len(source.data), source.sha256, marks[i + 1] - marks[i], tokens=0)
        for i, source in enumerate(sources)
    ]


def _reason(text: str | None, ids: Sequence[int]) -> RawReason:
    if text is None:
        return RawReason.NOT_TEXT
    return RawReason.TOO_SHORT if len(ids) < MIN_TOKENS else RawReason.TOKENIZER
