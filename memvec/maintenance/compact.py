"""`compact`: a store without what no longer counts, in few files. What was there before stays on disk for `gc`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from memvec.arguments import checked
from memvec.formats.manifest import KeysEntry, Manifest
from memvec.maintenance.rewrite import (
    NextGeneration,
    by_embedder,
    chosen_keys,
    kept,
    refs_of,
    scattered,
    scattered_keys,
)
from memvec.store import catalogue
from memvec.store.store import Store, StoredDocument
from memvec.store.transaction import changing
from memvec.version import TOOL


@dataclass(frozen=True, slots=True)
class CompactReport:
    """What a compaction did; the field names are those of `--json`."""

    changed: bool  # False: the store was compact already
    records: int  # that are kept
    dropped_records: int  # of removed, superseded and of no longer needed parts of documents
    removed: int  # versions of documents that `rm` removed
    superseded: int  # versions of documents that a newer one took the place of
    texts_dropped: int  # keys of texts that are no longer there
    shards_before: int
    shards: int
    bytes_before: int  # of the files that the store was made of
    bytes: int  # of those it is made of now
    collectable: int  # bytes of files that nothing names any more; `gc` removes them
    dry_run: bool


@checked()
def compact(store: str | Path, *, dry_run: bool = False, lock_wait: float = 0.0) -> CompactReport:
    """Write the records that count into new shards of bounded size and drop the others, keys and tombstones with them.

    One new generation, or none where there is nothing to gain. Files of the old one stay until `gc`, so that nobody
    loses what he reads. StoreDamagedError, StoreLockedError, WriteError.
    """
    with changing(store, lock_wait, dry_run) as transaction:
        opened = transaction.store
        before, versions = opened.manifest, opened.versions()
        keep = kept(versions)
        upcoming = NextGeneration(transaction, dry_run)
        after = _compacted(opened, keep, upcoming)
        changed = after != before
        if changed and not dry_run:
            transaction.switch(replace(after, generation=before.generation + 1, tool=TOOL))
            catalogue.refresh(transaction.store)
    return _report(before, after, len(versions) - len(keep), changed, dry_run)


def _compacted(store: Store, keep: Sequence[StoredDocument], upcoming: NextGeneration) -> Manifest:
    """What the manifest should name; its new files are in `upcoming`."""
    state = store.manifest
    refs = [ref for stored in keep for ref in refs_of(stored)]
    records = (store.record(ref) for ref in refs)
    if len(refs) != sum(entry.records for entry in state.shards) or scattered(state.shards):
        upcoming.add(records)
        shards = tuple(upcoming.shards)
    else:
        upcoming.texts.update(record.text_sha256 for record in records)
        shards = state.shards
    names = {stored.document.name for stored in keep}
    return replace(
        state,
        shards=shards,
        keys=tuple(_keys(store, upcoming)),
        meta={name: said for name, said in state.meta.items() if name in names},
        removed=(),
    )


def _keys(store: Store, upcoming: NextGeneration) -> Sequence[KeysEntry]:
    """The files of keys to be named: those there are, by embedder, where nothing can be dropped from them."""
    found: list[KeysEntry] = []
    for entries in by_embedder(store.manifest.keys).values():
        parts = list(chosen_keys([(store, entry) for entry in entries], upcoming.texts))
        if sum(map(len, parts)) == sum(entry.texts for entry in entries) and not scattered_keys(entries):
            found += entries
            continue
        upcoming.keys.clear()
        upcoming.add_keys(parts)
        found += upcoming.keys
    # In the order of their commits where nothing changed, so that a compact store is found to be compact.
    return store.manifest.keys if set(found) == set(store.manifest.keys) else found


def _report(before: Manifest, after: Manifest, superseded: int, changed: bool, dry_run: bool) -> CompactReport:
    named = {entry.path: entry.bytes for entry in before.named}
    now = {entry.path: entry.bytes for entry in after.named}
    records = sum(entry.records for entry in after.shards)
    return CompactReport(
        changed=changed,
        records=records,
        dropped_records=sum(entry.records for entry in before.shards) - records,
        removed=len(before.removed),
        superseded=superseded,
        texts_dropped=sum(entry.texts for entry in before.keys) - sum(entry.texts for entry in after.keys),
        shards_before=len(before.shards),
        shards=len(after.shards),
        bytes_before=sum(named.values()),
        bytes=sum(now.values()),
        collectable=sum(size for path, size in named.items() if path not in now),
        dry_run=dry_run,
    )
