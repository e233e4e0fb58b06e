"""Totals over documents of a store: the figures that `pack` and `info` print. Knows no model."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from memvec.store.store import RecordRef, Store, StoredDocument
from memvec.types import Kind, PackReport, RawReason

_COLUMNS = ("kind", "reason", "tokens", "length", "corrected_wrong", "corrected_margin", "token_steps", "seconds")


@dataclass(frozen=True, slots=True)
class MemoryTotals:
    """Totals of context records; the means are weighted by tokens."""

    records: int
    vectors: int
    tokens: int
    token_steps: int
    gain: float | None  # of the records it was measured of, share of the text's gain [1]; None without any
    harm: float | None  # of the records it was measured of [nats per token]; None without any


def summarise(store: Store, documents: Iterable[StoredDocument], seconds: float | None = None) -> PackReport:
    """Totals of `documents`; `seconds` is the wall-clock of a pack, by default what their fits took together."""
    stored = list(documents)
    rows = [row_values(store, ref) for document in stored for ref in document.records]
    fitted = [row for row in rows if row["kind"] != Kind.RAW]
    tokens, vectors = (int(sum(row[name] for row in fitted)) for name in ("tokens", "vectors"))
    raw_text = [row for row in rows if row["kind"] == Kind.RAW and row["reason"] != RawReason.NOT_TEXT]
    memory = memory_totals(store, [ref for document in stored for ref in document.memory])
    sums = {
        "documents": sum(d.usable for d in stored),
        "records": len(rows),
        "raw_records": len(rows) - len(fitted),
        "source_bytes": sum(d.document.bytes for d in stored),
        "source_tokens": sum(d.document.tokens for d in stored),
        "fitted_tokens": tokens,
        "vectors": vectors,
        "corrected_tokens": int(sum(row["corrected_wrong"] + row["corrected_margin"] for row in fitted)),
        "raw_text_bytes": int(sum(row["length"] for row in raw_text)),
        "zstd_bytes": sum(d.document.zstd_bytes for d in stored),
        "token_steps": int(sum(row["token_steps"] for row in rows)),
        "seconds": math.fsum(row["seconds"] for row in rows) if seconds is None else seconds,
        "exact": all(d.complete for d in stored),
        "incomplete": sum(d.unfinished for d in stored),
        "context_records": memory.records,
        "context_vectors": memory.vectors,
        "context_tokens": memory.tokens,
        "context_token_steps": memory.token_steps,
        "gain": memory.gain,
        "harm": memory.harm,
    }
    return report(store, sums)


def report(store: Store, sums: Mapping[str, Any]) -> PackReport:
    """The report of sums over documents of a store: its fields but for those that follow from others or the manifest."""
    origin, vectors = store.manifest.fingerprint, sums["vectors"]
    derived = {
        "tokens_per_vector": round(sums["fitted_tokens"] / vectors, 3) if vectors else 0.0,
        "vector_bytes": (vectors + sums["context_vectors"]) * origin.width * 2,
        "store_bytes": store.size(),
        "model": origin.source,
        "fingerprint": origin.id,
        "seconds": round(sums["seconds"], 3),
    }
    return PackReport(**{**sums, **derived})


def memory_totals(store: Store, refs: Sequence[RecordRef]) -> MemoryTotals:
    """Totals of the context records at `refs`. StoreDamagedError names a record that is not what was written."""
    tokens = vectors = token_steps = 0
    gains: list[tuple[float, int]] = []
    harms: list[tuple[float, int]] = []
    for ref in refs:
        record = store.record(ref)
        tokens += record.tokens
        vectors += len(record.vectors)
        token_steps += record.report.token_steps
        if (measured := record.conditioning) is not None:
            if measured.gain is not None:
                gains.append((measured.gain, record.tokens))
            if measured.harm is not None:
                harms.append((measured.harm, record.tokens))
    return MemoryTotals(len(refs), vectors, tokens, token_steps, mean(gains), mean(harms))


def mean(weighted: Sequence[tuple[float, int]]) -> float | None:
    """Mean of (value, weight), the same in any order; None of nothing."""
    weight = sum(w for _, w in weighted)
    return round(math.fsum(value * w for value, w in weighted) / weight, 4) if weight else None


def row_values(store: Store, ref: RecordRef) -> dict[str, float]:
    """The columns of one record that totals are made of, and its number of vectors, without reading the vectors."""
    with store.explaining(store.manifest.shards[ref.shard]):
        tensors = store.reader(ref.shard).tensors
        values = {name: tensors[name][ref.row].item() for name in _COLUMNS}
        begin, end = tensors["vectors_offsets"][ref.row : ref.row + 2].tolist()
    return values | {"vectors": end - begin}
