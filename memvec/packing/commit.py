"""Commit the finished records of a pack in shards of bounded size, with the keys of their texts."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import accumulate, islice

import torch

from memvec.identity.probe import numeric_probe
from memvec.identity.verdict import OUTPUTS
from memvec.interrupts import held_back
from memvec.lm.frozen import FrozenLM
from memvec.packing.reuse import Held
from memvec.retrieval.embedders import Embeds, keys_of
from memvec.settings import ContextSettings, PackSettings
from memvec.store.documents import Version
from memvec.store.store import Store
from memvec.store.transaction import Transaction, stored_size
from memvec.types import Kind, Record
from memvec.version import TOOL

COMMIT_SECONDS = 120.0  # finished records wait about this long for a commit
COMMIT_RECORDS, COMMIT_BYTES = 1024, 64 * 1024**2  # of one shard; these bytes are in memory twice while it is written


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
        self._known: set[tuple[Kind, bytes]] = set()  # kinds and texts of all records added that are not raw
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
                self._known.add((record.kind, record.text_sha256))
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

    def describe(self, names: Iterable[str], meta: Mapping[str, str]) -> None:
        """Store `meta` for the documents whose metadata differs from it."""
        before = self.store.manifest.meta
        if said := {name: dict(meta) for name in names if dict(before.get(name, {})) != dict(meta)}:
            self._write(meta=said)

    def remember(self, lm: FrozenLM) -> None:
        """Store the model's numeric probe with the next commit, if the store has none and the model is in float32."""
        state = self.store.manifest
        if lm.dtype == torch.float32 and not all(part in state.probe for part in OUTPUTS):
            self.transaction.explain(state.tensors, {**state.probe, **numeric_probe(lm)})

    def exact(self, texts: Collection[bytes], settings: PackSettings) -> dict[bytes, Record]:
        """The exact records that this pack made of texts, by the texts' sha256."""
        wanted, found = self._of(Kind.EXACT, texts)
        return found | (Held(self.store).exact(wanted, settings) if wanted else {})

    def context(self, texts: Collection[bytes], settings: ContextSettings, recipe: str) -> dict[bytes, Record]:
        """The context records that this pack made of texts, by the texts' sha256."""
        wanted, found = self._of(Kind.CONTEXT, texts)
        return found | (Held(self.store).context(wanted, settings, recipe) if wanted else {})

    def kv(self, texts: Collection[bytes], matches: Callable[[Record], bool]) -> dict[bytes, Record]:
        """The kv records that this pack made of texts, by the texts' sha256. Each of them `matches`."""
        wanted, found = self._of(Kind.KV, texts)
        found = {text: record for text, record in found.items() if matches(record)}
        return found | (Held(self.store).kv(wanted, matches) if wanted else {})

    def _of(self, kind: Kind, texts: Collection[bytes]) -> tuple[set[bytes], dict[bytes, Record]]:
        """(texts of committed records of this pack, pending records by text), both of one kind."""
        wanted = {text for text in texts if (kind, text) in self._known}
        found = {r.text_sha256: r for r in self.pending if r.kind == kind and r.text_sha256 in wanted} if wanted else {}
        return wanted - found.keys(), found

    def _write(
        self,
        records: Sequence[Record] = (),
        meta: Mapping[str, Mapping[str, str]] | None = None,
        removed: Collection[Version] | None = None,
    ) -> None:
        with held_back():
            self.transaction.commit(records, TOOL, keys_of(records, self._texts, self.makers), meta, removed)


def _size(record: Record) -> int:
    # A frame that came out small leaves a hole in the heap where its whole buffer was, until it is committed.
    return max(stored_size(record), record.length)
