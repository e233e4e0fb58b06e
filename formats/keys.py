"""Keys to search by: vectors or words of texts, made by one embedder, in an immutable safetensors file. SPEC §9.

Letters: n texts, W width of a key.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from memvec.formats import container, fields, limits
from memvec.formats.container import Array
from memvec.formats.refusal import Refusal

FORMAT_NAME = "memvec-keys"
DENSE = {"text_sha256": "u1", "values": "f2"}
TERMS = {"text_sha256": "u1", "terms": "u4", "counts": "u2", "offsets": "u8"}
MOST_COUNT = (1 << 16) - 1


@dataclass(frozen=True, slots=True)
class Embedder:
    """An embedder. Only keys with the same embedder id can be compared."""

    name: str
    id: str  # 16 hex digits
    width: int  # W; 0 for terms


@dataclass(frozen=True, slots=True, eq=False)
class Keys:
    """The keys of texts: a vector for each, or its terms and their counts."""

    embedder: Embedder
    texts: Array  # (n, 32) uint8, sha256 of each text's bytes
    values: Array  # (n, W) float16 of unit length; (n, 0) for terms
    terms: Array  # (Σ,) uint32, ascending within a text
    counts: Array  # (Σ,) uint16
    offsets: Array  # (n + 1,) uint64, first term of each text

    def __len__(self) -> int:
        return len(self.texts)


def dense(embedder: Embedder, texts: Sequence[bytes], values: Array) -> Keys:
    """Make keys of vectors (n, W)."""
    none = np.zeros(0, "<u4")
    return Keys(
        embedder,
        container.digest_rows(list(texts)),
        values.astype("<f2"),
        none,
        none.astype("<u2"),
        np.zeros(len(texts) + 1, "<u8"),
    )


def lexical(embedder: Embedder, texts: Sequence[bytes], terms: Sequence[dict[int, int]]) -> Keys:
    """Make keys of terms with their counts."""
    pairs = [sorted(found.items()) for found in terms]
    flat = np.array([pair for found in pairs for pair in found], dtype="<u8").reshape(-1, 2)
    return Keys(
        embedder,
        container.digest_rows(list(texts)),
        np.zeros((len(texts), 0), "<f2"),
        flat[:, 0].astype("<u4"),
        np.minimum(flat[:, 1], MOST_COUNT).astype("<u2"),
        container.as_offsets([len(found) for found in pairs]),
    )


def encode(keys: Keys) -> bytes:
    """Encode a file of keys."""
    chosen = DENSE if keys.embedder.width else TERMS
    columns = {
        "text_sha256": keys.texts,
        "values": keys.values,
        "terms": keys.terms,
        "counts": keys.counts,
        "offsets": keys.offsets,
    }
    metadata: dict[str, Any] = {
        "embedder": keys.embedder.name,
        "embedder_id": keys.embedder.id,
        "format": FORMAT_NAME,
        "texts": len(keys),
        "width": keys.embedder.width,
    }
    return container.encode({name: np.ascontiguousarray(columns[name]) for name in chosen}, metadata)


def decode(data: bytes) -> Keys:
    """Decode a file of keys. Refusal if its parts contradict each other."""
    entries, metadata = container.read_header(data, FORMAT_NAME)
    fields.counts(metadata, {"texts": limits.TEXTS, "width": limits.WIDTH})
    n, width = metadata["texts"], metadata["width"]
    embedder = Embedder(fields.one(metadata, "embedder", str), fields.one(metadata, "embedder_id", str), width)
    found = container.read_tensors(data, entries, DENSE if width else TERMS)
    container.check_shapes(found, {"text_sha256": (n, 32)})
    if width:
        container.check_shapes(found, {"values": (n, width)})
        if not np.isfinite(found["values"]).all():
            raise Refusal("not-finite", "tensor 'values' holds a value that is not finite")
        none = np.zeros(0, "<u4")
        return Keys(embedder, found["text_sha256"], found["values"], none, none.astype("<u2"), np.zeros(n + 1, "<u8"))
    terms = found["terms"]
    container.check_shapes(found, {"terms": (terms.size,), "counts": (terms.size,), "offsets": (n + 1,)})
    container.check_offsets("offsets", found["offsets"], len(terms))
    _check_ascending(terms, found["offsets"])
    return Keys(embedder, found["text_sha256"], np.zeros((n, 0), "<f2"), terms, found["counts"], found["offsets"])


def _check_ascending(terms: Array, offsets: Array) -> None:
    """Refuse terms that do not ascend within a text."""
    falls = np.flatnonzero(terms[1:] <= terms[:-1]) + 1
    if not np.isin(falls, offsets).all():
        raise Refusal("not-ascending", "tensor 'terms': the terms of a text do not ascend")
