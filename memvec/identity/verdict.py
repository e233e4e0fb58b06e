"""Verdicts: the distance of another model from the one a store was packed with, and the uses that it allows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from memvec.checkpoints.traits import PROBES, vocabulary_of
from memvec.errors import FingerprintError, counted
from memvec.formats.manifest import Manifest
from memvec.types import Identity

SAME_ANSWERS = 0.9  # share of positions at which a relative must agree
# The largest change of a log-probability that rounding weights to 16 bits explains [nats]. A token may also become the
# likeliest if it trailed by no more. bfloat16 changes log-probabilities of the default model by up to 0.2.
ROUNDING = 0.5
SHOWN_TOKENS = 5
OUTPUTS = ("text", "noise")  # parts of a numeric probe that hold the answers of the model


class Verdict(Enum):
    """The distance of a model from that of a store, nearest first. Users read the values."""

    IDENTICAL = "identical"
    PRECISION = "same weights, other precision or container"
    RELATIVE = "re-quantised or fine-tuned relative"
    UNTOLD = "same architecture and tokenizer, other weights"  # the distance was not measured
    DIFFERENT = "different model"

    @property
    def allows(self) -> str:
        """The uses of the store with this model, in words."""
        return {
            Verdict.IDENTICAL: "decoding and conditioning",
            Verdict.PRECISION: "decoding with memvec.unpack(…, allow='precision'), which verifies every record",
            Verdict.RELATIVE: "conditioning without the check, attached(…, check=False); decoding with memvec.unpack(…, allow='relative') may fail",
            Verdict.UNTOLD: "nothing, until the probe has measured the distance",
            Verdict.DIFFERENT: "nothing",
        }[self]

    def within(self, limit: Verdict) -> bool:
        """Is this verdict at least as near as `limit`?"""
        order = list(Verdict)
        return order.index(self) <= order.index(limit)

    @property
    def decodes(self) -> bool:
        """Do records normally decode with such a model?"""
        return self in (Verdict.IDENTICAL, Verdict.PRECISION)


@dataclass(frozen=True, slots=True)
class Distance:
    """The distance of two numeric probes."""

    positions: int
    agreeing: int  # positions where both models have the same likeliest token, or a tie
    furthest: float  # largest change of a log-probability that both probes hold [nats]


@dataclass(frozen=True, slots=True)
class Comparison:
    """The result of comparing a store's model with another one."""

    verdict: Verdict
    why: str  # one sentence
    differences: tuple[tuple[str, str, str], ...]  # (field of the fingerprint, the store's, the model's)
    tensors: tuple[str, ...]  # names of tensors that differ or that one model lacks; empty if not known
    distance: Distance | None  # None: one of the two has no numeric probe
    hints: tuple[str, ...] = ()  # sentences about the tokenizer

    def error(self) -> FingerprintError:
        """The error for a caller that needs a nearer verdict."""
        return FingerprintError(self.differences, self.verdict.value, self.tensors, self.hints)


def stored_identity(state: Manifest) -> Identity:
    """The identity of the model that a store was packed with, from its manifest."""
    return Identity(state.fingerprint, state.tensors, state.probe)


def compare(stored: Identity, found: Identity, vocabulary: Mapping[str, int] | None = None) -> Comparison:
    """Judge the model `found` for a store packed with `stored`. The less is known of one of them, the less the verdict allows.

    `vocabulary` holds the tokens and ids of the found tokenizer, for hints on how it differs.
    """
    differences = tuple(stored.fingerprint.differences(found.fingerprint))
    tensors = differing(stored.tensors, found.tensors)
    distance = measured(stored.probe, found.probe)
    verdict, why = _judge(stored, found, [field for field, _, _ in differences], tensors, distance)
    return Comparison(verdict, why, differences, tensors, distance, tuple(_hints(stored, found, vocabulary or {})))


def differing(stored: Mapping[str, str], found: Mapping[str, str]) -> tuple[str, ...]:
    """Names of tensors that differ or that one table lacks, in order. None of them if a table is empty."""
    if not stored or not found:
        return ()
    return tuple(name for name in sorted({*stored, *found}) if stored.get(name) != found.get(name))


def measured(stored: Mapping[str, Any], found: Mapping[str, Any]) -> Distance | None:
    """The distance of two numeric probes; None unless both hold answers to the same input."""
    if any(part not in probe for probe in (stored, found) for part in OUTPUTS) or stored.get("ids") != found.get("ids"):
        return None
    agreeing = positions = 0
    furthest = 0.0
    try:
        for part in OUTPUTS:
            for mine, other in zip(_rows(stored[part]), _rows(found[part]), strict=True):
                positions += 1
                agreeing += mine.get(next(iter(other)), -math.inf) >= max(mine.values()) - ROUNDING
                furthest = max([furthest, *(abs(mine[token] - other[token]) for token in mine.keys() & other.keys())])
    except (KeyError, TypeError, ValueError, StopIteration):
        return None  # another program wrote one of them
    return Distance(positions, agreeing, round(furthest, 4)) if positions else None


def _rows(part: Mapping[str, Sequence[Sequence[Any]]]) -> list[dict[int, float]]:
    """{token: log-probability}, likeliest first, of every position."""
    return [dict(zip(*row, strict=True)) for row in zip(part["tokens"], part["logs"], strict=True)]


def _judge(
    stored: Identity, found: Identity, fields: Sequence[str], tensors: Sequence[str], distance: Distance | None
) -> tuple[Verdict, str]:
    if not fields:
        return Verdict.IDENTICAL, "weights, architecture and tokenizer are the same as the store's"
    if other := [field for field in fields if field not in ("weights", "embedding")]:
        weights = "weights and " if "weights" in fields else "the weights are the same, but "
        return (
            Verdict.DIFFERENT,
            f"{weights}{', '.join(other[:3])} differ, so that vectors or tokens mean something else",
        )
    if distance is not None:
        return _by_probe(distance, _other_dtype(stored, found))
    total = len({*stored.tensors, *found.tensors})
    if tensors and len(tensors) <= total / 2:
        return Verdict.RELATIVE, f"{total - len(tensors)} of {total} tensors are the same, the others are not"
    known = "the store holds no probe" if not all(part in stored.probe for part in OUTPUTS) else "the probe was not run"
    return Verdict.UNTOLD, f"the weights differ by an unknown distance: {known}"


def _hints(stored: Identity, found: Identity, vocabulary: Mapping[str, int]) -> Iterator[str]:
    """Sentences on how the tokenizer differs."""
    mine, other = stored.probe.get("tokens"), found.probe.get("tokens")
    if isinstance(mine, int) and isinstance(other, int) and mine != other:
        first = dict(sorted(vocabulary.items(), key=lambda pair: pair[1])[:mine])
        if first and other > mine and vocabulary_of(first) == stored.fingerprint.vocabulary:
            added = [f"{token!r} ({number})" for token, number in vocabulary.items() if token not in first]
            yield f"the model's tokenizer has {counted(len(added), 'token')} more: {', '.join(added[:SHOWN_TOKENS])}"
        else:
            yield f"the store's tokenizer has {mine} tokens, the model's has {other}"
    ours, theirs = stored.probe.get("pieces"), found.probe.get("pieces")
    if all(isinstance(pieces, list) and len(pieces) == len(PROBES) for pieces in (ours, theirs)):
        split = [text for text, one, two in zip(PROBES, ours or (), theirs or (), strict=True) if one != two]
        if split:
            yield f"{len(split)} of {len(PROBES)} probes are split otherwise, the first is {split[0]!r}"


def _by_probe(distance: Distance, other_dtype: bool) -> tuple[Verdict, str]:
    said = (
        f"the likeliest token agrees, ties aside, at {distance.agreeing} of {distance.positions} positions of the probe, "
        f"and log-probabilities differ by up to {distance.furthest:.2g} nats"
    )
    same = distance.agreeing == distance.positions
    if other_dtype and same and distance.furthest <= ROUNDING:
        return Verdict.PRECISION, f"tensors are of another dtype, {said}: as far as a probe can tell they are rounded"
    if distance.agreeing >= SAME_ANSWERS * distance.positions:
        return Verdict.RELATIVE, f"the weights differ, but {said}"
    return Verdict.DIFFERENT, f"the weights differ, and {said}"


def _other_dtype(stored: Identity, found: Identity) -> bool:
    ours, theirs = stored.probe.get("dtypes"), found.probe.get("dtypes")
    return bool(ours and theirs and ours != theirs)
