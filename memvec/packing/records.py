"""Make records from the results of packing. Knows no model."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from memvec.chunks import chunked
from memvec.formats import conditioning as conditioning_format
from memvec.formats import raw
from memvec.types import Conditioning, Document, FitReport, KeysValues, Kind, RawReason, Record, Vectors

if TYPE_CHECKING:
    from memvec.decoding.greedy import Certificate
    from memvec.training.fit import Fitted


class Made(NamedTuple):
    """A finished record, to be added to the store."""

    record: Record
    text: str | None = None  # None if the record is raw; else keys are made of it
    copied: bool = False  # is it a copy of a record of the store or of this pack?
    more: bool = False  # do finished records follow at once? Then a commit waits for them


def exact_record(
    document: Document, start: int, data: bytes, fitted: Fitted, certificate: Certificate, nats: float
) -> Record:
    """The record of a certified segment; `nats` is its surprisal without vectors."""
    cost = fitted.cost
    report = FitReport(
        steps=cost.steps,
        token_steps=cost.token_steps,
        nats_before=nats,
        nats_after=certificate.nats,
        corrected_wrong=certificate.wrong,
        corrected_margin=len(certificate.corrections) - certificate.wrong,
        least_margin=certificate.least_margin,
        seconds=cost.seconds,
    )
    return Record(
        document=document,
        kind=Kind.EXACT,
        start=start,
        length=len(data),
        tokens=len(fitted.task.ids),
        vectors=fitted.vectors,
        corrections=certificate.corrections,
        payload=b"",
        text_sha256=hashlib.sha256(data).digest(),
        reason=RawReason.NONE,
        report=report,
    )


def context_record(
    document: Document,
    start: int,
    data: bytes,
    tokens: int,
    vectors: Vectors,
    conditioning: Conditioning,
    report: FitReport | None = None,
) -> Record:
    """The record of vectors distilled to stand for the text `data` of N = `tokens`; ValueError for a malformed report."""
    return Record(
        document=document,
        kind=Kind.CONTEXT,
        start=start,
        length=len(data),
        tokens=tokens,
        vectors=vectors,
        corrections=(),
        payload=conditioning_format.encode(conditioning),
        text_sha256=hashlib.sha256(data).digest(),
        reason=RawReason.NONE,
        report=report or FitReport(),
        conditioning=conditioning,
    )


def kv_record(
    document: Document,
    start: int,
    data: bytes,
    tokens: int,
    kv: KeysValues,
    conditioning: Conditioning,
    report: FitReport | None = None,
    *,
    width: int,
) -> Record:
    """The record of keys and values kept of the text `data` of N = `tokens`; ValueError for a malformed report.

    A memory that was not measured has a conditioning report without figures. `width` is D of the store's model.
    """
    return Record(
        document=document,
        kind=Kind.KV,
        start=start,
        length=len(data),
        tokens=tokens,
        vectors=np.zeros((0, width), np.float16),
        corrections=(),
        payload=conditioning_format.encode(conditioning),
        text_sha256=hashlib.sha256(data).digest(),
        reason=RawReason.NONE,
        report=report or FitReport(),
        conditioning=conditioning,
        kv=kv,
    )


def raw_records(
    document: Document,
    start: int,
    data: bytes,
    tokens: int,
    reason: RawReason,
    width: int,
    report: FitReport | None = None,
) -> list[Record]:
    """Raw records of `data`, each within the frame limit. Empty data gives one record."""
    pieces = chunked(data, raw.MAX_RAW_BYTES) if data else [b""]
    return list(each_raw_record(document, start, pieces, tokens, reason, width, report))


def each_raw_record(
    document: Document,
    start: int,
    pieces: Iterable[bytes],
    tokens: int,
    reason: RawReason,
    width: int,
    report: FitReport | None = None,
    compress: Callable[[bytes], bytes] = raw.compress,
) -> Iterator[Record]:
    """Yield a raw record for each piece. A long document is never loaded at once."""
    for number, piece in enumerate(pieces):
        yield Record(
            document=document,
            kind=Kind.RAW,
            start=start,
            length=len(piece),
            tokens=tokens if number == 0 else 0,
            vectors=np.zeros((0, width), np.float16),
            corrections=(),
            payload=compress(piece),
            text_sha256=hashlib.sha256(piece).digest(),
            reason=reason,
            report=report or FitReport(),
        )
        start += len(piece)
