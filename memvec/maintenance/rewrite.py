"""Rewrite the live records of a store into new shards and key files.

Letters: n texts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt

from memvec.formats.keys import Keys
from memvec.formats.manifest import KeysEntry, ShardEntry
from memvec.store.store import RecordRef, Store, StoredDocument
from memvec.store.transaction import (
    KEYS_TEXTS,
    SHARD_BYTES,
    SHARD_RECORDS,
    Entry,
    Transaction,
    bounded,
    features,
    keys_file,
    shard_file,
)
from memvec.types import Record


def open_to_copy(path: str | Path) -> Store:
    """Open the store at `path` to copy it. Raises FormatTooNewError also if a copy would lose newer features."""
    store = Store.open(path)
    store.manifest.check_writable()
    return store


def current(versions: Sequence[StoredDocument]) -> list[StoredDocument]:
    """Return the live versions and newer unfinished ones. `versions` are in order of their newest record."""
    live = {stored.document.name: number for number, stored in enumerate(versions) if stored.usable}
    return [stored for number, stored in enumerate(versions) if number >= live.get(stored.document.name, 0)]


def refs_of(stored: StoredDocument) -> tuple[RecordRef, ...]:
    """Return every record of a version. Those of an unfinished part are included, so that its pack can go on."""
    return stored.records + stored.memory + stored.kv + stored.unjoined


class NextGeneration:
    """Writes records and keys into the new files that the next manifest will name. A dry run only counts them."""

    def __init__(self, transaction: Transaction, dry_run: bool = False) -> None:
        self.transaction, self.dry_run = transaction, dry_run
        self.shards: list[ShardEntry] = []
        self.keys: list[KeysEntry] = []
        self.texts: set[bytes] = set()  # sha256 of the texts of all added records
        self.features: set[str] = set()  # that a reader of them must understand

    def add(self, records: Iterable[Record], generation: int | None = None) -> None:
        """Write records to shards, by default of the next generation."""
        state = self.transaction.store.manifest
        generation = state.generation + 1 if generation is None else generation
        for group in bounded(records):
            self.shards.append(self.put(*shard_file(state, group, generation)))
            self.texts.update(record.text_sha256 for record in group)
            self.features |= features(group)

    def add_keys(self, parts: Iterable[Keys]) -> None:
        """Write the keys of one embedder to files of bounded size."""
        group: list[Keys] = []
        for part in parts:
            if group and sum(map(len, group)) + len(part) > KEYS_TEXTS:
                self.keys.append(self.put(*keys_file(_joined(group))))
                group = []
            group += [part] * bool(len(part))
        if group:
            self.keys.append(self.put(*keys_file(_joined(group))))

    def put(self, entry: Entry, data: bytes) -> Entry:
        """Write one file."""
        return entry if self.dry_run else self.transaction.write(entry, data)


def scattered(entries: Sequence[ShardEntry]) -> bool:
    """Do any two neighbours fit into one shard?"""
    return any(
        a.records + b.records <= SHARD_RECORDS and a.bytes + b.bytes <= SHARD_BYTES for a, b in pairwise(entries)
    )


def scattered_keys(entries: Sequence[KeysEntry]) -> bool:
    """Do any two neighbours of one embedder fit into one file?"""
    return any(a.texts + b.texts <= KEYS_TEXTS for a, b in pairwise(entries))


def by_embedder(entries: Iterable[KeysEntry]) -> dict[str, list[KeysEntry]]:
    """Group key files by the id of their embedder, in their order."""
    found: dict[str, list[KeysEntry]] = {}
    for entry in entries:
        found.setdefault(entry.embedder_id, []).append(entry)
    return found


def chosen_keys(files: Iterable[tuple[Store, KeysEntry]], texts: set[bytes]) -> Iterator[Keys]:
    """Choose the keys of `texts` from the files of one embedder. Of several keys of a text the last is used."""
    left = set(texts)
    parts = []
    for store, entry in reversed(list(files)):
        part = store.keys(entry)
        digests = [text.tobytes() for text in part.texts]
        last = {digest: row for row, digest in enumerate(digests) if digest in left}
        left -= set(last)
        parts.append(_rows(part, np.array(sorted(last.values()), np.int64)))
    return reversed(parts)


def _rows(part: Keys, rows: npt.NDArray[np.int64]) -> Keys:
    """Choose rows of a key file, in ascending order."""
    starts, lengths = part.offsets[:-1].astype(np.int64)[rows], np.diff(part.offsets).astype(np.int64)[rows]
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    places = np.repeat(starts - offsets[:-1], lengths) + np.arange(offsets[-1])
    terms, counts = part.terms[places], part.counts[places]
    return Keys(part.embedder, part.texts[rows], part.values[rows], terms, counts, offsets.astype("<u8"))


def _joined(parts: Sequence[Keys]) -> Keys:
    """Join the keys of several files."""
    ends = np.cumsum([0, *(int(part.offsets[-1]) for part in parts)])
    return Keys(
        embedder=parts[0].embedder,
        texts=np.concatenate([part.texts for part in parts]),
        values=np.concatenate([part.values for part in parts]),
        terms=np.concatenate([part.terms for part in parts]),
        counts=np.concatenate([part.counts for part in parts]),
        offsets=np.concatenate(
            [[0], *(part.offsets[1:].astype(np.int64) + end for part, end in zip(parts, ends, strict=False))]
        ).astype("<u8"),
    )
