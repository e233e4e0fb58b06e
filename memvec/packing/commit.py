"""Commit the finished records of a pack in shards of bounded size, with the keys of their texts."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import accumulate, islice
from typing import NamedTuple

import torch

from memvec.errors import StoreDamagedError
from memvec.identity.probe import numeric_probe
from memvec.identity.verdict import OUTPUTS
from memvec.interrupts import held_back
from memvec.lm.frozen import FrozenLM
from memvec.packing.reuse import acceptable, is_of
from memvec.retrieval.embedders import Embeds, keys_of
from memvec.settings import ContextSettings, PackSettings
from memvec.store.documents import RecordRef, Version
from memvec.store.store import Store
from memvec.store.transaction import Transaction, stored_size
from memvec.types import Kind, Record
from memvec.version import TOOL

COMMIT_SECONDS = 120.0  # finished records wait about this long for a commit
COMMIT_RECORDS, COMMIT_BYTES = 1024, 64 * 1024**2  # of one shard; these bytes are in memory twice while it is written


class _Committed(NamedTuple):
    """Where a record of this pack is: the sha256 of its shard, and its row."""

    shard: str
    row: int


class Committer:
    """Adds the records of one pack to a store whose write lock is held. Nothing else in `memvec.packing` writes to it."""

    def __init__(self, transaction: Transaction) -> None:
        self.transaction = transaction
        self.makers: Sequence[Embeds] = ()  # of the keys that are stored beside the records
        self.pending: list[Record] = []  # finished, not yet committed
        self.finished = 0  # records of this pack that are in the store
        self.copied = 0  # records added whose text was in the store, or in this pack, already
        self._texts: dict[bytes, str] = {}  # of pending records that are not raw, by their sha256
        self._bytes = 0  # of pending records
        # Where the newest record of each kind and text is that is not raw. None: it is pending.
        self._known: dict[tuple[Kind, bytes], _Committed | None] = {}
        self._newest: Record | None = None
        self._since = time.monotonic()

    @property
    def store(self) -> Store:
        """The store as the last commit left it."""
        return self.transaction.store

    @property
    def due(self) -> bool:
        """Was the last commit so long ago that finished records should not wait?"""
        return time.monotonic() - self._since > COMMIT_SECONDS

    def add(self, record: Record, text: str | None = None, copied: bool = False, more: bool = False) -> None:
        """Take a finished record. Commit if that fills a shard, or if it is time and no `more` follow at once.

        The same record twice in a row is added once: an interrupt can come before its producer knows it was taken.
        """
        with held_back():
            if record is self._newest:
                return
            self._newest = record
            self.pending.append(record)
            self._bytes += _size(record)
            self.copied += copied
            if record.kind != Kind.RAW:
                self._known[record.kind, record.text_sha256] = None
                if text is not None:
                    self._texts[record.text_sha256] = text
        if len(self.pending) >= COMMIT_RECORDS or self._bytes >= COMMIT_BYTES or (self.due and not more):
            self.commit()

    def commit(self) -> None:
        """Commit everything pending."""
        while self.pending:
            sizes = accumulate(map(_size, self.pending))
            count = max(1, sum(size <= COMMIT_BYTES for size in islice(sizes, COMMIT_RECORDS)))
            records = self.pending[:count]
            with held_back():  # a signal in between would make the clean-up commit these records again
                self._write(records)
                self.finished += count
                del self.pending[:count]
                self._bytes -= sum(map(_size, records))
        self._texts.clear()
        self._since = time.monotonic()

    def commit_through(self) -> None:
        """Commit everything pending, even if Ctrl-C is pressed meanwhile."""
        while self.pending:
            with contextlib.suppress(KeyboardInterrupt):  # it came after a commit
                self.commit()

    def restore(self, versions: Collection[Version]) -> None:
        """Undo `rm` for these versions of documents, so that their records are reused."""
        if versions:
            self._write(removed=set(self.store.manifest.removed) - set(versions))

    def describe(self, meta: Mapping[str, Mapping[str, str]]) -> None:
        """Store metadata, by the names of documents, where it differs from what is stored."""
        before = self.store.manifest.meta
        if said := {name: dict(one) for name, one in meta.items() if dict(before.get(name, {})) != dict(one)}:
            self._write(meta=said)

    def remember(self, lm: FrozenLM) -> None:
        """Store the model's numeric probe with the next commit, if the store has none and the model is in float32."""
        state = self.store.manifest
        if lm.dtype == torch.float32 and not all(part in state.probe for part in OUTPUTS):
            self.transaction.explain(state.tensors, {**state.probe, **numeric_probe(lm)})

    def exact(self, texts: Collection[bytes], settings: PackSettings) -> dict[bytes, Record]:
        """The exact records that this pack made of texts, by the texts' sha256."""
        return self._of(Kind.EXACT, texts, lambda record: acceptable(record, settings))

    def context(self, texts: Collection[bytes], settings: ContextSettings, recipe: str) -> dict[bytes, Record]:
        """The context records that this pack made of texts, by the texts' sha256."""
        return self._of(Kind.CONTEXT, texts, lambda record: is_of(record, settings, recipe))

    def kv(self, texts: Collection[bytes], matches: Callable[[Record], bool]) -> dict[bytes, Record]:
        """The kv records that this pack made of texts, by the texts' sha256. Each of them `matches`."""
        return self._of(Kind.KV, texts, matches)

    def _of(self, kind: Kind, texts: Collection[bytes], matches: Callable[[Record], bool]) -> dict[bytes, Record]:
        """The records of one kind that this pack made of texts and that match, by the texts' sha256."""
        wanted = {text for text in texts if (kind, text) in self._known}
        if not wanted:
            return {}
        found = [record for record in self.pending if record.kind == kind and record.text_sha256 in wanted]
        shards = {entry.sha256: number for number, entry in enumerate(self.store.manifest.shards)}
        for text in wanted - {record.text_sha256 for record in found}:
            place = self._known[kind, text]
            if place is not None and place.shard in shards:
                with contextlib.suppress(StoreDamagedError):
                    found.append(self.store.record(RecordRef(shards[place.shard], place.row, 0, 0)))
        return {record.text_sha256: record for record in found if matches(record)}

    def _write(
        self,
        records: Sequence[Record] = (),
        meta: Mapping[str, Mapping[str, str]] | None = None,
        removed: Collection[Version] | None = None,
    ) -> None:
        with held_back():
            self.transaction.commit(records, TOOL, keys_of(records, self._texts, self.makers), meta, removed)
            for row, record in enumerate(records):
                if record.kind != Kind.RAW:
                    shard = self.store.manifest.shards[-1].sha256
                    self._known[record.kind, record.text_sha256] = _Committed(shard, row)


def _size(record: Record) -> int:
    # A frame that came out small leaves a hole in the heap where its whole buffer was, until it is committed.
    return max(stored_size(record), record.length)
