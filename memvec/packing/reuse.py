"""Reuse the records of a store whose texts are packed again, instead of fitting these texts anew.

A record gives its text back whatever document it is in. So the same text under another name, or at another place, can use
the same vectors. Records of removed or replaced documents are copied too, until `compact` drops them. Their nats per
vector may differ from the settings of the pack.
"""

from __future__ import annotations

import contextlib
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
from memvec.formats.container import Array
from memvec.formats.raw import raw_bytes
from memvec.formats.refusal import Refusal
from memvec.lm.frozen import FrozenLM
from memvec.settings import ContextSettings, PackSettings
from memvec.store import catalogue
from memvec.store.scan import Scan, first_bytes
from memvec.store.store import RecordRef, Store, StoredDocument
from memvec.types import Document, Kind, Record


class Held:
    """Looks up the records of a store by document and by text."""

    def __init__(self, store: Store, lm: FrozenLM | None = None) -> None:
        """`lm`, in float32, decodes each record before it is copied. Without it, as in a dry run, records are trusted."""
        self.store = Store(store.path, dataclasses.replace(store.manifest, removed=()))
        self.lm = lm

    @cached_property
    def _scan(self) -> Scan:
        return catalogue.scan(self.store)

    @cached_property
    def _versions(self) -> _Lookup:
        """The versions with complete content, by the sha256 of their bytes."""
        complete = np.flatnonzero(self._scan.complete)
        return _Lookup(first_bytes(self._scan.versions.sha256[complete]), complete)

    @cached_property
    def _records(self) -> _Lookup:
        """The records that are not raw, by the sha256 of their texts."""
        columns = self._scan.columns
        fitted = np.flatnonzero(columns["kind"] != Kind.RAW)
        shards, rows = columns["shard"][fitted], columns["row"][fitted]  # in order of shards
        parts = [np.zeros(0, np.uint64)]
        for number in np.unique(shards).tolist():
            begin, end = np.searchsorted(shards, [number, number + 1])
            parts.append(first_bytes(self.store.texts(number)[rows[begin:end]]))
        return _Lookup(np.concatenate(parts), fitted)

    def documents(self, sources: Sequence[Source], settings: PackSettings) -> dict[str, list[Record]]:
        """The records of documents of the same bytes, under any name, by the bytes' sha256."""
        found: dict[str, list[Record]] = {}
        for digest, data in {source.sha256: source.data for source in sources}.items():
            for stored in map(self._scan.stored, self._versions.of(bytes.fromhex(digest))):
                if stored.document.sha256 != digest:
                    continue
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
            record.text_sha256: record for record in self._of(texts, Kind.CONTEXT) if is_of(record, settings, recipe)
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
        columns = self._scan.columns
        found = sorted(number for text in texts for number in self._records.of(text) if columns["kind"][number] == kind)
        for number in found:
            ref = RecordRef(int(columns["shard"][number]), int(columns["row"][number]), 0, 0)
            with contextlib.suppress(StoreDamagedError):
                record = self.store.record(ref)
                if record.text_sha256 in texts:
                    yield record

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


class _Lookup:
    """Finds the numbers of rows by the first 8 bytes of a digest."""

    def __init__(self, digests: Array, numbers: Array) -> None:
        order = np.argsort(digests, kind="stable")
        self._digests, self._numbers = digests[order], numbers[order]

    def of(self, digest: bytes) -> list[int]:
        """The rows whose digest begins alike, in their order."""
        wanted = np.uint64(int.from_bytes(digest[:8], "big"))
        begin, end = np.searchsorted(self._digests, wanted, "left"), np.searchsorted(self._digests, wanted, "right")
        found: list[int] = self._numbers[begin:end].tolist()
        return found


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


def is_of(record: Record, settings: ContextSettings, recipe: str) -> bool:
    """Did the same `settings` and `recipe` make a context record?"""
    made = record.conditioning
    return (
        made is not None
        and (made.recipe, made.seed) == (recipe, settings.seed)
        and (len(record.vectors), record.report.steps) == (settings.vectors_for(record.tokens), settings.steps)
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
