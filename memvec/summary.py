"""Totals over documents of a store: the figures that `pack` and `info` print. Knows no model."""

from __future__ import annotations

from collections.abc import Iterable

from memvec.store import RecordRef, Store, StoredDocument
from memvec.types import Kind, PackReport, RawReason

_COLUMNS = ("kind", "reason", "tokens", "length", "corrected_wrong", "corrected_margin", "token_steps", "seconds")


def summarise(store: Store, documents: Iterable[StoredDocument], seconds: float | None = None) -> PackReport:
    """Totals of `documents`; `seconds` is the wall-clock of a pack, by default what their fits took together."""
    stored = list(documents)
    rows = [row_values(store, ref) for document in stored for ref in document.records]
    fitted = [row for row in rows if row["kind"] != Kind.RAW]
    tokens, vectors = (int(sum(row[name] for row in fitted)) for name in ("tokens", "vectors"))
    raw_text = [row for row in rows if row["kind"] == Kind.RAW and row["reason"] != RawReason.NOT_TEXT]
    origin = store.manifest.fingerprint
    return PackReport(
        documents=sum(d.complete for d in stored),
        records=len(rows),
        raw_records=len(rows) - len(fitted),
        source_bytes=sum(d.document.bytes for d in stored),
        source_tokens=sum(d.document.tokens for d in stored),
        fitted_tokens=tokens,
        vectors=vectors,
        tokens_per_vector=round(tokens / vectors, 3) if vectors else 0.0,
        corrected_tokens=int(sum(row["corrected_wrong"] + row["corrected_margin"] for row in fitted)),
        raw_text_bytes=int(sum(row["length"] for row in raw_text)),
        vector_bytes=vectors * origin.width * 2,
        store_bytes=store.size(),
        zstd_bytes=sum(d.document.zstd_bytes for d in stored),
        token_steps=int(sum(row["token_steps"] for row in rows)),
        seconds=round(float(sum(row["seconds"] for row in rows)) if seconds is None else seconds, 3),
        model=origin.source,
        fingerprint=origin.id,
        exact=all(d.complete for d in stored),
    )


def row_values(store: Store, ref: RecordRef) -> dict[str, float]:
    """The columns of one record that totals are made of, and its number of vectors, without reading the vectors."""
    tensors = store.shard(ref.shard).tensors
    values = {name: tensors[name][ref.row].item() for name in _COLUMNS}
    begin, end = tensors["vectors_offsets"][ref.row : ref.row + 2].tolist()
    return values | {"vectors": end - begin}
