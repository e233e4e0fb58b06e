"""Statistics of an embedding table for keys: the weight of each token, and the table's whitening. Computed once and cached.

Letters: V vocabulary, D width.
"""

from __future__ import annotations

import contextlib
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from memvec.chunks import slices
from memvec.filesystem.cache_folder import cache_root
from memvec.formats import files

Array = npt.NDArray[np.float32]

COMMON = 3e-5  # probability from which a token's weight falls: a of Arora et al. 2017, measured in docs/LOG.md
CHUNK = 8192  # rows of the table at once
UNDECODED = "\ufffd"  # parts of a character decode to this
DIGEST_BYTES = 32


@dataclass(frozen=True, slots=True)
class TableStatistics:
    """Mean and whitening of an embedding table's rows, each as frequent as its token is in texts."""

    weights: Array  # (V,) of each token in the mean of a text [0..1]
    middle: Array  # (D,)
    whitening: Array  # (D, D), symmetric

    @classmethod
    def of(cls, table: npt.NDArray[Any], tokenizer: Any) -> TableStatistics:
        """Compute the statistics of a table (V, D) and its tokenizer.

        The probability of a token follows from its rank in the vocabulary by Zipf's law, because byte-pair vocabularies are
        sorted by frequency. SentencePiece vocabularies have single characters at their end, so marks always weigh least.
        """
        odds = 1 / (np.arange(len(table), dtype=np.float32) + 2.7)
        odds /= odds.sum()
        weights = (COMMON / (COMMON + odds)).astype(np.float32)
        said = tokenizer.batch_decode([[token] for token in range(min(len(table), len(tokenizer)))])
        marks = [len(text) == 1 and text != UNDECODED and not text.isalnum() for text in said]
        weights[: len(marks)][marks] = weights.min()
        return cls(weights, *_whiten(table, odds))

    @classmethod
    def cached(cls, name: str, table: npt.NDArray[Any], tokenizer: Any) -> TableStatistics:
        """Read the statistics from the cache, or compute and store them. `name` changes with table and tokenizer."""
        file = cache_root() / "keys" / f"{name}.bin"
        found = _read(file, *table.shape)
        if found is None:
            found = cls.of(table, tokenizer)
            data = b"".join(part.astype("<f4").tobytes() for part in (found.weights, found.middle, found.whitening))
            with contextlib.suppress(OSError):  # without a cache, the next process computes them again
                file.parent.mkdir(parents=True, exist_ok=True)
                files.write_atomically(file, hashlib.sha256(data).digest() + data)
        return found


def _read(file: Path, rows: int, width: int) -> TableStatistics | None:
    """The statistics in a file of the cache; None if there is none or it is damaged."""
    try:
        stored = file.read_bytes()
    except OSError:
        return None
    data = stored[DIGEST_BYTES:]
    if len(data) != 4 * (rows + width + width * width) or hashlib.sha256(data).digest() != stored[:DIGEST_BYTES]:
        return None
    weights, middle, whitening = np.split(np.frombuffer(data, "<f4"), [rows, rows + width])
    return TableStatistics(weights, middle, whitening.reshape(width, width))


def _whiten(table: npt.NDArray[Any], odds: npt.NDArray[Any]) -> tuple[Array, Array]:
    """(mean (D,), whitening (D, D)) of the rows of a table (V, D) drawn with probabilities `odds` (V,)."""
    width = table.shape[1]
    middle = np.zeros(width, np.float64)
    second = np.zeros((width, width), np.float64)
    for part in slices(len(table), CHUNK):
        rows, p = table[part].astype(np.float32), odds[part]
        middle += p @ rows
        second += (rows * p[:, None]).T @ rows
    spread, axes = np.linalg.eigh(second - np.outer(middle, middle))
    # Symmetric, because the signs of the axes differ between numerical libraries and cancel out here.
    whitening = (axes / np.sqrt(np.maximum(spread, spread.max() * 1e-9))) @ axes.T
    return middle.astype(np.float32), whitening.astype(np.float32)
