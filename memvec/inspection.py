"""`list`, `show` and `info`: what is in a store. Knows no model and loads none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from memvec.errors import UsageError
from memvec.store import RecordRef, Store, StoredDocument
from memvec.summary import memory_totals, row_values, summarise
from memvec.types import Kind, PackReport
from memvec.unpacking import missing, select

SHORTEST_ID = 4


@dataclass(frozen=True, slots=True)
class DocumentRow:
    """One line of `list`."""

    name: str
    bytes: int
    tokens: int
    records: int
    raw_records: int
    vectors: int
    corrected_tokens: int
    sha256: str
    memory: int = 0  # vectors of its context records, when these make up a memory; the counts above leave them out
    gain: float | None = None  # their mean share of the text's gain, weighted by tokens [1]
    meta: Mapping[str, str] = field(default_factory=dict)  # what was said of it when it was packed


def list_documents(store: str | Path, documents: Sequence[str] = (), limit: int | None = None) -> list[DocumentRow]:
    """The live documents of a store by name, all or those matching a glob in `documents`, at most `limit`."""
    opened = Store.open(store)
    return [_row(opened, document) for document in select(opened, documents)[:limit]]


def incomplete_documents(store: str | Path) -> list[str]:
    """Names of documents whose content or memory an interrupted pack left unfinished, and no other version is live."""
    return sorted({stored.document.name for stored in _unfinished(Store.open(store))})


def info(store: str | Path) -> PackReport:
    """Totals over the live documents of a store; `seconds` is what their fits took."""
    opened = Store.open(store)
    live = opened.documents()
    unfinished = [stored for stored in _unfinished(opened) if stored.document.name not in live]
    return summarise(opened, [*live.values(), *unfinished])


def show(store: str | Path, name: str) -> dict[str, Any]:
    """A document with its records, or one record by at least four hex digits of its id. NotFoundError, UsageError."""
    opened = Store.open(store)
    live = opened.documents()
    if name in live:
        return asdict(_row(opened, live[name])) | {"parts": [_record(opened, ref) for ref in _refs(live[name])]}
    wanted = name.lower()
    refs = [ref for document in live.values() for ref in _refs(document)]
    hits = [ref for ref in refs if len(wanted) >= SHORTEST_ID and opened.record_id(ref).startswith(wanted)]
    if not hits:
        raise missing(opened, name)
    if len({opened.record_id(ref) for ref in hits}) > 1:
        raise UsageError(f"{name!r} is short for {len(hits)} records. Give more digits.")
    return _record(opened, hits[0])


def _unfinished(store: Store) -> list[StoredDocument]:
    live = store.documents()
    return [v for v in store.versions() if v.unfinished and live.get(v.document.name, v) is v]


def _refs(stored: StoredDocument) -> tuple[RecordRef, ...]:
    return stored.records + stored.memory


def _row(store: Store, stored: StoredDocument) -> DocumentRow:
    rows = [row_values(store, ref) for ref in stored.records]
    memory = memory_totals(store, stored.memory)
    return DocumentRow(
        name=stored.document.name,
        bytes=stored.document.bytes,
        tokens=stored.document.tokens,
        records=len(rows),
        raw_records=sum(row["kind"] == Kind.RAW for row in rows),
        vectors=int(sum(row["vectors"] for row in rows)),
        corrected_tokens=int(sum(row["corrected_wrong"] + row["corrected_margin"] for row in rows)),
        sha256=stored.document.sha256,
        memory=memory.vectors,
        gain=memory.gain,
        meta=dict(store.manifest.meta.get(stored.document.name, {})),
    )


def _record(store: Store, ref: RecordRef) -> dict[str, Any]:
    record = store.record(ref)
    return {
        "id": store.record_id(ref),
        "document": record.document.name,
        "kind": record.kind.name.lower(),
        "reason": record.reason.sentence,
        "start": record.start,
        "length": record.length,
        "tokens": record.tokens,
        "vectors": len(record.vectors),
        "width": store.manifest.fingerprint.width,
        "corrections": [list(pair) for pair in record.corrections],
        "text_sha256": record.text_sha256.hex(),
        "shard": store.manifest.shards[ref.shard].path,
        "row": ref.row,
        "report": asdict(record.report),
        "conditioning": asdict(record.conditioning) if record.conditioning else None,
    }
