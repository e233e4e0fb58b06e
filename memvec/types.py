"""Values that all packages share. Needs only the standard library and numpy.

Letters: S segments, M vectors, D width, N tokens, V vocabulary.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import IntEnum
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float16]  # (M, D)

ProblemKind = Literal["digest_mismatch", "invalid_value", "missing_file", "size_mismatch", "unreadable", "wrong_text"]


class Kind(IntEnum):
    """The kind of a record. The numbers are those of the format."""

    RAW = 0
    EXACT = 1
    CONTEXT = 2  # vectors that condition a model and do not decode to bytes
    KV = 3  # keys and values that condition a model and do not decode to bytes


class RawReason(IntEnum):
    """Why a record is raw. The numbers are those of the format."""

    NONE = 0
    NOT_TEXT = 1
    TOO_SHORT = 2
    TOKENIZER = 3
    NO_FIT = 4

    @property
    def sentence(self) -> str:
        """The reason in words."""
        return {
            RawReason.NONE: "",
            RawReason.NOT_TEXT: "not valid UTF-8 text, or control characters",
            RawReason.TOO_SHORT: "text of a few tokens",
            RawReason.TOKENIZER: "the tokenizer does not give this text back",
            RawReason.NO_FIT: "corrections stayed over their cap after refits",
        }[self]


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem of a store: its place, its kind, a message, and its code (SPEC §12)."""

    location: str
    kind: ProblemKind  # the exit code follows from it
    message: str
    code: str = ""  # the exact reason; by default the kind

    def __post_init__(self) -> None:
        if not self.code:
            object.__setattr__(self, "code", self.kind.replace("_", "-"))


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """The model and tokenizer that vectors belong to."""

    weights: str  # sha256 over (name, dtype, shape, bytes) of every tensor of the checkpoint
    embedding: str  # the same for the input-embedding tensor alone
    architecture: Mapping[str, Any]  # fields of the configuration that change what the model computes
    vocabulary: str  # sha256 over sorted (token, id)
    probe: str  # sha256 over the ids of the tokenizer strings
    width: int  # D
    source: str = field(default="", compare=False)  # where the model came from; not compared

    @property
    def id(self) -> str:
        """16 hex digits over all compared fields."""
        body = {k: v for k, v in asdict(self).items() if k != "source"}
        text = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def differences(self, other: Fingerprint) -> list[tuple[str, str, str]]:
        """(field, mine, the other's) for every compared field that differs."""
        out = []
        for name in ("weights", "embedding", "vocabulary", "probe", "width"):
            mine, theirs = str(getattr(self, name)), str(getattr(other, name))
            if mine != theirs:
                out.append((name, mine[:16], theirs[:16]))
        for key in sorted({*self.architecture, *other.architecture}):
            mine, theirs = (str(f.architecture.get(key, "absent")) for f in (self, other))
            if mine != theirs:
                out.append((f"architecture.{key}", mine, theirs))
        return out


@dataclass(frozen=True, slots=True)
class Identity:
    """A model's fingerprint, and the measurements that tell how far another model is from it."""

    fingerprint: Fingerprint
    tensors: Mapping[str, str] = field(default_factory=dict)  # {name: first digits of the digest} of the checkpoint
    probe: Mapping[str, Any] = field(default_factory=dict)  # traits of the files and outputs of the model; SPEC §4.3

    @classmethod
    def of(cls, model: Fingerprint | Identity) -> Identity:
        """An identity as it is, or one that is only a fingerprint."""
        return model if isinstance(model, Identity) else cls(model)


@dataclass(frozen=True, slots=True)
class FitReport:
    """The work on a record, and its quality. All zero for raw records."""

    steps: int = 0  # optimiser steps, refits included
    token_steps: int = 0  # token positions run forward and backward, padding and refits included
    nats_before: float = 0.0  # surprisal of the complete segment without vectors [nats]
    nats_after: float = 0.0  # the same with vectors
    corrected_wrong: int = 0  # tokens stored because decoding would be wrong
    corrected_margin: int = 0  # tokens stored because the margin was under the threshold
    least_margin: float = 0.0  # least gap between the two highest logits, of tokens that come from vectors [logits]
    seconds: float = 0.0  # its share of the wall-clock time [s]

    @property
    def corrected(self) -> int:
        """Tokens that come from corrections."""
        return self.corrected_wrong + self.corrected_margin


@dataclass(frozen=True, slots=True)
class Document:
    """The name of a document, with the size and digest of its bytes."""

    name: str
    bytes: int
    sha256: str
    zstd_bytes: int  # its share of one zstd -19 stream over everything packed with it [bytes]
    tokens: int  # 0 if it is not text


@dataclass(frozen=True, slots=True)
class Conditioning:
    """How well the vectors of a context record replace their text, measured on held-out rows when they were made.

    A gain is the surprisal that something in front saves, divided by the surprisal that the text saves.
    """

    # Of the vectors: 1 is as good as the text, 0 as nothing [1]. None if the text itself saves the model less than 0.1
    # nats per token, or if nothing could be asked about it.
    gain: float | None
    shuffled: float | None  # of another document's vectors [1]; None if not measured
    text: float | None  # of the best excerpt of the text with as many positions as vectors [1]
    harm: float | None  # added surprisal on unrelated prompts, compared with the text [nats per token]
    nll_none: float | None  # surprisal of the held-out rows with nothing in front [nats per token]
    nll_text: float | None  # the same with the text in front
    nll_memory: float | None  # the same with the vectors in front
    held_out: int  # rows measured: questions in a form that was not trained on, about facts that may have been
    recipe: str  # name of the recipe that made the vectors
    seed: int  # of the recipe's random numbers


@dataclass(frozen=True, slots=True, eq=False)
class KeysValues:
    """Some of the keys and values that a model computed for a text. They stand in for the text in the model's cache.

    Rows are ordered by layer, head and place. Keys are stored without rotation, as if they stood at position 0. A row
    belongs at position P + M - distance, where P positions stand before the memory; a prompt goes on at P + M.

    Letters: L layers, H key/value heads, E width of a head, K rows, G runs of rows, C runs of numbers in a row.
    """

    positions: int  # M, the positions that it takes; not derived from the number of rows
    bits: int  # of each stored number: 4, 8 or 16
    counts: npt.NDArray[np.uint32]  # (L, H) rows of each head; their sum is K
    distances: npt.NDArray[
        np.uint32
    ]  # (K,) tokens from each row to the end of the text, 1 for the last; they fall in a head
    keys: npt.NDArray[np.uint8]  # (K, E * bits / 8) codes, two a byte with 4 bits; with 16 bits float16 numbers
    key_scales: npt.NDArray[np.float16]  # (G, 2, E) low and step of each channel, for each 64 rows of a head
    values: npt.NDArray[np.uint8]  # (K, E * bits / 8)
    value_scales: npt.NDArray[np.float16]  # (K, C, 2) low and step of each 64 numbers of a row

    @property
    def rows(self) -> int:
        """K."""
        return len(self.distances)

    @property
    def width(self) -> int:
        """E."""
        return int(self.keys.shape[1]) * 8 // self.bits

    @property
    def nbytes(self) -> int:
        """Size of all its arrays [bytes]."""
        arrays = (self.counts, self.distances, self.keys, self.key_scales, self.values, self.value_scales)
        return sum(array.nbytes for array in arrays)


@dataclass(frozen=True, slots=True, eq=False)
class Record:
    """One packed segment. Exact and raw records give its bytes back, context and kv records stand in for its text."""

    document: Document
    kind: Kind
    start: int  # first byte of the segment in its document
    length: int  # bytes
    tokens: int  # N; 0 if the segment is not text
    vectors: Vectors  # (M, D); M = 0 for raw and kv records
    corrections: tuple[tuple[int, int], ...]  # (position, token), ascending
    payload: bytes  # a zstd frame: the bytes of a raw record or the conditioning of a memory, else empty
    text_sha256: bytes  # of the segment's bytes
    reason: RawReason
    report: FitReport
    conditioning: Conditioning | None = None  # only of context and kv records, decoded from the payload
    kv: KeysValues | None = None  # only of kv records


@dataclass(frozen=True, slots=True)
class UnpackReport:
    """The result of `memvec.unpack`. The field names are those of `--json`."""

    documents: int
    bytes: int
    tokens: int  # decoded with the model
    seconds: float
    files: tuple[str, ...]
    escalated: int = 0  # records that decoded rightly only in a second way
    partial: tuple[str, ...] = ()  # files with the right segments of a damaged document
    renamed: Mapping[str, str] = field(default_factory=dict)  # {document: its file}, for files with another name


class Skipped(NamedTuple):
    """An input that a pack left out."""

    name: str
    reason: str  # why, in words


@dataclass(frozen=True, slots=True)
class PackReport:
    """The result of `memvec.pack`, and the totals of a store. The field names are those of `--json`.

    Fields are about exact and raw records, if they do not name context or kv records.
    """

    documents: int  # with complete content or a complete memory of either kind
    records: int
    raw_records: int
    source_bytes: int
    source_tokens: int
    fitted_tokens: int  # tokens of records that are not raw
    vectors: int
    tokens_per_vector: float  # fitted_tokens / vectors
    corrected_tokens: int
    raw_text_bytes: int  # bytes of valid text in raw records
    vector_bytes: int  # of all vectors, also those of context records
    store_bytes: int  # of everything in the store
    zstd_bytes: int  # zstd -19 of the same documents as one stream; see zstd_sampled
    token_steps: int
    seconds: float
    model: str
    fingerprint: str
    exact: bool  # every document is complete, in records that were certified to decode to its bytes
    unchanged: int = 0  # documents that were in the store already
    incomplete: int = 0  # documents that an interrupted pack left unfinished
    context_records: int = 0  # of complete memories, as are the next six fields
    context_vectors: int = 0
    context_tokens: int = 0  # tokens of their text
    context_token_steps: int = 0  # positions run forward and backward to distil them
    gain: float | None = None  # mean of their gains, weighted by tokens [1]; None without context records
    harm: float | None = None  # mean where it was measured, weighted by tokens [nats per token]; None if nowhere
    reused: int = 0  # records copied because the same text was in the store, or in this pack, under another name
    unmatched: tuple[str, ...] = ()  # patterns of `include` and `exclude` that matched no file and no folder
    skipped: tuple[Skipped, ...] = ()  # inputs that could not be read, or that have no memory; all others were packed
    zstd_sampled: bool = False  # this pack estimated zstd_bytes of its documents from a sample
    kv_records: int = 0  # of complete kv memories, as are the next seven fields
    kv_positions: int = 0  # that they take in front of a prompt
    kv_tokens: int = 0  # tokens of their text
    kv_text_bytes: int = 0  # bytes of their text
    kv_bytes: int = 0  # of their keys and values, as stored
    kv_measured: int = 0  # of these records, those whose gain was measured
    kv_gain: float | None = None  # mean of the measured gains, weighted by tokens [1]; None if none was measured
    kv_seconds: float = 0.0  # for reading and training them, not for measuring [s]
