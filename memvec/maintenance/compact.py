"""`compact`: rewrite a store into few files that hold live records only. The old files stay on disk until `gc`."""

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
    current,
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
    """The result of `compact`. The field names are those of `--json`."""

    changed: bool  # False: the store was compact already
    records: int  # in the store now
    dropped_records: int  # of removed and superseded versions, and parts replaced by newer ones
    removed: int  # versions of documents that `rm` removed
    superseded: int  # versions of documents that a newer version replaced
    texts_dropped: int  # keys of texts that no record has
    shards_before: int
    shards: int
    bytes_before: int  # of the files that the old manifest names
    bytes: int  # of the files that the new manifest names
    collectable: int  # bytes of files that `gc` deletes
    dry_run: bool


@checked()
def compact(store: str | Path, *, dry_run: bool = False, lock_wait: float = 0.0) -> CompactReport:
    """Write the live records into few new shards. Leave out all others, their keys and the list of removed versions.

    Records of unfinished documents stay, so that their pack can go on. A compact store gets no new generation. The old
    files stay on disk until `gc`, so readers that are open lose nothing.

    Args:
        store: The store's folder.
        dry_run: Report what would be done. Nothing is written and no lock is taken.
        lock_wait: How long to wait for another writer [s].

    Returns:
        What was left out, and the sizes before and after.

    Raises:
        NotFoundError: There is no store.
        FormatTooNewError: A newer memvec wrote the store, and compacting would lose something.
        StoreDamagedError: A live record is damaged.
        StoreLockedError: Another process is writing to the store.
        WriteError: A file cannot be written. The store is as it was.

    Example:
        >>> removed = memvec.rm(store, "harbour.txt")
        >>> memvec.compact(store).removed
        1
        >>> memvec.compact(store).changed
        False
    """
    with changing(store, lock_wait, dry_run) as transaction:
        opened = transaction.store
        before, versions = opened.manifest, opened.versions()
        keep = current(versions)
        upcoming = NextGeneration(transaction, dry_run)
        after = _compacted(opened, keep, upcoming)
        changed = after != before
        if changed and not dry_run:
            transaction.switch(replace(after, generation=before.generation + 1, tool=TOOL))
            catalogue.refresh(transaction.store)
    return _report(before, after, len(versions) - len(keep), changed, dry_run)


def _compacted(store: Store, keep: Sequence[StoredDocument], upcoming: NextGeneration) -> Manifest:
    """Return the compact manifest. Its new files are in `upcoming`."""
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
    """Return the key files of the compact store. Files of an embedder are rewritten only if that saves something."""
    found: list[KeysEntry] = []
    for entries in by_embedder(store.manifest.keys).values():
        parts = list(chosen_keys([(store, entry) for entry in entries], upcoming.texts))
        if sum(map(len, parts)) == sum(entry.texts for entry in entries) and not scattered_keys(entries):
            found += entries
            continue
        upcoming.keys.clear()
        upcoming.add_keys(parts)
        found += upcoming.keys
    # In the order of their commits if nothing changed, so that a compact store equals its own compaction.
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
