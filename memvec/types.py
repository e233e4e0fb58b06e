"""Value objects shared by every folder. Standard library and numpy only.

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
    """What a record holds; the numbers are those of the format."""

    RAW = 0
    EXACT = 1
    CONTEXT = 2  # vectors to condition a model with; they do not decode back to bytes


class RawReason(IntEnum):
    """Why a record is raw; the numbers are those of the format."""

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
    """One thing wrong with a store: where, of what kind, in words, and by its code (SPEC §12)."""

    location: str
    kind: ProblemKind  # what sort of thing, from which the exit code follows
    message: str
    code: str = ""  # why exactly; by default what the kind says

    def __post_init__(self) -> None:
        if not self.code:
            object.__setattr__(self, "code", self.kind.replace("_", "-"))


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What model and tokenizer vectors belong to."""

    weights: str  # sha256 over (name, dtype, shape, bytes) of every tensor of the checkpoint
    embedding: str  # the same of the input-embedding tensor alone
    architecture: Mapping[str, Any]  # behaviour fields of the configuration, by allow-list
    vocabulary: str  # sha256 over sorted (token, id)
    probe: str  # sha256 over the ids of fixed probe strings
    width: int  # D
    source: str = field(default="", compare=False)  # where the model came from; informative

    @property
    def id(self) -> str:
        """16 hex digits that stand for everything that is compared."""
        body = {k: v for k, v in asdict(self).items() if k != "source"}
        text = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def differences(self, other: Fingerprint) -> list[tuple[str, str, str]]:
        """(field, mine, the other's) of every compared field that differs; architecture field by field."""
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
    """What is known of a model: its fingerprint, and what explains how far another one is from it."""

    fingerprint: Fingerprint
    tensors: Mapping[str, str] = field(default_factory=dict)  # of the checkpoint: first digits of each digest, by name
    probe: Mapping[str, Any] = field(default_factory=dict)  # what files and model say of themselves; SPEC §4.3


@dataclass(frozen=True, slots=True)
class FitReport:
    """What it took to make a record; zeros for raw ones."""

    steps: int = 0  # optimiser steps, refits included
    token_steps: int = 0  # token positions run forward and backward, padding and refits included
    nats_before: float = 0.0  # surprisal of the segment without vectors [nats, whole segment]
    nats_after: float = 0.0  # the same with them
    corrected_wrong: int = 0  # tokens stored because decoding would be wrong
    corrected_margin: int = 0  # tokens stored because the margin was under the threshold
    least_margin: float = 0.0  # least first-to-second logit gap among tokens that come from vectors [logits]
    seconds: float = 0.0  # share of the wall-clock [s]

    @property
    def corrected(self) -> int:
        """Tokens that come from corrections."""
        return self.corrected_wrong + self.corrected_margin


@dataclass(frozen=True, slots=True)
class Document:
    """A name and what its bytes are known by."""

    name: str
    bytes: int
    sha256: str
    zstd_bytes: int  # its share of one zstd -19 stream over everything packed with it [bytes]
    tokens: int  # 0 when it is no text


@dataclass(frozen=True, slots=True)
class Conditioning:
    """How well the vectors of a context record stand for their text, as measured on held-out rows when it was made.

    The gain is what having something to read saves against reading nothing, in nats per token. The text's is 1.
    """

    # Share of the whole text's gain that the vectors keep; 1 is as good as the text, 0 as nothing [1]. None: the model
    # itself cannot use the text, which saves less than 0.1 nats per token, or nothing could be asked about it.
    gain: float | None
    shuffled: float | None  # the same with the vectors of another document [1]; None: not measured
    text: float | None  # the same of the best text control of as many positions as there are vectors [1]
    harm: float | None  # cost on unrelated prompts, above what the text itself costs there [nats per token]
    nll_none: float | None  # of the held-out rows with nothing in front [nats per token]
    nll_text: float | None  # of the held-out rows with the text in front [nats per token]
    nll_memory: float | None  # of the held-out rows with the vectors in front [nats per token]
    held_out: int  # rows measured: questions of a form that was not learnt from, about facts that may have been
    recipe: str  # name of the recipe that made the vectors; informative
    seed: int  # of the recipe's random numbers


@dataclass(frozen=True, slots=True, eq=False)
class Record:
    """One segment packed: what gives its bytes back with the model or, for a context record, stands for its text."""

    document: Document
    kind: Kind
    start: int  # first byte of the segment in its document
    length: int  # bytes
    tokens: int  # N; 0 when the segment is no text
    vectors: Vectors  # (M, D); M = 0 for raw records
    corrections: tuple[tuple[int, int], ...]  # (position, token), ascending
    payload: bytes  # a zstd frame: the bytes of a raw record, the conditioning of a context record; else empty
    text_sha256: bytes  # of the segment's bytes
    reason: RawReason
    report: FitReport
    conditioning: Conditioning | None = None  # of context records; the payload holds it


@dataclass(frozen=True, slots=True)
class UnpackReport:
    """What an unpack wrote; the field names are those of `--json`."""

    documents: int
    bytes: int
    tokens: int  # decoded with the model
    seconds: float
    files: tuple[str, ...]
    escalated: int = 0  # records that came out right only when they were decoded again
    partial: tuple[str, ...] = ()  # files that hold what is right of a document that is not
    renamed: Mapping[str, str] = field(default_factory=dict)  # {document: its file}, where the file has another name


class Skipped(NamedTuple):
    """An input that a pack left out."""

    name: str
    reason: str  # why, in words


@dataclass(frozen=True, slots=True)
class PackReport:
    """What a pack did or a store holds; the field names are those of `--json`.

    What does not say otherwise is of exact and raw records alone, so that its ratios mean what they did.
    """

    documents: int  # with whole content or a whole memory
    records: int
    raw_records: int
    source_bytes: int
    source_tokens: int
    fitted_tokens: int  # tokens of records that are not raw
    vectors: int
    tokens_per_vector: float  # fitted_tokens / vectors
    corrected_tokens: int
    raw_text_bytes: int  # bytes of valid text that went raw
    vector_bytes: int  # of all vectors, those of context records too
    store_bytes: int  # of everything in the store
    zstd_bytes: int  # zstd -19 of the same documents as one stream; see zstd_sampled
    token_steps: int
    seconds: float
    model: str
    fingerprint: str
    exact: bool  # every document is there whole, in records that were certified to decode to its bytes
    unchanged: int = 0  # documents that were in the store already
    incomplete: int = 0  # documents whose content or memory an interrupted pack left unfinished
    context_records: int = 0  # of whole memories, as all that follows
    context_vectors: int = 0
    context_tokens: int = 0  # tokens of the text they stand for
    context_token_steps: int = 0  # positions run forward and backward to distil
    gain: float | None = None  # mean by tokens of their share of the text's gain [1]; None without context records
    harm: float | None = None  # mean by tokens where it was measured [nats per token]; None where it was for none
    reused: int = 0  # records of this pack whose text was in the store, or in this pack, under another name or place
    unmatched: tuple[str, ...] = ()  # patterns of `include` and `exclude` that matched no file and no folder
    skipped: tuple[Skipped, ...] = ()  # inputs that could not be read, or that have no memory; all others were packed
    zstd_sampled: bool = False  # zstd_bytes of what this pack read is an estimate from a sample
