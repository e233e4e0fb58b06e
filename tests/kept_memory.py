"""Memories of keys and values, made of texts without a store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from memvec.kv.choose import Budget
from memvec.kv.compact import compact
from memvec.kv.kept import Kept
from memvec.lm.frozen import FrozenLM
from memvec.memory.memory import KeptPart, Memory


def kept_of(
    model: Any, tokenizer: Any, texts: Sequence[str], ratio: float = 1.0, budget: Budget = "head"
) -> list[Kept]:
    lm = FrozenLM(model, tokenizer)
    return [compact(lm, [lm.encode(text)], ratio, budget)[0] for text in texts]


def kept_memory(
    model: Any, tokenizer: Any, owner: Any, text: str, ratio: float = 1.0, budget: Budget = "head", bits: int = 16
) -> Memory:
    """A memory of one text."""
    (kept,) = kept_of(model, tokenizer, [text], ratio, budget)
    return Memory((text[:8],), (), owner, {}, ((KeptPart(kept.tokens, kept.stored(bits)),),))
