"""Decode on a GPU with a cache of fixed size. A step is one CUDA graph: launching kernels takes longer than running them.

Letters: B rows, M vectors, D width, N tokens, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from memvec.lm.frozen import FrozenLM
from memvec.lm.fused import captured

LEAST_STEPS = 3  # for so few steps a graph does not pay


class StaticDecode:
    """Decodes rows together, to the length of the longest. `logits` (B, V) belong to the next token."""

    def __init__(self, lm: FrozenLM, vectors: Tensor, tokens: int, cache: Any) -> None:
        """Read vectors (B, M, D). `cache` has room for them and for N = `tokens` more positions."""
        self.lm, self.cache = lm, cache
        self.logits, _ = lm.start(vectors, cache)
        self._ids = torch.zeros(len(vectors), dtype=torch.long, device=lm.device)
        self._place = torch.full((1, 1), vectors.shape[1], dtype=torch.long, device=lm.device)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._worth = tokens > LEAST_STEPS

    @torch.inference_mode()
    def advance(self, ids: Tensor) -> None:
        """Read one more token for each row (B,)."""
        self._ids.copy_(ids)
        if self._graph is None:
            self.logits = self._compute()
            if self._worth and self.lm.graphs:
                self._graph = captured(self.lm, self._capture)
        else:
            self._graph.replay()
            self.logits = self._next

    def _capture(self) -> None:
        self._next = self._compute()

    def _compute(self) -> Tensor:
        logits, _ = self.lm.advance(self._ids, self.cache, place=self._place)
        self._place += 1
        return logits


def static_cache(lm: FrozenLM, positions: int) -> Any | None:
    """An empty cache for so many positions; None if transformers has no such cache that a graph can write to."""
    from transformers import StaticCache
    from transformers.cache_utils import StaticLayer

    if lm.recurrent:
        return None
    cache = StaticCache(config=lm.model.config, max_cache_len=positions)
    # Other layers, and those of older versions, count their positions in Python, which a graph does not see.
    plain = all(type(layer) is StaticLayer and hasattr(layer, "cumulative_length") for layer in cache.layers)
    return cache if plain else None
