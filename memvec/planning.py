"""Which segments a pack has to fit: documents in, raw records and waiting segments out."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from memvec.fit import Task
from memvec.formats import raw
from memvec.lm import FrozenLM
from memvec.records import raw_records
from memvec.segment import MIN_TOKENS, Segment, cut, surprisal, vectors_for
from memvec.settings import PackSettings
from memvec.sources import Source
from memvec.store import StoredDocument
from memvec.types import Document, RawReason, Record

SORTED_AT_ONCE = 64

Partial = Mapping[tuple[str, str], StoredDocument]  # documents without whole content, by name and sha256


@dataclass(frozen=True, slots=True)
class Waiting:
    """A segment to be fitted: where it belongs, and its surprisal without vectors [nats]."""

    document: Document
    segment: Segment
    nats: float


@dataclass(frozen=True, slots=True)
class Plan:
    """What a pack will do."""

    raw: list[Record]  # records that are finished already
    waiting: list[Waiting]


def plan(sources: Sequence[Source], partial: Partial, lm: FrozenLM, settings: PackSettings) -> Plan:
    """Cut `sources` into segments; what is no text is raw, what an interrupted pack finished is left out."""
    documents = baseline(sources)
    texts = [as_text(source.data) for source in sources]
    ids = [lm.encode(text) if text else [] for text in texts]
    fits = [len(row) >= MIN_TOKENS for row in ids]
    nats = surprisal(lm, [row if fit else [] for row, fit in zip(ids, fits, strict=True)])
    raws: list[Record] = []
    todo: list[tuple[Document, Segment]] = []
    for source, document, text, row, surprise in zip(sources, documents, texts, ids, nats, strict=True):
        named = dataclasses.replace(document, tokens=len(row))
        segments = cut(text, row, surprise, lm, settings) if text and surprise else None
        if segments is None:
            raws += raw_records(named, 0, source.data, len(row), _reason(text, row), lm.width)
            continue
        known = partial.get((named.name, named.sha256))
        there = {(ref.start, ref.length) for ref in known.records} if known else set()
        todo += [(known.document if known else named, s) for s in segments if (s.start, s.length) not in there]
    alone = [segment.ids for _, segment in todo]
    own = surprisal(lm, alone, window=max(map(len, alone), default=1))  # again, now that each starts from nothing
    waiting = [Waiting(document, segment, sum(row)) for (document, segment), row in zip(todo, own, strict=True)]
    return Plan(raws, waiting)


def tasks(waiting: Sequence[Waiting], width: int, settings: PackSettings) -> Iterator[Task]:
    """A fit task for each waiting segment, its place in the list as key.

    Those of like length come together, within a few batches: less padding, and documents still end in order.
    """
    made = [
        Task(key, item.segment.ids, vectors_for(item.nats, len(item.segment.ids), width, settings))
        for key, item in enumerate(waiting)
    ]
    for begin in range(0, len(made), SORTED_AT_ONCE):
        yield from sorted(made[begin : begin + SORTED_AT_ONCE], key=lambda task: -(len(task.ids) + task.vectors))


def baseline(sources: Sequence[Source]) -> list[Document]:
    """A `Document` for each source, with its share by length of one zstd -19 stream over all of them."""
    total = raw.stream_size(source.data for source in sources)
    ends = [0, *accumulate(len(source.data) for source in sources)]
    marks = [total * end // max(1, ends[-1]) for end in ends]
    return [
        Document(source.name, len(source.data), source.sha256, marks[i + 1] - marks[i], tokens=0)
        for i, source in enumerate(sources)
    ]


def as_text(data: bytes) -> str | None:
    """The text that valid UTF-8 bytes are; None for anything else."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return None


def _reason(text: str | None, ids: Sequence[int]) -> RawReason:
    if text is None:
        return RawReason.NOT_TEXT
    return RawReason.TOO_SHORT if len(ids) < MIN_TOKENS else RawReason.TOKENIZER
