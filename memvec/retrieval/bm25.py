"""Search by words: the terms of a text, and BM25 over them. It needs no model and knows no store.

Letters: n texts, Q terms of a query.
"""

from __future__ import annotations

import re
import unicodedata
import zlib
from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from memvec.formats.keys import Keys
from memvec.languages.language import UNSPACED_LETTERS

Array = npt.NDArray[np.float32]

ENDINGS = ("ing", "ed", "es", "s", "ly")  # cut off, for English and similar languages; harmless in others
LEAST_STEM = 3  # letters that must remain
SATURATION, LENGTH = 1.2, 0.75  # k1 and b of Robertson & Zaragoza 2009
WORDS = re.compile(r"\w+")
UNSPACED = re.compile(UNSPACED_LETTERS + "{2,}")  # in such scripts, every two neighbouring characters are a term


def terms(text: str) -> dict[int, int]:
    """{term: count} of a text. A term is 32 bits of the hash of a word, without case and common endings."""
    words = WORDS.findall(unicodedata.normalize("NFKC", text).casefold())
    found: Counter[int] = Counter()
    for word in words:
        found[_hash(_stem(word))] += 1
        for run in UNSPACED.findall(word):
            found.update(_hash(run[i : i + 2]) for i in range(len(run) - 1))
    return dict(found)


def _stem(word: str) -> str:
    for ending in ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= LEAST_STEM:
            return word[: -len(ending)]
    return word


def _hash(word: str) -> int:
    return zlib.crc32(word.encode())


class TermIndex:
    """For each term the texts that hold it, and how often."""

    def __init__(self, parts: Sequence[Keys], chosen: Sequence[tuple[int, int] | None]) -> None:
        """Index the terms of n texts. A text is given as (part, its number in it), or None if it has no terms."""
        sizes = np.zeros(len(chosen), np.int64)
        terms, counts = [np.zeros(0, np.uint32)], [np.zeros(0, np.uint16)]
        for row, where in enumerate(chosen):
            if where is not None:
                part, number = parts[where[0]], where[1]
                begin, end = part.offsets[number : number + 2].tolist()
                terms.append(part.terms[begin:end])
                counts.append(part.counts[begin:end])
                sizes[row] = end - begin
        rows, joined, times = np.repeat(np.arange(len(chosen)), sizes), np.concatenate(terms), np.concatenate(counts)
        order = np.argsort(joined, kind="stable")
        self.count = len(chosen)
        self._terms, self._begin = np.unique(joined[order], return_index=True)
        self._end = np.append(self._begin[1:], len(order))
        self._rows, self._times = rows[order], times[order].astype(np.float32)
        lengths = np.bincount(rows, weights=times, minlength=self.count).astype(np.float32)
        mean = float(lengths.mean()) if self.count and lengths.any() else 1.0
        self._norms = SATURATION * (1 - LENGTH + LENGTH * lengths / mean)

    def scores(self, query: Sequence[int]) -> Array:
        """BM25 of every text (n,) float32, as a share of the score of a text with all words of the query [0..1].

        Words that no text has count too, so a query about something else scores low.
        """
        scores = np.zeros(self.count, np.float32)
        best = 0.0
        for term in query:
            place = int(np.searchsorted(self._terms, term))
            there = place < len(self._terms) and int(self._terms[place]) == term
            having = slice(int(self._begin[place]), int(self._end[place])) if there else slice(0, 0)
            holders = having.stop - having.start
            rarity = float(np.log1p((self.count - holders + 0.5) / (holders + 0.5)))
            best += rarity * (SATURATION + 1)
            rows, times = self._rows[having], self._times[having]
            scores[rows] += rarity * times * (SATURATION + 1) / (times + self._norms[rows])
        return scores / np.float32(best) if best else scores
