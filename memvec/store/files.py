"""Encode the immutable files of a store, with their entries for the manifest. Writes nothing."""

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

SHARD_RECORDS, SHARD_BYTES = 1024, 256 * 1024 * 1024  # most in one shard; a larger single record gets its own
KEYS_TEXTS = 65_536  # most in one new file of keys


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


def bounded(records: Iterable[Record]) -> Iterator[list[Record]]:
    """Group `records` in their order, each group for one shard."""
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
