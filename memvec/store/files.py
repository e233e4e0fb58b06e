"""The immutable files of a store as bytes, with the entries that will name them in a manifest. Writes nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

from memvec.formats import keys as keys_format
from memvec.formats import shard
from memvec.formats.keys import Keys
from memvec.formats.manifest import KeysEntry, Manifest, ShardEntry
from memvec.types import Record

Entry = TypeVar("Entry", ShardEntry, KeysEntry)

SHARD_RECORDS, SHARD_BYTES = 1024, 256 * 1024 * 1024  # of one shard, at most, unless one record is larger
KEYS_TEXTS = 65_536  # of one file of keys, unless it was written with more


def shard_file(state: Manifest, records: Sequence[Record], generation: int) -> tuple[ShardEntry, bytes]:
    """A shard of `records` for the store at `state`, first named by its manifest of `generation`."""
    origin = state.fingerprint
    data = shard.encode(records, origin.id, origin.width, state.vocabulary, origin, generation)
    documents = len({record.document for record in records})
    return ShardEntry(hashlib.sha256(data).hexdigest(), len(data), len(records), documents), data


def keys_file(part: Keys) -> tuple[KeysEntry, bytes]:
    """A file of the keys of one embedder."""
    data, made = keys_format.encode(part), part.embedder
    return KeysEntry(hashlib.sha256(data).hexdigest(), len(data), len(part), made.name, made.id), data


def bounded(records: Iterable[Record]) -> Iterator[list[Record]]:
    """`records` in their order, as many at once as one shard may hold."""
    group: list[Record] = []
    size = 0
    for record in records:
        more = len(record.payload) + record.vectors.nbytes
        if group and (len(group) == SHARD_RECORDS or size + more > SHARD_BYTES):
            yield group
            group, size = [], 0
        group.append(record)
        size += more
    if group:
        yield group
