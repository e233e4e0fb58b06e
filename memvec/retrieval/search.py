"""`search`: find the records of a store that a query asks about, by their keys.

The key of a record is made of its text, not of its [mem] vectors: two fits of the same text are nearly orthogonal. The score
of a text is the cosine of the vector keys plus a share of BM25.
Letters: n live texts, K hits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from memvec import arguments, off_topic
from memvec.arguments import checked, optional
from memvec.checkpoints.resolve import Notify
from memvec.decoding.reader import Reader
from memvec.errors import NotFoundError, UsageError
from memvec.filesystem.names import select
from memvec.identity.runtime import Opening, Runtime, runtime_of
from memvec.retrieval import embedders
from memvec.retrieval.embedders import DEFAULT, LEXICAL, TABLE, Embeds, Table, maker
from memvec.retrieval.lookup import TermLookup, VectorLookup, check_keys
from memvec.store import catalogue
from memvec.store.scan import CONTENT, KV, MEMORY
from memvec.store.store import RecordRef, Store, StoredDocument
from memvec.types import RawReason

if TYPE_CHECKING:
    from typing_extensions import Unpack

WORDS_SHARE = 0.6  # weight of BM25 beside the cosine; measured in docs/LOG.md
CANDIDATES = 256  # texts that vectors and words each propose
STRAY = 0.05  # share of unrelated prompts that score above "auto"


@dataclass(frozen=True, slots=True)
class Hit:
    """A record that was found. The JSON output has the same fields."""

    document: str
    record: str  # its id, 64 hex digits
    score: float
    start: int  # its first byte in the document
    length: int  # bytes
    text: str | None = None  # with `decode`, unless the record decodes to other bytes than were packed


@dataclass(frozen=True, slots=True)
class Place:
    """A record of a live document that holds a text."""

    document: str
    ref: RecordRef


class Searcher:
    """A store with its keys in memory, for many queries. Threads may share it.

    Keys of a model that is not the store's own are searched only if `embedder` names it.

    Args:
        store: The store, or what `memvec.open` returns.
        embedder: "lm", "bm25" or "sentence-transformers:MODEL"; by default the keys of the store's model and of words.
        notify: Told of each stage by its name. `watch` tells more.
        **opening: As in `memvec.open`: model, device, batch, watch.

    Raises:
        NotFoundError: There is no store or no model, or the store has no keys.
        UsageError: The store has no keys of this embedder.
        FingerprintError: The model is not the one that packed.
        StoreDamagedError: The store is damaged.
        MissingExtraError: The package of this embedder is not installed.

    Example:
        >>> searcher = memvec.Searcher(store, model=model)
        >>> len(searcher.search("the carriage", k=1))
        1
    """

    @checked(notify=optional(arguments.function))
    def __init__(
        self,
        store: str | Path | Store | Runtime,
        embedder: str | None = None,
        *,
        notify: Notify | None = None,
        **opening: Unpack[Opening],
    ) -> None:
        """Read the keys, and load the embedders that make keys of queries."""
        if notify is not None:
            opening["watch"] = lambda progress: notify(progress.stage)
        runtime = runtime_of(store, **opening)
        self.store = runtime.store
        self.names = _chosen(self.store, embedder)
        runtime.notify("reading the keys")
        self._places = live_places(self.store)
        self._texts = list(self._places)
        self._names = {place.document for places in self._places.values() for place in places}
        rows = {text: row for row, text in enumerate(self._texts)}
        self._parts: list[tuple[Embeds, VectorLookup | TermLookup, float]] = []
        for name in self.names:
            made = load_embedder(name, runtime)
            entries = [e for e in self.store.manifest.keys if e.embedder_id == made.embedder.id]
            check_keys(self.store, entries, made.embedder)
            if not entries:
                raise UsageError(
                    f"the keys of {name!r} in {str(self.store.path)!r} were made with another version of it. "
                    f"Make them again: memvec.build_index(…, embedder={name!r})."
                )
            lookup = TermLookup if name == LEXICAL else VectorLookup
            share = WORDS_SHARE if name == LEXICAL and len(self.names) > 1 else 1.0
            self._parts.append((made, lookup(self.store, entries, rows), share))
        self._threshold: float | None = None

    @checked()
    def search(
        self,
        query: str,
        k: int = 5,
        documents: Sequence[str] = (),
        min_score: float | Literal["auto"] | None = None,
        where: Mapping[str, str] | None = None,
    ) -> list[Hit]:
        """Find records, as `memvec.search` does.

        Args:
            query: Words or a question.
            k: How many records to find, at most.
            documents: Names or patterns of the documents to search; by default all.
            min_score: The least score of a hit, or "auto".
            where: Metadata that a document must have.

        Returns:
            The hits, best first.

        Raises:
            UsageError: The query is empty.
            NotFoundError: There is no such document.
        """
        if not query.strip():
            raise UsageError("the query is empty. Say what to look for.")
        least = self.threshold if min_score == "auto" else min_score
        chosen = self._names.intersection(select(documents, self.store.documents()).names) if documents else self._names
        wanted = {name for name in chosen if self._has(name, where or {})}
        allowed = np.ones(len(self._texts), bool)
        if len(wanted) < len(self._names):
            allowed[:] = [any(p.document in wanted for p in self._places[text]) for text in self._texts]
        hits: list[Hit] = []
        for score, row in self._ranked(query, max(k, CANDIDATES), allowed):
            if len(hits) >= k or (least is not None and score < least):
                break
            hits += [
                Hit(p.document, self.store.record_id(p.ref), round(score, 4), p.ref.start, p.ref.length)
                for p in self._places[self._texts[row]]
                if p.document in wanted
            ]
        return hits[:k]

    def _has(self, name: str, where: Mapping[str, str]) -> bool:
        """Does a document have this metadata?"""
        meta = self.store.manifest.meta.get(name, {})
        return all(meta.get(key) == value for key, value in where.items())

    @property
    def threshold(self) -> float:
        """The score below which 95 % of unrelated prompts stay in this store."""
        if self._threshold is None:
            every = np.ones(len(self._texts), bool)
            best = [next(self._ranked(prompt, 1, every), (0.0, 0))[0] for prompt in off_topic.prompts()]
            self._threshold = float(np.quantile(best, 1 - STRAY))
        return self._threshold

    def _ranked(self, query: str, count: int, allowed: npt.NDArray[np.bool_]) -> Iterator[tuple[float, int]]:
        """(score, row) of the best texts, best first."""
        asked = [(made.query(query), lookup, share) for made, lookup, share in self._parts]
        rows = np.unique(np.concatenate([lookup.nearest(key, count, allowed) for key, lookup, _ in asked]))
        scores = np.zeros(len(rows), np.float32)
        for key, lookup, share in asked:
            scores += np.float32(share) * lookup.scores(key, rows)
        for place in np.argsort(-scores, kind="stable")[:count].tolist():
            yield float(scores[place]), int(rows[place])


@checked()
def search(
    store: str | Path | Store | Runtime,
    query: str,
    k: int = 5,
    *,
    documents: Sequence[str] = (),
    where: Mapping[str, str] | None = None,
    min_score: float | Literal["auto"] | None = None,
    embedder: str | None = None,
    decode: bool = False,
    **opening: Unpack[Opening],
) -> list[Hit]:
    """Find the records of a store that a query asks about.

    Keys are read and the model's embedding table is loaded at each call, unless `store` comes from `memvec.open`.

    Args:
        store: The store, or what `memvec.open` returns.
        query: Words or a question.
        k: How many records to find, at most.
        documents: Names or patterns of the documents to search; by default all.
        where: Metadata that a document must have, as it was packed with `meta`.
        min_score: The least score of a hit. "auto" leaves out the scores that unrelated prompts reach in this store.
        embedder: "lm", "bm25" or "sentence-transformers:MODEL"; by default the keys of the store's model and of words.
        decode: Decode the records that are found and return their text, which needs the model.
        **opening: As in `memvec.open`: model, device, batch, watch.

    Returns:
        The hits, best first.

    Raises:
        NotFoundError: There is no such store, document or model, or the store has no keys.
        UsageError: The query is empty, or the store has no keys of this embedder.
        FingerprintError: The model is not the one that packed.
        StoreDamagedError: The store is damaged.
        MissingExtraError: The package of this embedder is not installed.

    Example:
        >>> hits = memvec.search(store, "the carriage", k=2, model=model)
        >>> hits[0].score >= hits[-1].score
        True
    """
    runtime = runtime_of(store, **opening)
    searcher = runtime.store_part(("searcher", embedder), lambda: Searcher(runtime, embedder))
    runtime.notify("searching")
    hits = searcher.search(query, k, documents, min_score, where)
    return with_text(runtime, hits) if decode and hits else hits


@checked(min_score=optional(arguments.score))
def retrieve(
    store: str | Path | Store | Runtime,
    query: str,
    count: int,
    *,
    memories: bool = True,
    min_score: float | Literal["auto"] | None = "auto",
    **opening: Unpack[Opening],
) -> tuple[str, ...]:
    """Find up to `count` documents that match a query, best first. There may be none.

    With `memories`, only documents that have one. Raises as `search`.
    """
    runtime = runtime_of(store, **opening)
    hits = search(runtime, query, CANDIDATES, min_score=min_score)
    found = dict.fromkeys(hit.document for hit in hits)
    return tuple(name for name in found if not memories or _has_memory(_live(runtime.store, name)))[:count]


def _live(store: Store, name: str) -> StoredDocument:
    """A live document, by the name that a hit gives."""
    stored = catalogue.document(store, name)
    assert stored is not None  # searches find live documents only
    return stored


def _has_memory(stored: StoredDocument) -> bool:
    return bool(stored.memory or stored.kv)


def load_embedder(name: str, runtime: Runtime) -> Embeds:
    """Load the embedder of that name for a store, once. UsageError, NotFoundError, FingerprintError, MissingExtraError."""
    return runtime.model_part(("embedder", name), lambda: _load_embedder(name, runtime))


def _load_embedder(name: str, runtime: Runtime) -> Embeds:
    origin, lm = runtime.store.manifest.fingerprint, runtime.loaded
    if name != TABLE:
        return maker(name, runtime.store.path, origin)
    if lm is None:
        return maker(name, runtime.folder, origin)
    return Table(lm.splitter, lm.table.half().cpu().numpy(), origin)  # the model is in memory, nothing has to be read


def _chosen(store: Store, embedder: str | None) -> tuple[str, ...]:
    there = list(dict.fromkeys(entry.embedder for entry in store.manifest.keys))
    if not there:
        raise NotFoundError(f"{str(store.path)!r} has no keys to search by. Make them: memvec.build_index(…).")
    if embedder is None:
        # No other embedder: it would load and run a model that a stranger's store names, before anything is compared.
        if own := tuple(name for name in DEFAULT if name in there):
            return own
        raise UsageError(
            f"{str(store.path)!r} has only keys of {', '.join(map(repr, there))}, made by a model that the store names. "
            f"Pass embedder={there[0]!r} to load it, or make keys of the store's own model: memvec.build_index(…)."
        )
    embedders.check_embedder(embedder)
    if embedder not in there:
        raise UsageError(
            f"{str(store.path)!r} has keys of {', '.join(there)}, not of {embedder!r}. "
            f"Make them: memvec.build_index(…, embedder={embedder!r})."
        )
    return (embedder,)


def live_places(store: Store) -> dict[bytes, list[Place]]:
    """The records of each live text, by its sha256: of a document's content or, if it has none, of a memory.

    Records that are no text have no key and are left out.
    """
    scan = catalogue.scan(store)
    used = np.full(len(scan.versions), -1)  # the section of each live version that is searched
    for section in (KV, MEMORY, CONTENT):
        chosen = scan.live[scan.having(section)[scan.live] if section != CONTENT else scan.complete[scan.live]]
        used[chosen] = section
    rank = np.full(len(scan.versions), -1)
    rank[scan.live] = np.arange(len(scan.live))
    placed = scan.placed
    placed = placed.where(
        (placed.section == used[placed.version]) & (scan.columns["reason"][placed.record] != RawReason.NOT_TEXT)
    )
    placed = placed.where(np.lexsort((placed.place, rank[placed.version])))
    texts = [store.texts(number) for number in range(len(store.manifest.shards))]
    refs = zip(
        *(scan.columns[name][placed.record].tolist() for name in ("shard", "row", "start", "length")), strict=True
    )
    found: dict[bytes, list[Place]] = {}
    for version, ref in zip(placed.version.tolist(), (RecordRef(*ref) for ref in refs), strict=True):
        found.setdefault(texts[ref.shard][ref.row].tobytes(), []).append(Place(scan.versions.name(version), ref))
    return found


def with_text(runtime: Runtime, hits: Sequence[Hit]) -> list[Hit]:
    """Add to hits the text of their records. A hit has none if its record decodes to other bytes than were packed."""
    live = {hit.document: _live(runtime.store, hit.document) for hit in hits}
    wanted: dict[str, list[RecordRef]] = {}
    for hit in hits:
        refs = live[hit.document].records
        wanted.setdefault(hit.document, []).extend(ref for ref in refs if ref.start == hit.start)
    parts = [replace(live[name], records=tuple(refs)) for name, refs in wanted.items() if refs]
    texts = {
        piece.id: piece.data.decode("utf-8", "replace")
        for _, pieces in Reader(runtime).documents(parts)
        for piece in pieces
        if piece.error is None
    }
    return [replace(hit, text=texts.get(hit.record)) for hit in hits]
