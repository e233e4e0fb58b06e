"""The figures of a capacity measurement, and their means. Letters: M vectors, D width, V vocabulary."""

from __future__ import annotations

import statistics
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Stage:
    """The result of fitting one beginning, and the work on its text so far."""

    tokens: int  # in the beginning
    wrong: int  # tokens of these, as the fit measured
    steps: int
    token_steps: int


@dataclass(frozen=True, slots=True)
class Held:
    """The part of one text that M vectors held."""

    source: str
    vectors: int  # M, those that were trained
    tokens: int  # in the longest beginning that decodes exactly, free-running, with its corrections
    corrected: int  # tokens of these that come from corrections
    alone: int  # tokens in the longest beginning that decodes exactly without any correction
    published: int  # as the paper counts: the first token is given, the true text is fed back, 1 % may be wrong
    gain: int  # tokens predicted rightly with the vectors minus those without, the true text fed back
    bits: float  # surprisal of the beginning that the vectors remove
    nats_before: float  # surprisal of the beginning without vectors [nats]
    nats_after: float  # the same with the vectors [nats]
    steps: int  # optimiser steps of the fit that went on
    token_steps: int  # of all starts, as are the seconds
    seconds: float
    exhausted: bool  # the vectors held the complete text, and may hold a longer one
    stages: tuple[Stage, ...] = ()  # of the fit that went on, in order
    others: tuple[Stage, ...] = ()  # of the starts that did not go on


@dataclass(frozen=True, slots=True)
class Capacity:
    """The complete measurement; `held` has one entry for each text and number of vectors."""

    model: str
    anchored: bool  # the vectors stood behind the embedding of the model's BOS token
    width: int
    vocabulary: int
    bound: float  # most tokens that the bits of one vector can encode: D·16 / log2 V
    held: tuple[Held, ...]
    finished: bool = True  # False after Ctrl-C: the last number of vectors may have had too few steps


@dataclass(frozen=True, slots=True)
class Summary:
    """Means over the texts of one source for one number of vectors."""

    source: str
    vectors: int
    texts: int
    tokens: float
    tokens_spread: float  # standard deviation over texts
    alone: float
    published: float
    gain: float
    bits: float
    bits_spread: float
    utilisation: float  # gain as a share of the bound [0..1]
    scaling: float | None  # tokens / (M · tokens of one vector); None if one vector was not measured
    exhausted: int  # texts that the vectors held completely


def summaries(found: Capacity) -> list[Summary]:
    """The means of each source and number of vectors, in the order of the measurement."""
    out: list[Summary] = []
    groups: dict[tuple[str, int], list[Held]] = {}
    for held in found.held:
        groups.setdefault((held.source, held.vectors), []).append(held)
    means = {key: statistics.mean(h.tokens for h in rows) for key, rows in groups.items()}
    for (source, vectors), rows in groups.items():
        tokens, bits, gain = ([float(getattr(h, name)) for h in rows] for name in ("tokens", "bits", "gain"))
        mean, one = means[source, vectors], means.get((source, 1))
        out.append(
            Summary(
                source,
                vectors,
                len(rows),
                tokens=mean,
                tokens_spread=statistics.pstdev(tokens),
                alone=statistics.mean(h.alone for h in rows),
                published=statistics.mean(h.published for h in rows),
                gain=statistics.mean(gain),
                bits=statistics.mean(bits),
                bits_spread=statistics.pstdev(bits),
                utilisation=statistics.mean(gain) / (found.bound * vectors),
                scaling=mean / (one * vectors) if one else None,
                exhausted=sum(h.exhausted for h in rows),
            )
        )
    return out
