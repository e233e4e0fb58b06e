"""Totals over documents of a store: the figures that `pack` and `info` print. Knows no model.

Letters: V document versions.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from memvec.formats.container import Array
from memvec.store.documents import RecordRef, StoredDocument, VersionSet
from memvec.store.scan import CONTENT, KV, MEMORY, UNJOINED, Placed, Scan
from memvec.store.store import Store
from memvec.types import Kind, PackReport, RawReason


@dataclass(frozen=True, slots=True)
class Measured:
    """What was measured of the records of memories, by number in the scan. Records without a measurement are absent."""

    gain: dict[int, float]  # of context records: share of the text's gain [1]
    harm: dict[int, float]  # of context records [nats per token]
    kv_gain: dict[int, float]  # of kv records: share of the text's gain [1]


def summarise(store: Store, documents: Iterable[StoredDocument], seconds: float | None = None) -> PackReport:
    """Return totals of `documents`. `seconds` is how long the pack took, by default the sum of their fits."""
    scan = store.scan(counts=True)
    chosen = scan.versions.among(VersionSet(stored.version for stored in documents))
    return summary(store, scan, chosen, seconds)


def summary(store: Store, scan: Scan, chosen: Array, seconds: float | None = None) -> PackReport:
    """As `summarise`, of the `chosen` versions of a scan with counts, a mask (V,)."""
    placed = scan.placed.where(chosen[scan.placed.version])
    sums = totals(scan, placed, chosen, measured(store, scan, placed))
    return report(store, sums if seconds is None else {**sums, "seconds": seconds})


def report(store: Store, sums: Mapping[str, Any]) -> PackReport:
    """Return the report of `totals`. Some of its fields follow from others or from the manifest."""
    origin, vectors = store.manifest.fingerprint, sums["vectors"]
    derived = {
        "tokens_per_vector": round(sums["fitted_tokens"] / vectors, 3) if vectors else 0.0,
        "vector_bytes": (vectors + sums["context_vectors"]) * origin.width * 2,
        "store_bytes": store.size(),
        "model": origin.source,
        "fingerprint": origin.id,
        "seconds": round(sums["seconds"], 3),
        "kv_seconds": round(sums.get("kv_seconds", 0.0), 3),
    }
    return PackReport(**{**sums, **derived})


def totals(scan: Scan, placed: Placed, chosen: Array, measures: Measured) -> dict[str, float | int | bool | None]:
    """Return the sums over the `chosen` versions, a mask (V,), whose records are `placed`."""
    columns = scan.columns
    rows, memory, kv = (placed.record[placed.section == section] for section in (CONTENT, MEMORY, KV))
    complete = placed.version[(placed.section == CONTENT) & (placed.place >= 0)]
    begun = placed.version[(placed.section == UNJOINED) | ((placed.section == CONTENT) & (placed.place < 0))]
    usable = np.union1d(complete, placed.version[(placed.section == MEMORY) | (placed.section == KV)])
    raw = columns["kind"][rows] == Kind.RAW
    fitted, raw_text = rows[~raw], rows[raw & (columns["reason"][rows] != RawReason.NOT_TEXT)]

    def total(name: str, records: Array) -> int:
        return int(columns[name][records].sum(dtype=np.uint64))

    def size(name: str) -> int:
        return int(scan.versions.size(name)[chosen].sum(dtype=np.uint64))

    def weighted(values: Mapping[int, float]) -> float | None:
        return mean([(value, int(columns["tokens"][record])) for record, value in values.items()])

    return {
        "documents": len(usable),
        "records": len(rows),
        "raw_records": len(rows) - len(fitted),
        "source_bytes": size("bytes"),
        "source_tokens": size("tokens"),
        "fitted_tokens": total("tokens", fitted),
        "vectors": total("vectors", fitted),
        "corrected_tokens": total("corrected", fitted),
        "raw_text_bytes": total("length", raw_text),
        "zstd_bytes": size("zstd_bytes"),
        "token_steps": total("token_steps", rows),
        "seconds": math.fsum(columns["seconds"][rows].tolist()),
        "exact": len(np.unique(complete)) == int(chosen.sum()),
        "incomplete": len(np.unique(begun)),
        "context_records": len(memory),
        "context_vectors": total("vectors", memory),
        "context_tokens": total("tokens", memory),
        "context_token_steps": total("token_steps", memory),
        "gain": weighted(measures.gain),
        "harm": weighted(measures.harm),
        "kv_records": len(kv),
        "kv_positions": total("kv_positions", kv),
        "kv_tokens": total("tokens", kv),
        "kv_text_bytes": total("length", kv),
        "kv_bytes": total("kv_bytes", kv),
        "kv_measured": len(measures.kv_gain),
        "kv_gain": weighted(measures.kv_gain),
        "kv_seconds": math.fsum(columns["seconds"][kv].tolist()),
    }


def measured(store: Store, scan: Scan, placed: Placed) -> Measured:
    """Read what was measured of the memories among the `placed` records. StoreDamagedError names a damaged record."""
    measures = Measured({}, {}, {})
    memories = (placed.section == MEMORY) | (placed.section == KV)
    for record in np.sort(placed.record[memories]).tolist():
        ref = RecordRef(*(int(scan.columns[name][record]) for name in ("shard", "row", "start", "length")))
        if scan.columns["kind"][record] == Kind.KV:
            found = store.conditioning(ref)  # its keys and values are much larger than its text, and not needed here
            if found.gain is not None:
                measures.kv_gain[record] = found.gain
            continue
        whole = store.record(ref).conditioning
        if whole is not None and whole.gain is not None:
            measures.gain[record] = whole.gain
        if whole is not None and whole.harm is not None:
            measures.harm[record] = whole.harm
    return measures


def mean(weighted: Sequence[tuple[float, int]]) -> float | None:
    """Return the mean of (value, weight) pairs, the same in any order. None if there are none."""
    weight = sum(w for _, w in weighted)
    return round(math.fsum(value * w for value, w in weighted) / weight, 4) if weight else None
