"""What vectors held, as it was measured, and its means. Letters: M vectors, D width, V vocabulary."""

from __future__ import annotations

import statistics
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Stage:
    """How the fit of one beginning ended, and what its text had cost by then."""

    tokens: int  # of the beginning
    wrong: int  # of these, as the fit saw it
    steps: int
    token_steps: int


@dataclass(frozen=True, slots=True)
class Held:
    """What M vectors held of one text."""

    source: str
    vectors: int  # that were trained
    tokens: int  # of the longest beginning that decodes exactly, free-running, its corrections put in
    corrected: int  # of these
    alone: int  # of the longest beginning that decodes exactly with no correction at all, its first token included
    published: int  # the same with the first token given, the true text fed back and 1 % of it wrong
    gain: int  # tokens that come right from the vectors, less those right without, the text fed back
    bits: float  # surprisal of the beginning that the vectors take away
    nats_before: float  # of the beginning, nothing in front [nats]
    nats_after: float  # the same with the vectors in front [nats]
    steps: int  # of the fit that went on
    token_steps: int  # of all starts, as the seconds
    seconds: float
    exhausted: bool  # the whole text was held: there was no more of it, so more might fit
    stages: tuple[Stage, ...] = ()  # the beginnings that the fit which went on was of, in their order
    others: tuple[Stage, ...] = ()  # the first beginnings of starts that did not go on


@dataclass(frozen=True, slots=True)
class Capacity:
    """The whole measurement; `held` has one entry for each text and number of vectors."""

    model: str
    anchored: bool  # behind the embedding of the model's BOS token, which is not trained
    width: int
    vocabulary: int
    bound: float  # tokens that one vector's bits could tell apart: D·16 / log2 V
    held: tuple[Held, ...]
    finished: bool = True  # False: stopped by Ctrl-C; the last number of vectors may have had fewer steps than asked


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
    scaling: float | None  # tokens, as a share of M times what one vector holds; None where that was not measured
    exhausted: int  # texts that were held whole


def summaries(found: Capacity) -> list[Summary]:
    """The table of a measurement, in its order."""
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
