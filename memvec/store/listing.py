"""`documents`, `show` and `info`: describe what a store holds. Loads no model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from string import hexdigits
from typing import Any

from memvec.arguments import checked
from memvec.errors import UsageError
from memvec.filesystem.names import select
from memvec.store.catalogue import KEY_DIGITS, Catalogue, answer
from memvec.store.catalogue_file import UnreliableError
from memvec.store.documents import missing
from memvec.store.store import RecordRef, Store
from memvec.store.totals import report
from memvec.types import KeysValues, PackReport

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
    memory: int = 0  # vectors of its memory; the counts above leave them out
    gain: float | None = None  # of its memory, the mean weighted by tokens [1]
    meta: Mapping[str, str] = field(default_factory=dict)  # metadata given when it was packed
    kv: int = 0  # positions of its kv memory; the counts above leave them out
    kv_bytes: int = 0  # of its keys and values, as stored
    kv_gain: float | None = None  # of its kv memory, the mean of what was measured, weighted by tokens [1]


@checked()
def list_documents(
    store: str | Path | Store, documents: str | Sequence[str] = (), limit: int | None = None
) -> list[DocumentRow]:
    """List the live documents of a store in order of name.

    Args:
        store: The store's folder, or an opened store.
        documents: Exact names, or patterns as in gitignore (see `memvec.filesystem.names`). Default: all.
        limit: The most documents to list.

    Returns:
        One row a document.

    Raises:
        NotFoundError: There is no store, or a name or pattern matches no document.
        UsageError: A pattern is broken.
        FormatTooNewError: A newer memvec wrote the store.
        StoreDamagedError: The manifest or a shard is damaged.
        ReadError: A file of the store cannot be read.

    Example:
        >>> [row.name for row in memvec.documents(store)]
        ['harbour.txt', 'letters/jane.txt']
        >>> memvec.documents(store, "letters/*")[0].bytes
        149
    """
    rows, _ = listing(store, documents, limit)
    return rows


def listing(
    store: str | Path | Store, documents: str | Sequence[str] = (), limit: int | None = None
) -> tuple[list[DocumentRow], list[str]]:
    """(result of `list_documents`, result of `incomplete_documents`) for one state of the store."""
    opened = _opened(store)
    rows, unfinished = answer(opened, lambda known: (_chosen(known, documents, limit), known.incomplete))
    meta = opened.manifest.meta
    return [DocumentRow(**row, meta=dict(meta.get(row["name"], {}))) for row in rows], unfinished


@checked()
def incomplete_documents(store: str | Path | Store) -> list[str]:
    """Return the names of documents that an interrupted pack left unfinished."""
    return answer(_opened(store), lambda known: known.incomplete)


@checked()
def info(store: str | Path | Store) -> PackReport:
    """Add up the live documents of a store.

    Args:
        store: The store's folder, or an opened store.

    Returns:
        The totals. `seconds` is the time that fitting took.

    Raises:
        NotFoundError: There is no store.
        FormatTooNewError: A newer memvec wrote the store.
        StoreDamagedError: The manifest or a shard is damaged.
        ReadError: A file of the store cannot be read.

    Example:
        >>> report = memvec.info(store)
        >>> report.documents, report.exact
        (2, True)
    """
    opened = _opened(store)
    return answer(opened, lambda known: report(opened, known.totals))


@checked()
def show(store: str | Path | Store, name: str) -> dict[str, Any]:
    """Describe a document with its records, or a single record.

    Args:
        store: The store's folder, or an opened store.
        name: The exact name of a document, or at least four hex digits of a record's id.

    Returns:
        The fields of the document with a list `parts` of its records, or the fields of the record.

    Raises:
        NotFoundError: There is no store, or no such document or record.
        UsageError: Several records begin with these digits.
        FormatTooNewError: A newer memvec wrote the store.
        StoreDamagedError: The manifest, a shard or the record is damaged.
        ReadError: A file of the store cannot be read.

    Example:
        >>> found = memvec.show(store, "harbour.txt")
        >>> memvec.show(store, found["parts"][0]["id"])["document"]
        'harbour.txt'
    """
    opened = _opened(store)
    return answer(opened, lambda known: _show(opened, known, name))


def _opened(store: str | Path | Store) -> Store:
    return store if isinstance(store, Store) else Store.open(store)


def _chosen(known: Catalogue, asked: str | Sequence[str], limit: int | None) -> list[dict[str, Any]]:
    if not asked:
        return list(known.rows(0, limit))
    numbers = {name: number for number, name in enumerate(known.names())}
    wanted = [numbers[name] for name in select(asked, numbers).names[:limit]]
    return [row for number in wanted for row in known.rows(number, number + 1)]


def _show(store: Store, known: Catalogue, name: str) -> dict[str, Any]:
    number = known.find(name)
    if number is not None:
        stored = known.stored(number)
        (row,) = known.rows(number, number + 1)
        meta = dict(store.manifest.meta.get(name, {}))
        parts = [_record(store, ref, name) for ref in stored.records + stored.memory + stored.kv]
        return {**asdict(DocumentRow(**row, meta=meta)), "parts": parts}
    found = _with_id(store, known, name.lower())
    if found is not None:
        return _record(store, found)
    raise missing(name, known.incomplete, known.names(), store.path)


def _with_id(store: Store, known: Catalogue, prefix: str) -> RecordRef | None:
    """Return the record whose id begins with `prefix`, or None. UsageError if there are several."""
    if len(prefix) < SHORTEST_ID or set(prefix) - set(hexdigits):
        return None
    refs, alike = known.with_id(prefix)
    if alike:  # the catalogue has the first digits of an id, the shards have all
        ids = {ref: store.record_id(ref) for ref in refs}
        if not all(found.startswith(prefix[:KEY_DIGITS]) for found in ids.values()):
            raise UnreliableError("a record has another id than the catalogue says")
        refs = [ref for ref in refs if ids[ref].startswith(prefix)]
        alike = len({ids[ref] for ref in refs}) <= 1
    if not alike:
        raise UsageError(f"{prefix!r} begins the ids of {len(refs)} records. Give more digits.")
    return refs[0] if refs else None


def _record(store: Store, ref: RecordRef, name: str | None = None) -> dict[str, Any]:
    record = store.record(ref)
    if name not in (None, record.document.name) or ref.start != record.start:
        raise UnreliableError(f"the catalogue places a record of {record.document.name!r} wrongly")
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
        "kv": _kv(record.kv) if record.kv else None,
    }


def _kv(kv: KeysValues) -> dict[str, int]:
    """Describe the keys and values of a record."""
    layers, heads = kv.counts.shape
    return {
        "positions": kv.positions,
        "bits": kv.bits,
        "rows": kv.rows,
        "layers": layers,
        "heads": heads,
        "width": kv.width,
        "bytes": kv.nbytes,
    }
