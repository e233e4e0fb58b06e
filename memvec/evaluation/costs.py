"""Measure the savings of a memory against its text: positions, prefill time and cache bytes. Letters: L positions, D width."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from memvec.lm.frozen import FrozenLM

ROUNDS = 5


@dataclass(frozen=True, slots=True)
class Costs:
    """Means over documents. A query is one question behind the memory, or behind the text."""

    positions_text: float  # of the text
    positions_memory: float
    prefill_text: float  # seconds to prefill a query, the median of several rounds
    prefill_memory: float
    cache_text: float  # bytes of keys and values of the text
    cache_memory: float
    write_seconds: float | None  # seconds that distilling took; None if the store does not say

    @property
    def speedup(self) -> float:
        """How many times as long the prefill takes with the text as with the memory."""
        return self.prefill_text / self.prefill_memory

    @property
    def break_even(self) -> float | None:
        """The number of queries after which the saved time exceeds that of distilling. None if it never does."""
        saved = self.prefill_text - self.prefill_memory
        return self.write_seconds / saved if self.write_seconds is not None and saved > 0 else None


def measure_costs(
    lm: FrozenLM, pairs: Sequence[tuple[Tensor, Tensor, Tensor, Tensor]], write_seconds: float | None = None
) -> Costs:
    """Measure the costs of documents, each given as embeddings (L, D) of (before, text, memory, question)."""
    per_position = lm.cache_bytes
    texts, memories = [], []
    for before, text, memory, question in pairs:
        with_text, with_memory = (torch.cat([before, x.to(before.dtype), question])[None] for x in (text, memory))
        rounds = [(_prefill(lm, with_text), _prefill(lm, with_memory)) for _ in range(ROUNDS + 1)][1:]
        texts.append(statistics.median(a for a, _ in rounds))
        memories.append(statistics.median(b for _, b in rounds))
    sizes = [(len(text), len(memory)) for _, text, memory, _ in pairs]
    return Costs(
        positions_text=statistics.mean(n for n, _ in sizes),
        positions_memory=statistics.mean(m for _, m in sizes),
        prefill_text=statistics.mean(texts),
        prefill_memory=statistics.mean(memories),
        cache_text=statistics.mean(n for n, _ in sizes) * per_position,
        cache_memory=statistics.mean(m for _, m in sizes) * per_position,
        write_seconds=write_seconds,
    )


def _prefill(lm: FrozenLM, embeds: Tensor) -> float:
    begun = time.perf_counter()
    logits, _ = lm.start(embeds)
    logits.argmax().item()  # waits for the device
    return time.perf_counter() - begun
