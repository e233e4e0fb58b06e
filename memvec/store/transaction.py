"""Change a store: write its immutable files, then replace the manifest that names them. SPEC §2, §8.

A commit writes the new shard and key files first and the manifest last. A crash at any moment leaves the old state or the
new one. `Store` reads one state and never changes; a `Transaction` moves from one state to the next.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from memvec.formats import files, manifest, shard
from memvec.formats import keys as keys_format
from memvec.formats.keys import Keys
from memvec.formats.manifest import KeysEntry, Manifest, ShardEntry
from memvec.store.documents import Version
from memvec.store.lock import writing
from memvec.store.store import Store
from memvec.types import Kind, Record

Entry = TypeVar("Entry", ShardEntry, KeysEntry)

SHARD_RECORDS, SHARD_BYTES = 1024, 256 * 1024 * 1024  # most in one shard; a larger record gets a shard of its own
KEYS_TEXTS = 65_536  # most texts in one new file of keys
MARKED = {Kind.CONTEXT: manifest.CONTEXT, Kind.KV: manifest.KV}  # kinds that a reader must know, and their features


class Transaction:
    """Writes to a store. The caller holds the write lock, see `memvec.store.lock.writing`.

    `store` is the state that the last commit left. A commit puts a new `Store` there; the one before still reads its state.
    """

    def __init__(self, store: Store) -> None:
        """Raises FormatTooNewError if a newer memvec made the store and a change would lose something."""
        store.manifest.check_writable()
        self.store = store

    @classmethod
    def open(cls, path: str | Path) -> Transaction:
        """Open the store at `path` to change it. Raises what `Store.open` raises, and FormatTooNewError."""
        return cls(Store.open(path))

    @classmethod
    def create(cls, path: str | Path, state: Manifest) -> Transaction:
        """Make a new store at `path` with the manifest `state`. Raises WriteError."""
        begun = cls(Store(Path(path), state))
        files.make_folder(begun.path / "shards", inside=True)
        files.write_atomically(begun.path / manifest.FILE_NAME, manifest.encode(state))
        return begun

    @property
    def path(self) -> Path:
        """The folder of the store."""
        return self.store.path

    def commit(
        self,
        records: Sequence[Record],
        tool: str = "",
        keys: Sequence[Keys] = (),
        meta: Mapping[str, Mapping[str, str]] | None = None,
        removed: Iterable[Version] | None = None,
    ) -> None:
        """Add `records`, `keys` and `meta` to the store: all of them or none. They are on disk on return.

        Args:
            records: Records of one new shard.
            tool: Name and version of the writer.
            keys: Keys of the records' texts, one file each.
            meta: Metadata by document name. It replaces the earlier metadata of these documents.
            removed: The removed document versions, in place of the earlier ones. Versions of `records` are taken out of
                them. Default: as before.

        Raises:
            WriteError: The store is as it was.
        """
        state = self.store.manifest
        entry = self.write(*shard_file(state, records, state.generation + 1)) if records else None
        entries = [self.write(*keys_file(part)) for part in keys]
        # In the same manifest as the shard, so that a reader that does not know the kind refuses the store.
        required = features(records)
        gone = set(state.removed if removed is None else removed)
        gone -= {(record.document.name, record.document.sha256) for record in records}
        self.switch(state.following(tool, entry, entries, required, meta, gone))

    def write(self, entry: Entry, data: bytes) -> Entry:
        """Write a file under the name of its entry. No manifest names it yet. Raises WriteError."""
        file = self.path / entry.path
        files.make_folder(file.parent, inside=True)
        files.write_atomically(file, data)
        return entry

    def switch(self, state: Manifest) -> None:
        """Replace the manifest by `state`, whose files are all on disk. After a WriteError the store is as it was."""
        files.write_atomically(self.path / manifest.FILE_NAME, manifest.encode(state))
        self.store = Store(self.path, state)

    def explain(self, tensors: Mapping[str, str], probe: Mapping[str, Any]) -> None:
        """Put digests of the model's tensors, and its numeric probe, into the manifest of the next commit."""
        self.store = Store(self.path, replace(self.store.manifest, tensors=tensors, probe=probe))


@contextlib.contextmanager
def changing(path: str | Path, lock_wait: float = 0.0, dry_run: bool = False) -> Iterator[Transaction]:
    """Hold the write lock of an existing store and yield a transaction of it.

    A dry run takes no lock; the caller then writes nothing. Raises NotFoundError before a lock is made, and what `writing`
    and `Transaction.open` raise.
    """
    Store.open(path)
    with writing(path, lock_wait, dry_run):
        yield Transaction.open(path)


def shard_file(state: Manifest, records: Sequence[Record], generation: int) -> tuple[ShardEntry, bytes]:
    """Encode `records` as a shard for the store at `state`. The manifest of `generation` will be the first to name it."""
    origin = state.fingerprint
    data = shard.encode(records, origin.id, origin.width, state.vocabulary, origin, generation)
    documents = len({record.document for record in records})
    return ShardEntry(hashlib.sha256(data).hexdigest(), len(data), len(records), documents), data


def keys_file(part: Keys) -> tuple[KeysEntry, bytes]:
    """Encode the keys of one embedder."""
    data, made = keys_format.encode(part), part.embedder
    return KeysEntry(hashlib.sha256(data).hexdigest(), len(data), len(part), made.name, made.id), data


def features(records: Iterable[Record]) -> set[str]:
    """Return the features that a reader of `records` must understand."""
    return {MARKED[record.kind] for record in records if record.kind in MARKED}


def stored_size(record: Record) -> int:
    """Return the bytes that a record takes in a shard, without its columns."""
    return len(record.payload) + record.vectors.nbytes + (record.kv.nbytes if record.kv else 0)


def bounded(records: Iterable[Record]) -> Iterator[list[Record]]:
    """Group `records` in their order, each group for one shard."""
    group: list[Record] = []
    size = 0
    for record in records:
        more = stored_size(record)
        if group and (len(group) == SHARD_RECORDS or size + more > SHARD_BYTES):
            yield group
            group, size = [], 0
        group.append(record)
        size += more
    if group:
        yield group
