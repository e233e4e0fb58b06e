"""Hold all records of a store as columns, and join them to the content and the memories of each document. Knows no model.

Letters: n records, V document versions, k records in their places.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from memvec.formats import kv_tensors
from memvec.formats.container import Array
from memvec.formats.shard import Shard
from memvec.store.documents import RecordRef, StoredDocument, Version, joined
from memvec.types import Document, Kind

CONTENT, MEMORY, KV, UNJOINED = range(4)  # sections of a document's records
MOST = 1 << 62  # counts are below this, so that the sum of two fits in 64 bits
_PLACES = ("version", "shard", "row", "kind", "start", "length")
_COUNTS = ("reason", "tokens", "token_steps", "seconds", "vectors", "corrected", "id", "kv_positions", "kv_bytes")


class Scan:
    """The records of a store in order of shards and rows, and their document versions. Removed versions are left out."""

    def __init__(self, removed: Collection[Version], counts: bool) -> None:
        """With `counts`, also read the columns that totals are made of, and check that they can be added up."""
        self.versions: list[Document] = []
        self._removed, self._counts = set(removed), counts
        self._numbers: dict[Version, int] = {}  # places in `versions`
        self._parts: list[dict[str, Array]] = []  # one for each shard

    @cached_property
    def columns(self) -> dict[str, Array]:
        """Columns (n,) by name. `version` holds places in `versions`; `id` the first 8 bytes of each record's id."""
        if not self._parts:
            return {name: np.zeros(0, np.int64) for name in (*_PLACES, *_COUNTS)}
        return {name: np.concatenate([part[name] for part in self._parts]) for name in self._parts[0]}

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
        t = part.tensors
        documents = part.documents[:]
        lines, first = np.unique(t["document"], return_index=True)
        lines = lines[np.argsort(first)]
        known = np.full(len(documents), -1, np.int64)
        for line in lines.tolist():
            document = documents[line]
            key = document.name, document.sha256
            if key not in self._removed:
                known[line] = self._numbers.setdefault(key, len(self.versions))
                if known[line] == len(self.versions):
                    self.versions.append(document)
        columns: dict[str, Any] = {
            "version": known[t["document"]],
            "shard": np.full(len(part), number, np.uint32),
            "row": np.arange(len(part), dtype=np.uint32),
            **{name: t[name] for name in ("kind", "start", "length")},
            **(_counts(part, documents, lines) if self._counts else {}),
        }
        chosen = columns["version"] >= 0
        self._parts.append(columns if chosen.all() else {name: column[chosen] for name, column in columns.items()})

    def groups(self) -> Iterator[tuple[int, int, list[int], bool]]:
        """(version, section, its records by number, do they cover the document?) of all contents and memories.

        The section is CONTENT, MEMORY or KV, and a version's groups come in that order.
        """
        columns = self.columns
        kinds = columns["kind"]
        group = columns["version"] * UNJOINED + (kinds == Kind.CONTEXT) * MEMORY + (kinds == Kind.KV) * KV
        order = np.argsort(group, kind="stable")
        found, begins = np.unique(group[order], return_index=True)
        records, starts, lengths = (c.tolist() for c in (order, columns["start"][order], columns["length"][order]))
        bounds = [*begins.tolist(), len(records)]
        for number, begin, end in zip(found.tolist(), bounds, bounds[1:], strict=False):
            version, section = divmod(number, UNJOINED)
            chosen, complete = joined(self.versions[version].bytes, starts[begin:end], lengths[begin:end])
            yield version, section, [records[begin + place] for place in chosen], complete

    def documents(self) -> list[StoredDocument]:
        """Every version with its records, in order of its newest record."""
        parts: dict[int, dict[str, Any]] = {n: {"records": (), "complete": False} for n in range(len(self.versions))}
        columns = [self.columns[name].tolist() for name in ("shard", "row", "start", "length")]
        for version, section, records, complete in self.groups():
            refs = tuple(RecordRef(*(column[record] for column in columns)) for record in records)
            part = parts[version]
            if section == CONTENT:
                part |= {"records": refs, "complete": complete}
            elif complete:
                part["memory" if section == MEMORY else "kv"] = refs
            else:
                part["unjoined"] = part.get("unjoined", ()) + refs
                part["unjoined_kv"] = len(refs) if section == KV else 0
        return [StoredDocument(self.versions[n], **parts[n]) for n in self.newest.tolist()]


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


def place(scan: Scan) -> Placed:
    """Put the records of a scan in their documents, as columns."""
    every: list[int] = []
    groups: list[tuple[int, int, int, int]] = []  # (version, section, records, first place)
    behind: dict[int, int] = {}  # unjoined records of a version so far: those of a kv memory come after the others
    for version, section, records, complete in scan.groups():
        first = 0
        if section == CONTENT:
            first = 0 if complete else -len(records)
        elif not complete:
            section, first = UNJOINED, behind.get(version, 0)
            behind[version] = len(records)
        groups.append((version, section, len(records), first))
        every += records
    versions, sections, sizes, firsts = np.array(groups, np.int64).reshape(-1, 4).T
    begins = np.cumsum(sizes) - sizes
    places = np.arange(len(every)) + np.repeat(firsts - begins, sizes)
    return Placed(np.array(every, np.int64), np.repeat(versions, sizes), np.repeat(sections, sizes), places)


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
        "id": np.ascontiguousarray(t["record_sha256"][:, :8]).view(">u8")[:, 0].astype(np.uint64),
        **_kv_sizes(part),
    }


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
