"""Hold all records of a store as columns, and join them to the content and the memories of each document. Knows no model.

Letters: n records, V document versions, k records in their places.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np

from memvec.formats import kv_tensors
from memvec.formats.container import Array
from memvec.formats.shard import Shard
from memvec.store.documents import RecordRef, StoredDocument, Version, VersionSet, VersionTable, joined, key_of
from memvec.types import Document, Kind

CONTENT, MEMORY, KV, UNJOINED = range(4)  # sections of a document's records
MOST = 1 << 62  # counts are below this, so that the sum of two fits in 64 bits
# Columns of records by name, and their numpy codes.
_PLACES = {"version": "i8", "shard": "u4", "row": "u4", "kind": "u1", "start": "u8", "length": "u8"}
_COUNTS = {
    "reason": "u1",
    "tokens": "u8",
    "token_steps": "u8",
    "seconds": "f8",
    "vectors": "u8",
    "corrected": "u8",
    "id": "u8",
    "kv_positions": "u8",
    "kv_bytes": "u8",
}
RECORD_COLUMNS = {**_PLACES, **_COUNTS}


class Scan:
    """The records of a store in order of shards and rows, and their document versions. Removed versions are left out."""

    def __init__(self, removed: Collection[Version], counts: bool) -> None:
        """With `counts`, also read the columns that totals are made of, and check that they can be added up."""
        self._removed, self._counts = VersionSet(removed), counts
        self.shards = 0  # that were added
        self._before: VersionTable | None = None  # of a scan that is resumed, until a shard is added
        self._numbers: dict[bytes, int] = {}  # places in `versions`, by key
        self._tables: list[VersionTable] = []  # the versions that are new in each shard
        self._parts: list[dict[str, Array]] = []  # one for each shard

    @classmethod
    def resumed(
        cls, removed: Collection[Version], shards: int, versions: VersionTable, columns: Mapping[str, Array]
    ) -> Scan:
        """A scan with counts to which the first `shards` were added already. ValueError if its columns contradict each other."""
        counts = {len(column) for column in columns.values()}
        numbers = columns["version"]
        names = versions.lengths
        if len(counts) != 1 or names.min(initial=0) < 0 or int(names.sum()) != len(versions.names):
            raise ValueError("the columns of records, or the names, do not fit together")
        every = np.arange(len(versions))
        if not len(versions.sizes) == len(versions.sha256) == len(every) or not np.array_equal(
            np.unique(numbers), every
        ):
            raise ValueError("the versions do not fit to their records")
        scan = cls(removed, counts=True)
        scan.shards, scan._before, scan._tables, scan._parts = shards, versions, [versions], [dict(columns)]
        return scan

    @cached_property
    def versions(self) -> VersionTable:
        """The document versions in order of their first record. No shard can be added from then on."""
        self._numbers.clear()
        joined_tables = VersionTable.joined(self._tables)
        self._tables.clear()
        return joined_tables

    @cached_property
    def columns(self) -> dict[str, Array]:
        """Columns (n,) by name. `version` holds places in `versions`, `id` the first 8 bytes of each record's id."""
        if not self._parts:
            return {name: np.zeros(0, code) for name, code in RECORD_COLUMNS.items()}
        # Each column is dropped from the parts as soon as it is joined.
        return {name: np.concatenate([part.pop(name) for part in self._parts]) for name in tuple(self._parts[0])}

    @property
    def newest(self) -> Array:
        """Versions in order of their newest record (V,)."""
        last = np.zeros(len(self.versions), np.int64)
        last[self.columns["version"]] = np.arange(
            len(self.columns["version"])
        )  # of several records of a version the last one stays
        return np.argsort(last)

    def add(self, number: int, part: Shard) -> None:
        """Add the records of shard `number`. Raises ValueError for a count that is out of bounds."""
        self.shards += 1
        if (before := self._before) is not None:
            self._numbers = {key_of(before.version(place)): place for place in range(len(before))}
            self._before = None
        t = part.tensors
        documents = part.documents[:]
        lines, first = np.unique(t["document"], return_index=True)
        lines = lines[np.argsort(first)]
        known = np.full(len(documents), -1, np.int64)
        new: list[Document] = []
        for line in lines.tolist():
            document = documents[line]
            version = document.name, document.sha256
            if version not in self._removed:
                count = len(self._numbers)
                known[line] = self._numbers.setdefault(key_of(version), count)
                if known[line] == count:
                    new.append(document)
        self._tables.append(VersionTable.of(new))
        columns: dict[str, Any] = {
            "version": known[t["document"]],
            "shard": np.full(len(part), number, np.uint32),
            "row": np.arange(len(part), dtype=np.uint32),
            **{name: t[name] for name in ("kind", "start", "length")},
            **(_counts(part, documents, lines) if self._counts else {}),
        }
        chosen = columns["version"] >= 0
        self._parts.append(columns if chosen.all() else {name: column[chosen] for name, column in columns.items()})

    @cached_property
    def placed(self) -> Placed:
        """The records put in their documents, in order of versions, sections and places.

        A record that another one replaces, or that does not fit into its document, is left out.
        """
        columns = self.columns
        kinds, starts, lengths = (columns[name] for name in ("kind", "start", "length"))
        group = columns["version"] * UNJOINED + (kinds == Kind.CONTEXT) * MEMORY + (kinds == Kind.KV) * KV
        order = np.argsort(group, kind="stable")  # a version's groups: its content, its memory and its kv memory
        groups, begins = np.unique(group[order], return_index=True)
        ends = np.append(begins[1:], len(order))
        versions, sections = groups // UNJOINED, groups % UNJOINED
        first, sizes = order[begins], self.versions.size("bytes")[versions]
        # Most documents are one record. The rule for one is `joined`, without a call for each.
        single = (ends - begins == 1) & (starts[first] == 0) & (lengths[first] == sizes)
        found = [Placed(first, versions, sections, np.zeros(len(first), np.int64)).where(single)]
        behind: dict[int, int] = {}  # unjoined records of a version so far: those of a kv memory come after the others
        for number in np.flatnonzero(~single).tolist():
            records = order[begins[number] : ends[number]]
            version, section = int(versions[number]), int(sections[number])
            chosen, complete = joined(int(sizes[number]), starts[records].tolist(), lengths[records].tolist())
            begin = 0
            if section == CONTENT:
                begin = 0 if complete else -len(chosen)
            elif not complete:
                section, begin = UNJOINED, behind.get(version, 0)
                behind[version] = len(chosen)
            places = begin + np.arange(len(chosen))
            found.append(Placed(records[chosen], np.full(len(chosen), version), np.full(len(chosen), section), places))
        every = Placed(*(np.concatenate([getattr(part, name) for part in found]) for name in Placed.__slots__))
        return every.where(np.lexsort((every.place, every.section, every.version)))

    @cached_property
    def complete(self) -> Array:
        """Does the store hold the content of each version in full (V,)?"""
        found = np.zeros(len(self.versions), bool)
        found[self.placed.version[(self.placed.section == CONTENT) & (self.placed.place >= 0)]] = True
        return found

    def having(self, section: int) -> Array:
        """Does each version have placed records in a section (V,)?"""
        found = np.zeros(len(self.versions), bool)
        found[self.placed.version[self.placed.section == section]] = True
        return found

    @cached_property
    def usable(self) -> Array:
        """Is the content or a memory of each version complete (V,)?"""
        return self.complete | self.having(MEMORY) | self.having(KV)

    @cached_property
    def live(self) -> Array:
        """The live versions in order of name (k,): of each name the newest that is usable."""
        newest = self.newest
        usable = newest[self.usable[newest]].tolist()
        names = {number: self.versions.encoded_name(number) for number in usable}
        usable.sort(key=names.__getitem__)  # of one name the newest comes last
        last = [names[number] != names[after] for number, after in pairwise(usable)]
        return np.array(usable, np.int64)[[*last, True][: len(usable)]]

    @cached_property
    def unfinished(self) -> Array:
        """Was content or a memory of each version begun and not finished (V,)?"""
        return self.having(UNJOINED) | (self.having(CONTENT) & ~self.complete)

    def stored(self, version: int) -> StoredDocument:
        """A version with its records."""
        begin, end = np.searchsorted(self.placed.version, [version, version + 1]).tolist()
        records, sections = self.placed.record[begin:end], self.placed.section[begin:end]
        columns = [self.columns[name][records].tolist() for name in ("shard", "row", "start", "length")]
        refs = [RecordRef(*values) for values in zip(*columns, strict=True)]
        of = [tuple(refs[place] for place in np.flatnonzero(sections == section)) for section in range(UNJOINED + 1)]
        unjoined_kv = (sections == UNJOINED) & (self.columns["kind"][records] == Kind.KV)
        return StoredDocument(
            self.versions[version],
            records=of[CONTENT],
            complete=bool(self.complete[version]),
            memory=of[MEMORY],
            unjoined=of[UNJOINED],
            kv=of[KV],
            unjoined_kv=int(unjoined_kv.sum()),
        )

    def documents(self) -> list[StoredDocument]:
        """Every version with its records, in order of its newest record."""
        return [self.stored(version) for version in self.newest.tolist()]


@dataclass(frozen=True, slots=True)
class Placed:
    """Records put in their documents: number in the scan, version, section, and place in the section (k,) each.

    The places of content with a gap are negative.
    """

    record: Array
    version: Array
    section: Array
    place: Array

    def where(self, chosen: Array) -> Placed:
        """The `chosen` ones of them, by mask or number."""
        return Placed(self.record[chosen], self.version[chosen], self.section[chosen], self.place[chosen])


def _counts(part: Shard, documents: Sequence[Document], lines: Array) -> dict[str, Array]:
    """The columns that totals are made of. Raises ValueError for a count that is out of bounds."""
    t = part.tensors
    sizes = np.zeros(len(documents), np.uint64)
    for line in lines.tolist():
        document = documents[line]
        if max(given := (document.bytes, document.tokens, document.zstd_bytes)) >= MOST or min(given) < 0:
            raise ValueError(f"document {document.name!r} is of {document.bytes} bytes and {document.tokens} tokens")
        sizes[line] = document.bytes
    if ((t["start"] | t["length"]) >= MOST).any() or (t["start"] + t["length"] > sizes[t["document"]]).any():
        raise ValueError("a record reaches past its document")
    return {name: t[name] for name in ("reason", "tokens", "token_steps", "seconds")} | {
        "vectors": np.diff(t["vectors_offsets"]),
        "corrected": t["corrected_wrong"].astype(np.uint64) + t["corrected_margin"],
        "id": first_bytes(t["record_sha256"]),
        **_kv_sizes(part),
    }


def first_bytes(digests: Array) -> Array:
    """The first 8 bytes of digests (k, 32), as numbers (k,) uint64."""
    return np.ascontiguousarray(digests[:, :8]).view(">u8")[:, 0].astype(np.uint64)


def _kv_sizes(part: Shard) -> dict[str, Array]:
    """Positions and bytes of the keys and values of each record of a shard; zeros for records of other kinds."""
    size = np.zeros(len(part), np.uint64)
    if kv_tensors.METADATA not in part.metadata:
        return {"kv_positions": size, "kv_bytes": size}
    shapes = kv_tensors.expected_shapes(part.metadata, dict.fromkeys(kv_tensors.PIECES, (1,)))  # of one row
    for name, code in kv_tensors.PIECES.items():
        size = size + np.diff(part.tensors[f"{name}_offsets"]) * np.uint64(
            np.dtype(code).itemsize * math.prod(shapes[name])
        )
    return {"kv_positions": part.tensors["kv_positions"].astype(np.uint64), "kv_bytes": size}
