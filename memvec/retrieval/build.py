"""`index build|info|drop`: make missing keys, and store a FAISS index, which makes searches of large stores fast."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from memvec.arguments import checked
from memvec.decoding.reader import Reader
from memvec.errors import UsageError
from memvec.formats.manifest import KeysEntry
from memvec.identity.runtime import Opening, Runtime, runtime_of
from memvec.retrieval import faiss_index
from memvec.retrieval.embedders import DEFAULT, LEXICAL, Embeds
from memvec.retrieval.faiss_index import VectorIndex
from memvec.retrieval.lookup import check_keys
from memvec.retrieval.search import live_places, load_embedder
from memvec.store import index_files
from memvec.store.store import Store, StoredDocument
from memvec.store.transaction import Transaction, changing
from memvec.types import Kind, RawReason
from memvec.version import TOOL

if TYPE_CHECKING:
    from typing_extensions import Unpack


@dataclass(frozen=True, slots=True)
class IndexReport:
    """The keys of one embedder in a store, and its index. The JSON output has the same fields."""

    embedder: str
    embedder_id: str
    texts: int  # live texts with a key
    missing: int  # live texts without a key
    width: int  # of a key; 0 for words
    factory: str | None  # of the stored index; None: there is none, so each searcher makes one in memory
    indexed: int  # keys in the stored index


@checked()
def build_index(
    store: str | Path | Store | Runtime,
    *,
    embedder: str | None = None,
    factory: str | None = None,
    lock_wait: float = 0.0,
    **opening: Unpack[Opening],
) -> list[IndexReport]:
    """Make the keys that a store lacks, and store a FAISS index of its vectors.

    Records whose texts have no key are decoded. A Runtime reads the store again afterwards.

    Args:
        store: The store, or what `memvec.open` returns.
        embedder: "lm", "bm25" or "sentence-transformers:MODEL"; by default those of "lm" and "bm25" that the
            store has keys of, else both. Another model is loaded only if it is named here.
        factory: The index as FAISS names it, such as "HNSW32"; by default chosen by the number of keys.
        lock_wait: How long to wait for another writer [seconds].
        **opening: As in `memvec.open`: model, device, batch, watch.

    Returns:
        The keys and indexes that the store has now, for each embedder.

    Raises:
        NotFoundError: There is no store or no model.
        UsageError: The embedder or the factory is not known.
        FingerprintError: The model is not the one that packed.
        MissingExtraError: The package of this embedder is not installed.
        StoreLockedError: Another process writes to the store.
        StoreDamagedError: The store is damaged.

    Example:
        >>> [report.missing for report in memvec.build_index(store, model=model)]
        [0, 0]
    """
    runtime = runtime_of(store, **opening)  # NotFoundError before a lock is made
    with changing(runtime.store.path, lock_wait) as transaction:
        opened = transaction.store
        there = {entry.embedder for entry in opened.manifest.keys}
        names = (embedder,) if embedder else tuple(name for name in DEFAULT if name in there) or DEFAULT
        now = runtime.reading(opened)
        makers = [load_embedder(name, now) for name in names]
        _add_missing(transaction, makers, Reader(now))
        opened = transaction.store
        for made in makers:
            entries = _entries(opened, made.embedder.id)
            check_keys(opened, entries, made.embedder)
            if made.embedder.name != LEXICAL:
                runtime.notify(f"indexing the keys of {made.embedder.name}")
                _store_index(opened, entries, factory)
            elif factory and embedder == LEXICAL:
                raise UsageError(f"{LEXICAL} has words and no vectors: a FAISS factory cannot be used. Leave it out.")
    runtime.refresh()
    return index_info(runtime)


@checked()
def index_info(store: str | Path | Store | Runtime) -> list[IndexReport]:
    """Count the keys of a store, and those in a stored index, for each embedder. NotFoundError, StoreDamagedError."""
    opened = runtime_of(store).store
    live = set(live_places(opened))
    out = []
    for identity in dict.fromkeys(entry.embedder_id for entry in opened.manifest.keys):
        entries = _entries(opened, identity)
        parts = [opened.keys(entry) for entry in entries]
        keyed = live & {text.tobytes() for part in parts for text in part.texts}
        index = index_files.describe(opened.path / index_files.FOLDER, identity)
        if index is not None and not (index_files.matches(index, entries) and faiss_index.own(index)):
            index = None
        out.append(
            IndexReport(
                embedder=entries[0].embedder,
                embedder_id=identity,
                texts=len(keyed),
                missing=len(live - keyed),
                width=parts[0].embedder.width,
                factory=index.factory if index else None,
                indexed=index.texts if index else 0,
            )
        )
    return out


@checked()
def drop_index(store: str | Path, *, lock_wait: float = 0.0) -> int:
    """Remove every stored index and return their number. Keys stay, so an index can be built again without a model."""
    with changing(store, lock_wait) as transaction:
        folder = transaction.path / index_files.FOLDER
        found = index_files.embedder_ids(folder)
        for embedder_id in found:
            faiss_index.drop(folder, embedder_id)
    return len(found)


def _entries(store: Store, identity: str) -> list[KeysEntry]:
    return [entry for entry in store.manifest.keys if entry.embedder_id == identity]


def _store_index(store: Store, entries: Sequence[KeysEntry], factory: str | None) -> None:
    """Build an index of all keys of one embedder, and store it in place of an older one."""
    if not entries:
        return
    parts = [store.keys(entry) for entry in entries]
    values = np.concatenate([part.values for part in parts]).astype(np.float32)
    chosen = factory or faiss_index.choose(len(values))
    made = {
        "embedder": entries[0].embedder,
        "embedder_id": entries[0].embedder_id,
        "factory": chosen,
        "texts": len(values),
        "width": values.shape[1],
        "keys": tuple(entry.sha256 for entry in entries),
    }
    faiss_index.save(store.path / index_files.FOLDER, VectorIndex.build(values, chosen), made)


def _add_missing(transaction: Transaction, makers: Sequence[Embeds], reader: Reader) -> None:
    """Make the keys that live texts lack, with each of the makers, and commit them."""
    store = transaction.store
    live = live_places(store)
    lacking = {}
    for made in makers:
        known = {t.tobytes() for entry in _entries(store, made.embedder.id) for t in store.keys(entry).texts}
        lacking[made.embedder.id] = set(live) - known
    documents = {place.document for texts in lacking.values() for text in texts for place in live[text]}
    if not documents:
        return
    chosen = [stored for name, stored in store.documents().items() if name in documents and stored.complete]
    texts = _texts(reader, chosen)
    new = [
        made.keys({digest: text for digest, text in texts.items() if digest in lacking[made.embedder.id]})
        for made in makers
    ]
    transaction.commit([], TOOL, [part for part in new if len(part)])


def _texts(reader: Reader, documents: Sequence[StoredDocument]) -> dict[bytes, str]:
    """Decode and verify the texts of documents' records. Return them by sha256."""
    found: dict[bytes, str] = {}
    for _, pieces in reader.documents(documents):
        for piece in pieces:
            if piece.error is not None:
                raise piece.error
            if piece.record.kind != Kind.RAW or piece.record.reason != RawReason.NOT_TEXT:
                found[piece.record.text_sha256] = piece.data.decode("utf-8", "replace")
    return found
