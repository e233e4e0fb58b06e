"""Find words of similar meaning by the frozen model's input embeddings."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from memvec.lm.frozen import FrozenLM

NEAREST = 16  # nearest tokens that are considered
CHUNK = 8192  # rows of the embedding table at once
LEAST, MOST = 0.34, 0.9  # cosines of similar words; a higher one means another form of the same word


class Thesaurus:
    """Finds similar words for words that are one token."""

    def __init__(self, lm: FrozenLM) -> None:
        self.lm = lm
        self._middle: Tensor = lm.table.mean(0, dtype=torch.float32)
        # Lengths are taken a chunk at a time, because a float32 copy of a large model's table would take gigabytes.
        parts = [(part.float() - self._middle).norm(dim=1) for part in torch.split(lm.table, CHUNK)]
        self._lengths = torch.cat(parts).clamp(min=1e-6)
        self.near = lru_cache(4096)(self._near)

    def _near(self, word: str) -> tuple[str, ...]:
        """Other words, in lower case, with similar embeddings. Empty if `word` is not one token."""
        ids = self.lm.encode(f" {word}")
        if len(ids) != 1 or not word.isalpha():
            return ()
        own = self.lm.table[ids[0]].float() - self._middle
        along = (self.lm.table @ own.to(self.lm.table.dtype)).float() - self._middle @ own
        cosines = along / (self._lengths * self._lengths[ids[0]])
        found = cosines.topk(min(NEAREST + 1, len(cosines)))
        words: dict[str, None] = {}
        for likeness, token in zip(found.values.tolist(), found.indices.tolist(), strict=True):
            text = self.lm.decode([token])
            other = text[1:].lower()
            if LEAST <= likeness <= MOST and text[:1] == " " and other.isalpha() and len(other) > 2:
                words[other] = None
        words.pop(word.lower(), None)
        return tuple(words)
