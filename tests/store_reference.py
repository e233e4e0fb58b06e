"""A naive reading of a store, record by record: what the columns of `memvec.store.scan` must agree with."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from memvec.store.documents import RecordRef, StoredDocument
from memvec.store.store import Store
from memvec.types import Document, Kind, RawReason, Record

Part = tuple[RecordRef, Document, Kind]


def versions(parts: Iterable[Part], removed: Iterable[tuple[str, str]] = ()) -> list[StoredDocument]:
    """Document versions of records in order of their commits, by the newest record of each."""
    gone = set(removed)
    kept = [part for part in parts if (part[1].name, part[1].sha256) not in gone]
    keys = [(document.name, document.sha256) for _, document, _ in kept]
    found = []
    for key in sorted(set(keys), key=lambda key: max(place for place, other in enumerate(keys) if other == key)):
        own = [part for part, other in zip(kept, keys, strict=True) if other == key]
        document = own[0][1]
        content, whole = cover(document.bytes, [ref for ref, _, kind in own if kind in (Kind.RAW, Kind.EXACT)])
        memory, joins = cover(document.bytes, [ref for ref, _, kind in own if kind == Kind.CONTEXT])
        kv, kv_joins = cover(document.bytes, [ref for ref, _, kind in own if kind == Kind.KV])
        stored = StoredDocument(
            document,
            records=content,
            complete=whole,
            memory=memory if joins else (),
            unjoined=(() if joins else memory) + (() if kv_joins else kv),
            kv=kv if kv_joins else (),
            unjoined_kv=0 if kv_joins else len(kv),
        )
        found.append(stored)
    return found


def cover(size: int, refs: Sequence[RecordRef]) -> tuple[tuple[RecordRef, ...], bool]:
    """The newest record at each place where the one before ended; where that leaves a gap, the newest of each start."""
    chosen: list[RecordRef] = []
    reached = 0
    while True:
        here = [ref for ref in refs if ref.start == reached]
        if not here or here[-1] in chosen[-1:]:
            break
        chosen.append(here[-1])
        reached += here[-1].length
    if chosen and reached == size:
        return tuple(chosen), True
    starts = list(dict.fromkeys(ref.start for ref in refs))
    return tuple([ref for ref in refs if ref.start == start][-1] for start in starts), False


def read(store: Store) -> list[tuple[RecordRef, Record]]:
    """Every record of a store, in order of shards and rows."""
    return [
        (RecordRef(number, row, record.start, record.length), record)
        for number in range(len(store.manifest.shards))
        for row, record in enumerate(store.shard(number))
    ]


def totals(store: Store, documents: Sequence[StoredDocument]) -> dict[str, Any]:
    """The totals of `info` over some documents."""
    content = [store.record(ref) for stored in documents for ref in stored.records]
    memory = [store.record(ref) for stored in documents for ref in stored.memory]
    kv = [store.record(ref) for stored in documents for ref in stored.kv]
    fitted = [record for record in content if record.kind != Kind.RAW]
    raw_text = [r for r in content if r.kind == Kind.RAW and r.reason != RawReason.NOT_TEXT]
    return {
        "documents": sum(stored.usable for stored in documents),
        "records": len(content),
        "raw_records": len(content) - len(fitted),
        "source_bytes": sum(stored.document.bytes for stored in documents),
        "source_tokens": sum(stored.document.tokens for stored in documents),
        "fitted_tokens": sum(record.tokens for record in fitted),
        "vectors": sum(len(record.vectors) for record in fitted),
        "corrected_tokens": sum(r.report.corrected_wrong + r.report.corrected_margin for r in fitted),
        "raw_text_bytes": sum(record.length for record in raw_text),
        "zstd_bytes": sum(stored.document.zstd_bytes for stored in documents),
        "token_steps": sum(record.report.token_steps for record in content),
        "seconds": round(math.fsum(record.report.seconds for record in content), 3),
        "exact": all(stored.complete for stored in documents),
        "incomplete": sum(stored.unfinished for stored in documents),
        "context_records": len(memory),
        "context_vectors": sum(len(record.vectors) for record in memory),
        "context_tokens": sum(record.tokens for record in memory),
        "context_token_steps": sum(record.report.token_steps for record in memory),
        "gain": weighted(memory, "gain"),
        "harm": weighted(memory, "harm"),
        "kv_records": len(kv),
        "kv_positions": sum(record.kv.positions for record in kv if record.kv),
        "kv_tokens": sum(record.tokens for record in kv),
        "kv_text_bytes": sum(record.length for record in kv),
        "kv_bytes": sum(record.kv.nbytes for record in kv if record.kv),
        "kv_measured": sum(record.conditioning.gain is not None for record in kv if record.conditioning),
        "kv_gain": weighted(kv, "gain"),
        "kv_seconds": round(math.fsum(record.report.seconds for record in kv), 3),
    }


def weighted(memory: Iterable[Record], name: str) -> float | None:
    """The mean of what was measured of records of memories, by their tokens."""
    values = [(getattr(r.conditioning, name), r.tokens) for r in memory]
    known = [(value, tokens) for value, tokens in values if value is not None]
    weight = sum(tokens for _, tokens in known)
    return round(math.fsum(value * tokens for value, tokens in known) / weight, 4) if weight else None
