"""Make the columns of a catalogue from the shards of a store. Knows no model.

Letters: V document versions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from memvec.formats import canonical
from memvec.formats.container import Array
from memvec.formats.manifest import Manifest
from memvec.store import scan
from memvec.store.documents import SIZES, VersionTable
from memvec.store.scan import CONTENT, KV, MEMORY, UNJOINED, Placed, Scan
from memvec.store.store import Store
from memvec.store.totals import Measured, mean, measured, totals
from memvec.types import Kind

# {column: numpy code}. Of live documents, by name; `names` is UTF-8 laid end to end.
DOCUMENT_COLUMNS = {
    "names": "u1",
    "name_offsets": "u8",
    "sha256": "u1",
    "bytes": "u8",
    "tokens": "u8",
    "zstd_bytes": "u8",
    "complete": "u1",
    # Records of its content. Those of its memory, its kv memory, and of unfinished memories follow them.
    "content": "u8",
    "memory": "u8",
    "kv": "u8",
    "unjoined_kv": "u8",  # the last ones of those of unfinished memories
    "record_offsets": "u8",
    "raw_records": "u8",
    "vectors": "u8",
    "corrected": "u8",
    "memory_vectors": "u8",
    "gain": "f8",  # NaN: not measured
    "kv_positions": "u8",
    "kv_bytes": "u8",
    "kv_gain": "f8",
}
# Of their records, document by document; `id_keys` are the first 8 bytes of ids in order, `id_places` the records' places.
RECORD_COLUMNS = {"shard": "u4", "row": "u4", "start": "u8", "length": "u8", "id_keys": "u8", "id_places": "u8"}
# Of the store, as canonical JSON.
STORE_COLUMNS = {"totals": "u1", "incomplete": "u1", "partial": "u1", "scanned": "u1"}
# The scan that the others are made of, so that the next catalogue reads new shards only.
SCAN_VERSIONS = {"scan_names": "u1", "scan_lengths": "u8", "scan_sha256": "u1", "scan_sizes": "u8"}
SCAN_COLUMNS = {f"scan_{name}": code.replace("i", "u") for name, code in scan.RECORD_COLUMNS.items()}
COLUMNS = {**DOCUMENT_COLUMNS, **RECORD_COLUMNS, **STORE_COLUMNS, **SCAN_VERSIONS, **SCAN_COLUMNS}


def build(store: Store, found: Scan | None = None) -> dict[str, Array]:
    """Make the columns of the catalogue of a store. StoreDamagedError names a damaged shard or record.

    `found` is a scan of this state with counts, if it was made already.
    """
    found = found or store.scan(counts=True)
    placed = found.placed
    live = found.live
    incomplete, counted = _late(found)
    rank = np.full(len(found.versions), -1, np.int64)
    rank[live] = np.arange(len(live))
    table = placed.where(rank[placed.version] >= 0)
    table = table.where(np.lexsort((table.place, table.section, rank[table.version])))
    measures = measured(store, found, table)
    chosen = placed.where(counted[placed.version])
    return {
        **_documents(found.versions.where(live)),
        **_per_document(found.columns, table, rank[table.version], len(live), measures),
        **_records(found.columns, table),
        **_scanned(found),
        "totals": _json(totals(found, chosen, counted, measures)),
        "incomplete": _json(incomplete),
        "partial": _json(int((~found.complete).sum())),
        "scanned": _json(covered(store.manifest)),
    }


def covered(state: Manifest) -> dict[str, Any]:
    """What a scan of a store depends on, as JSON."""
    return {
        "shards": [entry.sha256 for entry in state.shards],
        "removed": [list(version) for version in state.removed],
        "model": [state.fingerprint.id, state.vocabulary, list(state.required)],
    }


def resumed(state: Manifest, read: Callable[[str], Array], told: Any) -> Scan | None:
    """The scan in a catalogue's columns, if it is of this state or of one before. `told` is the column "scanned".

    None if the state does not follow from that one. ValueError if the columns contradict each other.
    """
    now = covered(state)
    shards = told["shards"]
    if told | {"shards": []} != now | {"shards": []} or now["shards"][: len(shards)] != shards:
        return None
    lengths = read("scan_lengths").astype(np.int64)
    versions = VersionTable(read("scan_names"), np.cumsum(lengths), read("scan_sha256"), read("scan_sizes"))
    columns = {name: read(f"scan_{name}").astype(code) for name, code in scan.RECORD_COLUMNS.items()}
    return Scan.resumed(state.removed, len(shards), versions, columns)


def _scanned(found: Scan) -> dict[str, Array]:
    versions = found.versions
    return {
        "scan_names": versions.names,
        "scan_lengths": versions.lengths,
        "scan_sha256": versions.sha256,
        "scan_sizes": versions.sizes,
        **{f"scan_{name}": found.columns[name] for name in scan.RECORD_COLUMNS},
    }


def _late(found: Scan) -> tuple[list[str], Array]:
    """(names of unfinished documents, mask of the versions to add up)."""
    versions, live = found.versions, found.live
    counted = np.zeros(len(versions), bool)
    counted[live] = True
    late = np.flatnonzero(found.unfinished).tolist()
    newer = set(map(versions.encoded_name, live.tolist())) if late else set()
    late = [number for number in late if counted[number] or versions.encoded_name(number) not in newer]
    counted[late] = True
    return sorted(set(map(versions.name, late))), counted


def _documents(live: VersionTable) -> dict[str, Array]:
    return {
        "names": live.names,
        "name_offsets": _offsets(live.lengths),
        "sha256": live.sha256,
        **{name: live.size(name) for name in SIZES},
    }


def _per_document(
    columns: dict[str, Array],
    table: Placed,
    rank: Array,
    count: int,
    measures: Measured,
) -> dict[str, Array]:
    """Add up the records of each document. `table` is in the order of `rank`, the numbers of its documents."""
    ends = np.searchsorted(rank, np.arange(count + 1))
    content, memory, kv = (table.section == section for section in (CONTENT, MEMORY, KV))

    def sums(values: Array) -> Array:
        return np.diff(_offsets(values)[ends])

    def gains(chosen: Array, of: Mapping[int, float]) -> Array:
        found = np.full(count, np.nan)
        weighted: dict[int, list[tuple[float, int]]] = {}
        for record, number in zip(table.record[chosen].tolist(), rank[chosen].tolist(), strict=True):
            if record in of:
                weighted.setdefault(number, []).append((of[record], int(columns["tokens"][record])))
        for number, values in weighted.items():
            value = mean(values)
            found[number] = np.nan if value is None else value
        return found

    vectors = columns["vectors"][table.record].astype(np.uint64)
    return {
        "complete": (sums(content & (table.place >= 0)) > 0).astype(np.uint8),
        "content": sums(content),
        "memory": sums(memory),
        "kv": sums(kv),
        "unjoined_kv": sums((table.section == UNJOINED) & (columns["kind"][table.record] == Kind.KV)),
        "record_offsets": ends.astype(np.uint64),
        "raw_records": sums(content & (columns["kind"][table.record] == Kind.RAW)),
        "vectors": sums(vectors * content),
        "corrected": sums(columns["corrected"][table.record] * content),
        "memory_vectors": sums(vectors * memory),
        "gain": gains(memory, measures.gain),
        "kv_positions": sums(columns["kv_positions"][table.record] * kv),
        "kv_bytes": sums(columns["kv_bytes"][table.record] * kv),
        "kv_gain": gains(kv, measures.kv_gain),
    }


def _records(columns: dict[str, Array], table: Placed) -> dict[str, Array]:
    found = {name: columns[name][table.record] for name in ("shard", "row", "start", "length")}
    named = np.flatnonzero(table.section != UNJOINED)
    keys = columns["id"][table.record[named]].astype(np.uint64)
    order = np.argsort(keys, kind="stable")
    found |= {"id_keys": keys[order], "id_places": named[order]}
    return {name: column.astype(RECORD_COLUMNS[name]) for name, column in found.items()}


def _offsets(lengths: Array) -> Array:
    return np.append(np.uint64(0), np.cumsum(lengths, dtype=np.uint64)).astype(np.uint64)


def _json(value: object) -> Array:
    return np.frombuffer(canonical.dumps(value), np.uint8)
