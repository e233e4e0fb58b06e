"""What a memory saves in serving, measured: positions, prefill time and cache bytes against the text. Letters: B, L, D."""

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
    """Means over documents; a query is the memory or the text with one question behind it."""

    positions_text: float  # the text's own
    positions_memory: float
    prefill_text: float  # of a query [s], median of interleaved rounds
    prefill_memory: float
    cache_text: float  # keys and values of the text's positions [bytes]
    cache_memory: float
    write_seconds: float | None  # what distilling took [s]; None where the store does not say

    @property
    def speedup(self) -> float:
        """Prefill with the text to prefill with the memory."""
        return self.prefill_text / self.prefill_memory

    @property
    def break_even(self) -> float | None:
        """Queries after which the prefill saved has paid for distilling; None when it never does."""
        saved = self.prefill_text - self.prefill_memory
        return self.write_seconds / saved if self.write_seconds is not None and saved > 0 else None


def measure_costs(
    lm: FrozenLM, pairs: Sequence[tuple[Tensor, Tensor, Tensor, Tensor]], write_seconds: float | None = None
) -> Costs:
    """Costs over (before, text, memory, question) embeddings (L, D) of some documents, run in turn."""
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
