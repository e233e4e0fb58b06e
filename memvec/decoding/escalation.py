"""Decode a record again if it gave other bytes than were packed, and explain the error if no retry helps.

The record is decoded alone, and then in the numerics in which stores are certified. Letters: N tokens.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from memvec.identity.runtime import Runtime
from memvec.identity.verdict import Verdict
from memvec.types import Record

if TYPE_CHECKING:
    from memvec.lm.frozen import FrozenLM

ALONE = "in a batch of one"
CANONICAL = "in float32 on the CPU"
SLACK = 0.01  # a lead that is lower than the certified one by more is in doubt [logits]; numerics change it by less
VERDICT = (
    "The model's fingerprint is the store's and the record is as it was written, so neither another model nor damage "
    "explains it: arithmetic here differs by more than the margins allow, or the record never decoded"
)
ALLOWED = (
    "The model was allowed although it is not the one the store was packed with, so its output may differ. Pass the "
    "original as model=…"
)


@dataclass(frozen=True, slots=True)
class Attempt:
    """One way of decoding a record, and its result."""

    how: str
    ids: tuple[int, ...]  # (N,)
    data: bytes

    def gives(self, record: Record) -> bool:
        """Are these the packed bytes?"""
        return hashlib.sha256(self.data).digest() == record.text_sha256


@dataclass(frozen=True, slots=True)
class Failure:
    """The explanation in a ReconstructionError, when no attempt gave the packed bytes."""

    tried: tuple[str, ...]
    position: int | None  # the first token in doubt; None if no token stands out
    evidence: str  # why this token is in doubt, in words
    verdict: str = VERDICT  # whether the model explains it

    def values(self) -> dict[str, Any]:
        """The fields, as keyword arguments of the error."""
        return asdict(self)


class Retries:
    """Decodes wrong records again. A second model is loaded only where the first one is not in canonical numerics."""

    def __init__(self, runtime: Runtime) -> None:
        """Decode with the model of `runtime`."""
        self.runtime = runtime
        self.helped: Counter[str] = Counter()  # records that were right only when tried again, by the way that helped

    def settle(self, record: Record, first: Attempt) -> tuple[bytes, Failure | None]:
        """The bytes of the first attempt that is right, or the bytes of `first` and why none is right."""
        if first.gives(record):
            return first.data, None
        attempts = [first]
        for how, lm in self._rungs():
            attempts.append(attempt(lm, record, how))
            if attempts[-1].gives(record):
                self.helped[how] += 1
                return attempts[-1].data, None
        failure = examine(self.runtime.lm, record, attempts)
        identical = self.runtime.allow is Verdict.IDENTICAL
        return first.data, failure if identical else replace(failure, verdict=ALLOWED)

    def _rungs(self) -> Iterator[tuple[str, FrozenLM]]:
        """Yield the ways that are left to try, the most expensive last."""
        if self.runtime.batch != 1:
            yield ALONE, self.runtime.lm
        if not is_canonical(self.runtime.lm):
            yield CANONICAL, self.runtime.lm_on("cpu")


def is_canonical(lm: FrozenLM) -> bool:
    """Does `lm` compute as stores are certified: on the CPU, in float32, with the same attention?"""
    import torch

    from memvec.lm.attention import NAME

    attention = lm.recurrent or getattr(lm.model.config, "_attn_implementation", NAME) in (NAME, "sdpa")
    return lm.device.type == "cpu" and lm.dtype == torch.float32 and attention


def attempt(lm: FrozenLM, record: Record, how: str) -> Attempt:
    """Decode `record` alone."""
    from memvec.decoding.greedy import decode

    (ids,) = decode(lm, [record.vectors], [record.tokens], [record.corrections], 1)
    return Attempt(how, tuple(ids), text_bytes(lm, ids))


def text_bytes(lm: FrozenLM, ids: Sequence[int]) -> bytes:
    """The bytes that token ids (N,) stand for."""
    return lm.decode(ids).encode("utf-8", "surrogatepass")


def examine(lm: FrozenLM, record: Record, attempts: Sequence[Attempt]) -> Failure:
    """Find the first token in doubt among wrong attempts. The digest says only that the text is wrong, not where."""
    tried = tuple(made.how for made in attempts)
    position = next(
        (at for at, ids in enumerate(zip(*(made.ids for made in attempts), strict=True)) if len({*ids}) > 1), None
    )
    if position is not None:
        evidence = "there the attempts differ, so at least one of them is wrong; tokens before it may be wrong in all"
        return Failure(tried, position, evidence)
    from memvec.decoding.greedy import measure

    ((leads, _),) = measure(lm, [record.vectors], [attempts[-1].ids], 1)
    least, stored = record.report.least_margin, {place for place, _ in record.corrections}
    for at, lead in enumerate(leads):
        if at not in stored and not lead >= least - SLACK:  # not "<": a NaN lead is in doubt too
            evidence = f"it leads by {lead:.3g} logits, where none led by less than {least:.3g} when it was certified"
            return Failure(tried, at, evidence)
    return Failure(tried, None, "every attempt gave the same tokens, each with the lead it was certified with")
