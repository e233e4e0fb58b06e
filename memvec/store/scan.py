"""Every record of a store as columns, and which of them make up content and memories. Knows no model.

Letters: n records that count, V document versions, k records in their places.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from memvec.formats.container import Array
from memvec.formats.shard import Shard
from memvec.store.documents import RecordRef, joined
from memvec.store.store import Store
from memvec.types import Document, Kind

CONTENT, MEMORY, UNJOINED = 0, 1, 2  # sections of a document's records
MOST = 1 << 62  # of any count: sums of two are still numbers of 64 bits
_MADE = ("version", "shard", "row", "vectors", "corrected", "id")
_SCANNED = ("kind", "reason", "start", "length", "tokens", "token_steps", "seconds")


@dataclass(slots=True)
class Scan:
    """Every record that counts, in order of shards and rows, as columns (n,), and the document versions they name."""

    versions: list[Document] = field(default_factory=list)
    numbers: dict[tuple[str, str], int] = field(default_factory=dict)  # of versions, by name and sha256
    parts: list[dict[str, Array]] = field(default_factory=list)  # a shard each

    def columns(self) -> dict[str, Array]:
        """The columns of all shards."""
        if not self.parts:
            return {name: np.zeros(0, np.int64) for name in (*_SCANNED, *_MADE)}
        return {name: np.concatenate([part[name] for part in self.parts]) for name in self.parts[0]}


@dataclass(frozen=True, slots=True)
class Placed:
    """Records put in their documents: number in the scan, version, section, and place in the section (k,) each."""

    record: Array
    version: Array
    section: Array
    place: Array

    def where(self, chosen: Array) -> Placed:
        """Those that are `chosen`, by mask or number."""
        return Placed(self.record[chosen], self.version[chosen], self.section[chosen], self.place[chosen])


def scan(store: Store) -> tuple[list[Document], dict[str, Array]]:
    """(V document versions in order of their first record, columns (n,)). StoreDamagedError names the place."""
    found, removed = Scan(), set(store.manifest.removed)
    for number, entry in enumerate(store.manifest.shards):
        with store.explaining(entry):
            _read(found, store.reader(number), number, removed)
    return found.versions, found.columns()


def _read(found: Scan, part: Shard, number: int, removed: set[tuple[str, str]]) -> None:
    """Add the records of a shard, those of documents that were removed left out; ValueError for one out of bounds."""
    t = part.tensors
    named, first = np.unique(t["document"], return_index=True)
    documents = part.documents[:]
    known = np.full(len(documents), -1, np.int64)
    bytes_of = np.zeros(len(documents), np.uint64)
    for line in named[np.argsort(first)].tolist():
        document = documents[line]
        if max(sizes := (document.bytes, document.tokens, document.zstd_bytes)) >= MOST or min(sizes) < 0:
            raise ValueError(f"document {document.name!r} is of {document.bytes} bytes and {document.tokens} tokens")
        bytes_of[line] = document.bytes
        key = document.name, document.sha256
        if key not in removed:
            known[line] = found.numbers.setdefault(key, len(found.versions))
            if known[line] == len(found.versions):
                found.versions.append(document)
    if ((t["start"] | t["length"]) >= MOST).any() or (t["start"] + t["length"] > bytes_of[t["document"]]).any():
        raise ValueError("a record reaches past its document")
    columns = {name: t[name] for name in _SCANNED}
    columns |= {
        "version": known[t["document"]],
        "shard": np.full(len(part), number, np.uint32),
        "row": np.arange(len(part), dtype=np.uint32),
        "vectors": np.diff(t["vectors_offsets"]),
        "corrected": t["corrected_wrong"].astype(np.uint64) + t["corrected_margin"],
        "id": np.ascontiguousarray(t["record_sha256"][:, :8]).view(">u8")[:, 0].astype(np.uint64),
    }
    counts = columns["version"] >= 0
    found.parts.append(columns if counts.all() else {name: column[counts] for name, column in columns.items()})


def place(versions: Sequence[Document], columns: dict[str, Array]) -> Placed:
    """The records that make up content and memories, and those that leave a gap. As `joining.assemble`, all at once."""
    version, context = columns["version"], columns["kind"] == Kind.CONTEXT
    order = np.lexsort((columns["start"], context, version))  # stable: of one start the newest comes last
    group = version[order] * 2 + context[order]
    start = columns["start"][order].astype(np.int64)
    newest = np.append((group[1:] != group[:-1]) | (start[1:] != start[:-1]), True)[: len(order)]
    kept, group, start = order[newest], group[newest], start[newest]
    end = start + columns["length"][kept].astype(np.int64)
    first = np.append(True, group[1:] != group[:-1])[: len(kept)]
    last = np.append(first[1:], True)[: len(kept)]
    sizes = np.array([document.bytes for document in versions], np.int64)
    gap = np.where(first, start != 0, start != np.append(0, end[:-1])[: len(kept)])
    gap |= last & (end != sizes[group // 2])
    broken = np.unique(group[gap])
    whole = ~np.isin(group, broken)
    parts = [Placed(kept[whole], group[whole] // 2, group[whole] % 2, start[whole])]
    parts += _walk(versions, columns, broken, order)
    return Placed(*(np.concatenate([getattr(part, name) for part in parts]) for name in Placed.__slots__))


def _walk(versions: Sequence[Document], columns: dict[str, Array], broken: Array, order: Array) -> Iterator[Placed]:
    """The groups that are not simply laid end to end, each by `joining.joined`."""
    group = columns["version"][order] * 2 + (columns["kind"] == Kind.CONTEXT)[order]
    begins, ends = (np.searchsorted(group, broken, side).tolist() for side in ("left", "right"))
    for number, begin, end in zip(broken.tolist(), begins, ends, strict=True):
        refs: dict[int, RecordRef] = {}
        for record in np.sort(order[begin:end]).tolist():
            start, length = int(columns["start"][record]), int(columns["length"][record])
            refs[start] = RecordRef(0, record, start, length)
        version, context = divmod(number, 2)
        chosen = joined(versions[version], refs)
        section = (MEMORY if chosen else UNJOINED) if context else CONTENT
        records = np.array([ref.row for ref in chosen or refs.values()], np.int64)
        # A content with a gap keeps its section; its places say that it has one.
        places = np.arange(len(records)) - (0 if chosen or context else len(records))
        yield Placed(records, np.full(len(records), version), np.full(len(records), section), places)
