"""Measure the savings of a memory against its text: positions, time to the first token, cache bytes and stored bytes.

Letters: D width, N tokens.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from memvec.evaluation.controls import Arm, positions, run_arms, size
from memvec.kv.selection import Selection
from memvec.lm.frozen import FrozenLM
from memvec.lm.scoring import Prefixes, embedded

ROUNDS = 5


@dataclass(frozen=True, slots=True)
class Costs:
    """Means over documents. A query is one question behind the memory, or behind the text."""

    positions_text: float  # of the text
    positions_memory: float
    # Seconds to prefill a query, so to its first token, the median of several rounds. Behind a kv memory that is only the
    # question.
    prefill_text: float
    prefill_memory: float
    cache_text: float  # bytes of keys and values of the text
    cache_memory: float
    stored_text: float  # bytes of the text itself
    stored_memory: float  # bytes of the memory in the store
    write_seconds: float | None  # seconds that making the memory took; None if the store does not say
    place_memory: float | None = None  # seconds to put a kv memory behind the start of prompts, once for all queries

    @property
    def speedup(self) -> float:
        """How many times as long the prefill takes with the text as with the memory."""
        return self.prefill_text / self.prefill_memory

    @property
    def break_even(self) -> float | None:
        """The number of queries after which the saved time exceeds that of making. None if it never does."""
        saved = self.prefill_text - self.prefill_memory
        return self.write_seconds / saved if self.write_seconds is not None and saved > 0 else None


@dataclass(frozen=True, slots=True, eq=False)
class Query:
    """A question behind a memory, and behind its text."""

    before: Sequence[int]  # token ids in front of both
    text: Sequence[int]  # N token ids
    memory: Arm
    question: Sequence[int]
    text_bytes: int = 0
    stored: int = 0  # size of the memory in the store [bytes]


def measure_costs(
    lm: FrozenLM, queries: Sequence[Query], write_seconds: float | None = None, rounds: int = ROUNDS
) -> Costs:
    """Measure the costs of one query of each document, in so many rounds behind one that does not count.

    With no rounds the seconds are nan.
    """
    found = [_medians(lm, query, rounds) if rounds else (math.nan, math.nan, None) for query in queries]
    placing = [seconds for *_, seconds in found if seconds is not None]

    def mean(figure: Callable[[Query], float]) -> float:
        return statistics.mean(map(figure, queries))

    return Costs(
        positions_text=mean(lambda query: len(query.text)),
        positions_memory=mean(lambda query: positions(query.memory)),
        prefill_text=statistics.mean(text for text, _, _ in found),
        prefill_memory=statistics.mean(memory for _, memory, _ in found),
        cache_text=mean(lambda query: len(query.text)) * lm.cache_bytes,
        cache_memory=mean(lambda query: size(query.memory)) * lm.cache_bytes,
        stored_text=mean(lambda query: query.text_bytes),
        stored_memory=mean(lambda query: query.stored),
        write_seconds=write_seconds,
        place_memory=statistics.mean(placing) if placing else None,
    )


def _medians(lm: FrozenLM, query: Query, rounds: int) -> tuple[float, float, float | None]:
    """Median seconds of (the query behind the text, behind the memory, putting a kv memory in its place)."""
    with_text = embedded(lm, [*query.before, *query.text, *query.question])[None]
    ways: list[Callable[[], object]] = [lambda: lm.start(with_text)]
    if isinstance(query.memory, Selection):
        run = run_arms(lm, query.before, [query.memory])
        ways += [
            lambda: _behind(lm, run, query.question),
            lambda: run_arms(lm, query.before, [query.memory]),
        ]
    else:
        before, question = embedded(lm, query.before), embedded(lm, query.question)
        with_memory = torch.cat([before, query.memory.to(before.dtype), question])[None]
        ways.append(lambda: lm.start(with_memory))
    seconds = [[_seconds(lm, way) for way in ways] for _ in range(rounds + 1)][1:]
    text, memory, *placing = (statistics.median(times) for times in zip(*seconds, strict=True))
    return text, memory, placing[0] if placing else None


def _behind(lm: FrozenLM, prefixes: Prefixes, question: Sequence[int]) -> None:
    """Run a question behind a copy of the cache of one row."""
    ids = torch.tensor([list(question)], device=lm.device)
    copied = lm.branch(prefixes.cache, torch.zeros(1, dtype=torch.long, device=lm.device))
    lm.advance(ids, copied, torch.cat([prefixes.held, torch.ones_like(ids)], 1))


def _seconds(lm: FrozenLM, way: Callable[[], object]) -> float:
    begun = time.perf_counter()
    way()
    torch.zeros(1, device=lm.device).item()  # waits for the device
    return time.perf_counter() - begun
