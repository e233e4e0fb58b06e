"""The gain of a memory, computed from sums of surprisal: shares of the text's gain with intervals. Knows no model."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from memvec.types import Conditioning

T = TypeVar("T")

LEAST_GAIN = 0.1  # a document is left out if its text saves the model less [nats per token]
RESAMPLES = 2000


@dataclass(frozen=True, slots=True)
class Sums:
    """The summed surprisal of one document's answers, for each arm, and the number of their tokens."""

    nats: Mapping[str, float]  # by arm: "none", "text" and others; an arm may be missing
    tokens: int

    @property
    def usable(self) -> bool:
        """Does the text itself help the model? If not, the document has no gain to measure a share of."""
        return self.tokens > 0 and (self.nats["none"] - self.nats["text"]) / self.tokens >= LEAST_GAIN


def share(documents: Sequence[Sums], arm: str) -> float | None:
    """(none − arm) / (none − text), summed over all documents that have the arm. 1 is as good as the text."""
    having = [d for d in documents if arm in d.nats]
    saved = sum(d.nats["none"] - d.nats[arm] for d in having)
    possible = sum(d.nats["none"] - d.nats["text"] for d in having)
    return saved / possible if possible > 0 else None


def reported(
    sums: Sums, aside: Sums, held_out: int, recipe: str, seed: int, controls: Sequence[str] = ()
) -> Conditioning:
    """The report of one memory: `sums` of `held_out` questions, and `aside` of unrelated prompts with text and memory.

    `controls` are arms of text that takes as many positions as the memory.
    """
    of_use = sums.usable
    at_equal_positions = [value for name in controls if of_use and (value := share([sums], name)) is not None]
    return Conditioning(
        gain=share([sums], "memory") if of_use else None,
        shuffled=share([sums], "shuffled") if of_use else None,
        text=max(at_equal_positions, default=None),
        harm=(aside.nats["memory"] - aside.nats["text"]) / aside.tokens,
        nll_none=per_token([sums], "none"),
        nll_text=per_token([sums], "text"),
        nll_memory=per_token([sums], "memory"),
        held_out=held_out,
        recipe=recipe,
        seed=seed,
    )


def interval(documents: Sequence[Sums], arm: str, seed: int = 0, level: float = 0.95) -> tuple[float, float] | None:
    """The interval of `share` by percentile bootstrap over documents. None for fewer than two documents."""
    having = [d for d in documents if arm in d.nats]
    return bootstrap(having, lambda drawn: share(drawn, arm), seed, level)


def ratio_interval(pairs: Sequence[tuple[float, float]]) -> tuple[float, float] | None:
    """The interval of (sum of the first) / (sum of the second), of a pair for each document, as for `interval`."""
    return bootstrap(pairs, _ratio)


def _ratio(pairs: Sequence[tuple[float, float]]) -> float | None:
    whole = sum(second for _, second in pairs)
    return sum(first for first, _ in pairs) / whole if whole else None


def bootstrap(
    documents: Sequence[T], figure: Callable[[Sequence[T]], float | None], seed: int = 0, level: float = 0.95
) -> tuple[float, float] | None:
    """The interval of a figure by percentile bootstrap over documents. None for fewer than two documents."""
    if len(documents) < 2:
        return None
    chance = random.Random(seed)
    draws = (figure(chance.choices(documents, k=len(documents))) for _ in range(RESAMPLES))
    found = sorted(value for value in draws if value is not None)
    if not found:
        return None
    edge = int(len(found) * (1 - level) / 2)
    return found[edge], found[-1 - edge]


def per_token(documents: Sequence[Sums], arm: str) -> float | None:
    """The mean surprisal of the documents that have `arm`, with it in front [nats per token]."""
    having = [d for d in documents if arm in d.nats]
    tokens = sum(d.tokens for d in having)
    return sum(d.nats[arm] for d in having) / tokens if tokens else None
