"""Look up the live texts of a store that are nearest to a key, by vectors and by words, and their scores.

Rows number the live texts. Keys of removed texts are ignored. Keys that the stored index lacks are searched beside it. So a
search finds all live texts, and no others.
Letters: n live texts, W width of a key, K candidates.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from memvec.formats.keys import Embedder, Keys
from memvec.formats.manifest import KeysEntry
from memvec.retrieval import faiss_index
from memvec.retrieval.bm25 import TermIndex
from memvec.retrieval.faiss_index import FLAT, VectorIndex
from memvec.store import index_files
from memvec.store.problems import damaged
from memvec.store.store import Store

Rows = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
Scores = npt.NDArray[np.float32]
NONE: Rows = np.zeros(0, np.int64)


class VectorLookup:
    """The vector keys of the live texts: those in the stored index, and the rest."""

    def __init__(self, store: Store, entries: list[KeysEntry], rows: Mapping[bytes, int]) -> None:
        """Read the keys of one embedder; `rows` numbers the live texts."""
        self.count = len(rows)
        self.stored: VectorIndex | None = None
        self._stored_rows: Rows = NONE  # for each key of the stored index, the row of its text or -1
        info = index_files.describe(store.path / index_files.FOLDER, entries[0].embedder_id) if entries else None
        if info is not None and index_files.matches(info, entries):
            self.stored = faiss_index.load(store.path / index_files.FOLDER, info)
        inside = set(info.keys) if info is not None and self.stored is not None else set()
        self._stored_numbers = np.full(self.count, -1, np.int64)
        if info is not None and inside:
            ordered = {entry.sha256: entry for entry in entries}
            found = np.concatenate([_rows(store.keys(ordered[digest]).texts, rows) for digest in info.keys])
            numbers = np.flatnonzero(found >= 0)
            self._stored_numbers[found[numbers]] = numbers  # if a text has several keys, the last one is used
            self._stored_rows = np.full(len(found), -1, np.int64)
            latest = np.flatnonzero(self._stored_numbers >= 0)
            self._stored_rows[self._stored_numbers[latest]] = latest
        self._rest(store, [entry for entry in entries if entry.sha256 not in inside], rows)

    def _rest(self, store: Store, entries: list[KeysEntry], rows: Mapping[bytes, int]) -> None:
        """Index the live texts that the stored index lacks."""
        values: dict[int, Any] = {}
        for entry in entries:
            part = store.keys(entry)
            for number, row in enumerate(_rows(part.texts, rows).tolist()):
                if row >= 0 and self._stored_numbers[row] < 0:
                    values[row] = part.values[number]
        self._rest_rows = np.array(sorted(values), np.int64)
        self._rest_numbers = np.full(self.count, -1, np.int64)
        self._rest_numbers[self._rest_rows] = np.arange(len(values))
        self.rest: VectorIndex | None = None
        if values:
            stacked = np.stack([values[row] for row in self._rest_rows]).astype(np.float32)
            self.rest = VectorIndex.build(stacked, FLAT, self.stored.space if self.stored else None)

    def nearest(self, query: Keys, count: int, allowed: Mask) -> Rows:
        """The rows of about `count` nearest texts, among those `allowed` (n,)."""
        found = [NONE]
        for part, numbers in ((self.stored, self._stored_rows), (self.rest, self._rest_rows)):
            if part is not None:
                mask = numbers >= 0
                mask[mask] = allowed[numbers[mask]]
                if mask.any():
                    near, _ = part.search(query.values[0].astype(np.float32), count, mask)
                    found.append(numbers[near])
        return np.concatenate(found)

    def scores(self, query: Keys, rows: Rows) -> Scores:
        """Cosines (K,) of texts by row; 0 for a text without a key."""
        out = np.zeros(len(rows), np.float32)
        for part, numbers in ((self.stored, self._stored_numbers), (self.rest, self._rest_numbers)):
            there = np.flatnonzero(numbers[rows] >= 0)
            if part is not None and len(there):
                placed = part.space.place(query.values[:1].astype(np.float32))[0]
                out[there] = part.vectors(numbers[rows[there]]) @ placed
        return out


class TermLookup:
    """The words of the live texts."""

    def __init__(self, store: Store, entries: list[KeysEntry], rows: Mapping[bytes, int]) -> None:
        """Read the keys of words; `rows` numbers the live texts."""
        parts = [store.keys(entry) for entry in entries]
        chosen: dict[int, tuple[int, int]] = {}  # (file, number) by row
        for number, part in enumerate(parts):
            for place, row in enumerate(_rows(part.texts, rows).tolist()):
                if row >= 0:
                    chosen[row] = number, place
        self._inverted = TermIndex(parts, [chosen.get(row) for row in range(len(rows))])
        self._last: tuple[bytes, Scores] | None = None

    def nearest(self, query: Keys, count: int, allowed: Mask) -> Rows:
        """The rows of the `count` texts with the best scores, among those `allowed` (n,)."""
        scores = np.where(allowed, self._all(query), 0)
        best = np.argpartition(-scores, min(count, len(scores) - 1))[:count] if len(scores) else NONE
        return best[scores[best] > 0].astype(np.int64)

    def scores(self, query: Keys, rows: Rows) -> Scores:
        """BM25 (K,) of texts by row, as a share of the best possible score [0..1]."""
        return self._all(query)[rows]

    def _all(self, query: Keys) -> Scores:
        mark = query.terms.tobytes()
        last = self._last  # another thread may replace it
        if last is None or last[0] != mark:
            last = self._last = mark, self._inverted.scores(query.terms.tolist())
        return last[1]


def check_keys(store: Store, entries: list[KeysEntry], embedder: Embedder) -> None:
    """Raise StoreDamagedError if the keys in a file do not have the width of its embedder.

    The bytes needed grow with the square of the width, and a stranger's store may claim any width.
    """
    for entry in entries:
        width = store.keys(entry).embedder.width
        if width != embedder.width:
            raise damaged(
                entry.path, "invalid_value", f"keys of {embedder.name} are {embedder.width} wide, these are {width}"
            )


def _rows(texts: npt.NDArray[np.uint8], rows: Mapping[bytes, int]) -> Rows:
    """The row of each text (n, 32), or -1 for a text that is not live."""
    return np.array([rows.get(text.tobytes(), -1) for text in texts], np.int64).reshape(-1)
