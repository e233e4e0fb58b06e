"""Embedders make the keys by which a text is found. Each has a name, and an id that changes whenever its keys would.

Letters: n texts, V vocabulary, D width of the LM, W width of a key.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from memvec.errors import MissingExtraError, UsageError
from memvec.formats import canonical, keys
from memvec.formats.keys import Embedder, Keys
from memvec.formats.raw import raw_bytes
from memvec.guard import loading_alone
from memvec.retrieval import bm25 as lexical
from memvec.retrieval.whitening import TableStatistics
from memvec.types import Fingerprint, Kind, RawReason, Record

Array = npt.NDArray[np.float32]

LEXICAL, TABLE, SENTENCES = "bm25", "lm", "sentence-transformers:"
DEFAULT = (TABLE, LEXICAL)
QUERY = bytes(32)  # in place of the digest of a query, which is not used


class Embeds(Protocol):
    """An embedder: it makes keys of texts and of queries."""

    embedder: Embedder

    def keys(self, texts: Mapping[bytes, str]) -> Keys:
        """The keys of texts by the sha256 of their bytes."""
        ...

    def query(self, text: str) -> Keys:
        """The key of a query."""
        ...


def identity(name: str, **what: Any) -> str:
    """The id of an embedder: 16 hex digits that depend on its name and on everything its keys depend on."""
    return hashlib.sha256(canonical.dumps({"embedder": name, **what})).hexdigest()[:16]


class Words:
    """`bm25`: keys are the words of a text. Needs no model."""

    def __init__(self) -> None:
        self.embedder = Embedder(LEXICAL, identity(LEXICAL, version=1), 0)

    def keys(self, texts: Mapping[bytes, str]) -> Keys:
        """The terms of each text."""
        return keys.lexical(self.embedder, list(texts), [lexical.terms(text) for text in texts.values()])

    def query(self, text: str) -> Keys:
        """The terms of a query."""
        return self.keys({QUERY: text})


class Table:
    """`lm`: keys are the mean of a text's input embeddings, whitened; rare tokens weigh more. Needs no forward pass.

    Weights as in Arora et al. 2017, whitened over the vocabulary as Su et al. 2021 do over sentences. It finds more than
    the hidden states of any layer (docs/LOG.md).
    """

    def __init__(self, tokenizer: Any, table: npt.NDArray[Any], fingerprint: Fingerprint) -> None:
        """Take the tokenizer and the input embeddings (V, D) float16 of a model. No other code may call the tokenizer."""
        self.tokenizer, self.table = tokenizer, table
        name = identity(TABLE, version=2, embedding=fingerprint.embedding, vocabulary=fingerprint.vocabulary)
        self.statistics = TableStatistics.cached(name, self.table, self.tokenizer)
        self.embedder = Embedder(TABLE, name, self.table.shape[1])
        self._key("-")  # the first call changes settings of the tokenizer; later, threads may share it

    def keys(self, texts: Mapping[bytes, str]) -> Keys:
        """A key (W,) of unit length for each text; zeros for one without tokens."""
        values = [self._key(text) for text in texts.values()]
        return keys.dense(self.embedder, list(texts), np.reshape(values, (len(texts), self.embedder.width)))

    def query(self, text: str) -> Keys:
        """The key of a query."""
        return self.keys({QUERY: text})

    def _key(self, text: str) -> Array:
        ids = self.tokenizer(f" {text.strip()}", add_special_tokens=False, split_special_tokens=True)["input_ids"]
        if not text.strip() or not ids:
            return np.zeros(self.embedder.width, np.float32)
        weights = self.statistics.weights[ids]
        mean = weights @ self.table[ids].astype(np.float32) / weights.sum()
        return unit((mean - self.statistics.middle) @ self.statistics.whitening)


class Sentences:
    """`sentence-transformers:MODEL`: a model trained for search, where that package is installed."""

    def __init__(self, name: str) -> None:
        """Load the model behind the colon: a folder or a hub id. MissingExtraError."""
        try:
            with loading_alone():
                from sentence_transformers import SentenceTransformer
        except ImportError as error:
            raise MissingExtraError(
                f"{name!r} needs sentence-transformers. Install it: pip install 'memvec[sentence-transformers]'."
            ) from error
        model = name.removeprefix(SENTENCES)
        with loading_alone():
            self.model: Any = SentenceTransformer(model)
        width = len(self.model.encode("a", show_progress_bar=False))
        state = hashlib.sha256()
        for part, tensor in sorted(self.model.state_dict().items()):
            state.update(part.encode() + tensor.float().cpu().numpy().tobytes())
        self.embedder = Embedder(name, identity(SENTENCES, version=1, weights=state.hexdigest()), width)

    def keys(self, texts: Mapping[bytes, str]) -> Keys:
        """A key (W,) of unit length for each text."""
        values = self.model.encode_document(list(texts.values()), normalize_embeddings=True, show_progress_bar=False)
        return keys.dense(self.embedder, list(texts), np.reshape(values, (len(texts), self.embedder.width)))

    def query(self, text: str) -> Keys:
        """The key of a query, by the model's own prompt for queries."""
        values = self.model.encode_query([text], normalize_embeddings=True, show_progress_bar=False)
        return keys.dense(self.embedder, [QUERY], np.reshape(values, (1, self.embedder.width)))


def maker(name: str, folder: Path, fingerprint: Fingerprint, tokenizer: Any = None) -> Embeds:
    """The embedder of that name for the model in `folder`, with its tokenizer if that is loaded. UsageError, MissingExtraError."""
    check_embedder(name)
    if name == LEXICAL:
        return Words()
    if name.startswith(SENTENCES):
        return Sentences(name)
    from memvec.checkpoints.files import embedding_table, load_tokenizer

    known = load_tokenizer(folder) if tokenizer is None else tokenizer
    return Table(known, embedding_table(folder), fingerprint)


def keys_of(records: Sequence[Record], texts: Mapping[bytes, str], makers: Sequence[Embeds]) -> list[Keys]:
    """Make the keys of the records that are text, by each of `makers`.

    `texts` holds the texts by their sha256. Raw records hold their text themselves.
    """
    found: dict[bytes, str] = {}
    for record in records:
        if record.kind == Kind.RAW and record.reason != RawReason.NOT_TEXT:
            found[record.text_sha256] = raw_bytes(record).decode("utf-8", "replace")
        elif record.text_sha256 in texts:
            found[record.text_sha256] = texts[record.text_sha256]
    return [made.keys(found) for made in makers] if found else []


def check_embedder(name: str) -> None:
    """UsageError unless `name` is that of an embedder."""
    if name not in (LEXICAL, TABLE) and not (name.startswith(SENTENCES) and name != SENTENCES):
        raise UsageError(f"embedder is {name!r}, expected {TABLE}, {LEXICAL} or {SENTENCES}MODEL.")


def unit(values: Array) -> Array:
    """Rows of unit length; zeros stay."""
    length = np.linalg.norm(values, axis=-1, keepdims=True)
    scaled: Array = (values / np.maximum(length, 1e-12)).astype(np.float32)
    return scaled
