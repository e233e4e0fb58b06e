"""The columns of a catalogue, made from the shards of a store. Knows no model.

Letters: n records that count, V document versions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from memvec.formats import canonical
from memvec.formats.container import Array
from memvec.store.documents import RecordRef
from memvec.store.scan import CONTENT, MEMORY, UNJOINED, Placed, place, scan
from memvec.store.store import Store
from memvec.store.totals import mean
from memvec.types import Document, Kind, RawReason

# {column: numpy code}. Of live documents, by name; `names` is UTF-8 laid end to end.
DOCUMENT_COLUMNS = {
    "names": "u1",
    "name_offsets": "u8",
    "sha256": "u1",
    "bytes": "u8",
    "tokens": "u8",
    "zstd_bytes": "u8",
    "complete": "u1",
    "content": "u8",  # records of it, then those of its memory, then those of a memory with a gap: `record_offsets`
    "memory": "u8",
    "record_offsets": "u8",
    "raw_records": "u8",
    "vectors": "u8",
    "corrected": "u8",
    "memory_vectors": "u8",
    "gain": "f8",  # NaN where there is none
}
# Of their records, document by document; `id_keys` are the first 8 bytes of ids in order, `id_places` whose they are.
RECORD_COLUMNS = {"shard": "u4", "row": "u4", "start": "u8", "length": "u8", "id_keys": "u8", "id_places": "u8"}
# Of the store, as canonical JSON.
STORE_COLUMNS = {"totals": "u1", "incomplete": "u1"}
COLUMNS = {**DOCUMENT_COLUMNS, **RECORD_COLUMNS, **STORE_COLUMNS}


def build(store: Store) -> dict[str, Array]:
    """The columns of the catalogue of a store. StoreDamagedError names a shard or record that is not what was written."""
    versions, columns = scan(store)
    placed = place(versions, columns)
    live, incomplete, counted = _live(versions, columns, placed)
    rank = np.full(len(versions), -1, np.int64)
    rank[live] = np.arange(len(live))
    table = placed.where(rank[placed.version] >= 0)
    table = table.where(np.lexsort((table.place, table.section, rank[table.version])))
    gains = _conditioning(store, columns, table)
    return {
        **_documents([versions[number] for number in live]),
        **_per_document(columns, table, rank[table.version], len(live), gains),
        **_records(columns, table),
        "totals": _json(_totals(versions, columns, placed, live, counted, gains)),
        "incomplete": _json(incomplete),
    }


def _live(
    versions: Sequence[Document], columns: dict[str, Array], placed: Placed
) -> tuple[list[int], list[str], Array]:
    """(live versions by name, names of what is unfinished, mask of the versions that totals are made of)."""
    begun, complete, memory, unjoined = (np.zeros(len(versions), bool) for _ in range(4))
    begun[placed.version[placed.section == CONTENT]] = True
    complete[placed.version[(placed.section == CONTENT) & (placed.place >= 0)]] = True
    memory[placed.version[placed.section == MEMORY]] = True
    unjoined[placed.version[placed.section == UNJOINED]] = True
    unfinished = unjoined | (begun & ~complete)
    order = np.argsort(columns["version"], kind="stable")
    ends = np.searchsorted(columns["version"][order], np.arange(len(versions)), "right")
    newest = np.argsort(order[ends - 1]) if len(versions) else np.zeros(0, np.int64)
    by_name = {versions[number].name: number for number in newest.tolist() if complete[number] or memory[number]}
    live = [by_name[name] for name in sorted(by_name)]
    late = [n for n in np.flatnonzero(unfinished).tolist() if by_name.get(versions[n].name, n) == n]
    counted = np.zeros(len(versions), bool)
    counted[live + late] = True
    return live, sorted({versions[number].name for number in late}), counted


def _conditioning(store: Store, columns: dict[str, Array], table: Placed) -> tuple[dict[int, float], dict[int, float]]:
    """(gain, harm) of the records of memories, by number in the scan, where they were measured."""
    gains: dict[int, float] = {}
    harms: dict[int, float] = {}
    for record in np.sort(table.record[table.section == MEMORY]).tolist():
        place = (int(columns[name][record]) for name in ("shard", "row", "start", "length"))
        measured = store.record(RecordRef(*place)).conditioning
        if measured is not None and measured.gain is not None:
            gains[record] = measured.gain
        if measured is not None and measured.harm is not None:
            harms[record] = measured.harm
    return gains, harms


def _documents(live: Sequence[Document]) -> dict[str, Array]:
    names = [document.name.encode() for document in live]
    columns = {
        "names": np.frombuffer(b"".join(names), np.uint8),
        "name_offsets": _offsets(np.array([len(name) for name in names], np.uint64)),
        "sha256": np.frombuffer(b"".join(bytes.fromhex(d.sha256) for d in live), np.uint8).reshape(-1, 32),
    }
    return columns | {
        name: np.array([getattr(document, name) for document in live], np.uint64)
        for name in ("bytes", "tokens", "zstd_bytes")
    }


def _per_document(
    columns: dict[str, Array],
    table: Placed,
    rank: Array,
    count: int,
    measured: tuple[dict[int, float], dict[int, float]],
) -> dict[str, Array]:
    """What `list` says of each document; `table` and the `rank` of its documents ascend."""
    ends = np.searchsorted(rank, np.arange(count + 1))
    content, memory = table.section == CONTENT, table.section == MEMORY

    def sums(values: Array) -> Array:
        return np.diff(_offsets(values)[ends])

    vectors = columns["vectors"][table.record].astype(np.uint64)
    gains, _ = measured
    gain = np.full(count, np.nan)
    weighted: dict[int, list[tuple[float, int]]] = {}
    for record, number in zip(table.record[memory].tolist(), rank[memory].tolist(), strict=True):
        if record in gains:
            weighted.setdefault(number, []).append((gains[record], int(columns["tokens"][record])))
    for number, values in weighted.items():
        found = mean(values)
        gain[number] = np.nan if found is None else found
    return {
        "complete": (sums(content & (table.place >= 0)) > 0).astype(np.uint8),
        "content": sums(content),
        "memory": sums(memory),
        "record_offsets": ends.astype(np.uint64),
        "raw_records": sums(content & (columns["kind"][table.record] == Kind.RAW)),
        "vectors": sums(vectors * content),
        "corrected": sums(columns["corrected"][table.record] * content),
        "memory_vectors": sums(vectors * memory),
        "gain": gain,
    }


def _records(columns: dict[str, Array], table: Placed) -> dict[str, Array]:
    found = {name: columns[name][table.record] for name in ("shard", "row", "start", "length")}
    named = np.flatnonzero(table.section != UNJOINED)
    keys = columns["id"][table.record[named]].astype(np.uint64)
    order = np.argsort(keys, kind="stable")
    found |= {"id_keys": keys[order], "id_places": named[order]}
    return {name: column.astype(RECORD_COLUMNS[name]) for name, column in found.items()}


def _totals(
    versions: Sequence[Document],
    columns: dict[str, Array],
    placed: Placed,
    live: Sequence[int],
    counted: Array,
    measured: tuple[dict[int, float], dict[int, float]],
) -> dict[str, float | int | bool | None]:
    """The sums `summary.report` is made of, over the live documents and those that are unfinished."""
    chosen = placed.where(counted[placed.version])
    rows, memory = (chosen.record[chosen.section == section] for section in (CONTENT, MEMORY))
    complete = np.unique(chosen.version[(chosen.section == CONTENT) & (chosen.place >= 0)])
    raw = columns["kind"][rows] == Kind.RAW
    fitted, raw_text = rows[~raw], rows[raw & (columns["reason"][rows] != RawReason.NOT_TEXT)]
    begun = np.unique(chosen.version[(chosen.section == UNJOINED) | ((chosen.section == CONTENT) & (chosen.place < 0))])
    documents = [versions[number] for number in np.flatnonzero(counted).tolist()]
    weights = dict(zip(memory.tolist(), columns["tokens"][memory].tolist(), strict=True))
    gain, harm = (mean([(value, weights[record]) for record, value in found.items()]) for found in measured)

    def total(name: str, records: Array) -> int:
        return int(columns[name][records].sum(dtype=np.uint64))

    return {
        "documents": len(live),
        "records": len(rows),
        "raw_records": len(rows) - len(fitted),
        "source_bytes": sum(document.bytes for document in documents),
        "source_tokens": sum(document.tokens for document in documents),
        "fitted_tokens": total("tokens", fitted),
        "vectors": total("vectors", fitted),
        "corrected_tokens": total("corrected", fitted),
        "raw_text_bytes": total("length", raw_text),
        "zstd_bytes": sum(document.zstd_bytes for document in documents),
        "token_steps": total("token_steps", rows),
        "seconds": math.fsum(columns["seconds"][rows].tolist()),
        "exact": len(complete) == len(documents),
        "incomplete": len(begun),
        "context_records": len(memory),
        "context_vectors": total("vectors", memory),
        "context_tokens": total("tokens", memory),
        "context_token_steps": total("token_steps", memory),
        "gain": gain,
        "harm": harm,
    }


def _offsets(lengths: Array) -> Array:
    return np.append(np.uint64(0), np.cumsum(lengths, dtype=np.uint64)).astype(np.uint64)


def _json(value: object) -> Array:
    return np.frombuffer(canonical.dumps(value), np.uint8)
