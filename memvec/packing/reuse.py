"""Reuse the records of a store whose texts are packed again, instead of fitting these texts anew.

A record gives its text back whatever document it is in. So the same text under another name, or at another place, can use
the same vectors. Records of removed or replaced documents are copied too, until `compact` drops them. Their nats per
vector may differ from the settings of the pack.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import cached_property
from itertools import islice

import numpy as np

from memvec.decoding.escalation import text_bytes
from memvec.decoding.greedy import decode
from memvec.errors import StoreDamagedError
from memvec.filesystem.sources import Source
from memvec.formats.raw import raw_bytes
from memvec.formats.refusal import Refusal
from memvec.lm.frozen import FrozenLM
from memvec.settings import ContextSettings, PackSettings
from memvec.store.store import RecordRef, Store, StoredDocument
from memvec.types import Document, Kind, Record


class Held:
    """Looks up the records of a store by document and by text."""

    def __init__(self, store: Store, lm: FrozenLM | None = None) -> None:
        """`lm`, in float32, decodes each record before it is copied. Without it, as in a dry run, records are trusted."""
        self.store = Store(store.path, dataclasses.replace(store.manifest, removed=()))
        self.lm = lm

    @cached_property
    def _complete(self) -> dict[str, list[StoredDocument]]:
        """Every version with complete content, by the sha256 of its bytes."""
        found: dict[str, list[StoredDocument]] = {}
        for stored in self.store.versions():
            if stored.complete:
                found.setdefault(stored.document.sha256, []).append(stored)
        return found

    def documents(self, sources: Sequence[Source], settings: PackSettings) -> dict[str, list[Record]]:
        """The records of documents of the same bytes, under any name, by the bytes' sha256."""
        found: dict[str, list[Record]] = {}
        for digest, data in {source.sha256: source.data for source in sources}.items():
            for stored in self._complete.get(digest, ()):
                records = self._content(stored, data)
                if all(acceptable(record, settings) for record in records) and (records or digest not in found):
                    found[digest] = records
        sound = iter(self._sound([record for records in found.values() for record in records]))
        return {
            digest: records for digest, records in found.items() if records and all(list(islice(sound, len(records))))
        }

    def exact(self, texts: Collection[bytes], settings: PackSettings) -> dict[bytes, Record]:
        """The exact records of texts by their sha256."""
        found = [record for record in self._of(texts, Kind.EXACT) if acceptable(record, settings)]
        return {r.text_sha256: r for r, sound in zip(found, self._sound(found), strict=True) if sound}

    def context(self, texts: Collection[bytes], settings: ContextSettings, recipe: str) -> dict[bytes, Record]:
        """The context records of texts by their sha256, if the same `settings` and `recipe` made them."""
        return {
            record.text_sha256: record
            for record in self._of(texts, Kind.CONTEXT)
            if record.conditioning is not None
            and (record.conditioning.recipe, record.conditioning.seed) == (recipe, settings.seed)
            and (len(record.vectors), record.report.steps) == (settings.vectors_for(record.tokens), settings.steps)
        }

    def kv(self, texts: Collection[bytes], matches: Callable[[Record], bool]) -> dict[bytes, Record]:
        """The kv records of texts by their sha256, of each the newest that `matches`, such as one of the same recipe."""
        return {record.text_sha256: record for record in self._of(texts, Kind.KV) if matches(record)}

    def _content(self, stored: StoredDocument, data: bytes) -> list[Record]:
        """The records of a document whose bytes are `data`. Empty if one is damaged or holds another text."""
        try:
            records = [self.store.record(ref) for ref in stored.records]
        except StoreDamagedError:
            return []
        parts = [data[record.start : record.start + record.length] for record in records]
        same = all(text_is(record, part) for record, part in zip(records, parts, strict=True))
        return records if same else []

    def _of(self, texts: Collection[bytes], kind: Kind) -> Iterable[Record]:
        """Yield the records of one kind for `texts`, the newest last. Damaged ones are left out."""
        wanted = set(texts)
        for number, entry in enumerate(self.store.manifest.shards if wanted else ()):
            with self.store.explaining(entry):
                columns = self.store.reader(number).tensors
                rows = np.flatnonzero(columns["kind"] == kind).tolist()
                digests = columns["text_sha256"]
            for row in rows:
                if digests[row].tobytes() in wanted:
                    try:
                        yield self.store.record(RecordRef(number, row, 0, 0))
                    except StoreDamagedError:
                        continue

    def _sound(self, records: Sequence[Record]) -> list[bool]:
        """For each record: does it decode to the text whose sha256 the store states?"""
        if self.lm is None:
            return [True] * len(records)
        exact = [record for record in records if record.kind == Kind.EXACT]
        vectors, tokens, corrections = (
            [r.vectors for r in exact],
            [r.tokens for r in exact],
            [r.corrections for r in exact],
        )
        rows = iter(decode(self.lm, vectors, tokens, corrections) if exact else [])
        return [
            text_is(record, text_bytes(self.lm, next(rows))) if record.kind == Kind.EXACT else _is_undamaged(record)
            for record in records
        ]


def acceptable(record: Record, settings: PackSettings) -> bool:
    """Does the certificate of a record satisfy `settings`? It may have any nats per vector."""
    if record.kind == Kind.RAW:
        return True
    report, left = record.report, record.tokens - len(record.corrections)
    return (
        len(record.corrections) <= settings.allowed(record.tokens)
        and not (settings.strict and report.corrected_wrong)
        and (not left or report.least_margin >= float(np.float32(settings.margin)))
        and len(record.vectors) == (settings.vectors or len(record.vectors))
    )


def moved(records: Iterable[Record], document: Document, by: int = 0) -> list[Record]:
    """Return copies of `records` in another document, `by` bytes further on."""
    return [dataclasses.replace(record, document=document, start=record.start + by) for record in records]


def _is_undamaged(record: Record) -> bool:
    try:
        raw_bytes(record)
    except Refusal:
        return False
    return True


def text_is(record: Record, data: bytes) -> bool:
    """Are these the bytes of a record's text?"""
    return hashlib.sha256(data).digest() == record.text_sha256
