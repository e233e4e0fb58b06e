"""Words of like meaning, from a frozen LM's own input embeddings: no model but the one at hand."""

from __future__ import annotations

from functools import lru_cache

from torch import Tensor

from memvec.lm import FrozenLM

NEAREST = 16  # tokens looked at
LEAST, MOST = 0.34, 0.9  # cosine of embeddings, from which words are taken to mean alike


class Thesaurus:
    """Near words of words that are one token."""

    def __init__(self, lm: FrozenLM) -> None:
        self.lm = lm
        table = lm.table.float()
        centred = table - table.mean(0)
        self._directions: Tensor = centred / centred.norm(dim=1, keepdim=True).clamp(min=1e-6)
        self.near = lru_cache(4096)(self._near)

    def _near(self, word: str) -> tuple[str, ...]:
        """Other words, in lower case, whose embeddings point the way this word's does; none unless it is one token."""
        ids = self.lm.encode(f" {word}")
        if len(ids) != 1 or not word.isalpha():
            return ()
        found = (self._directions @ self._directions[ids[0]]).topk(NEAREST + 1)
        words: dict[str, None] = {}
        for likeness, token in zip(found.values.tolist(), found.indices.tolist(), strict=True):
            text = self.lm.decode([token])
            other = text[1:].lower()
            if LEAST <= likeness <= MOST and text[:1] == " " and other.isalpha() and len(other) > 2:
                words[other] = None
        words.pop(word.lower(), None)
        return tuple(words)
