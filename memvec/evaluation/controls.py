"""The arms of an evaluation, each put in front of a question: the memory, its controls, and the text cut to its length.

Letters: M vectors, N tokens, D width.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor

from memvec.lm.frozen import FrozenLM
from memvec.lm.scoring import embedded

EQUAL_POSITIONS = ("first", "last", "sentences")  # arms of text that take as many positions as the memory


def text_arms(lm: FrozenLM, text: str, positions: int) -> dict[str, Tensor]:
    """Embeddings of the complete text, and of M positions of it: the first, the last, and evenly spaced sentences."""
    ids = lm.encode(text)
    return {
        "text": embedded(lm, ids),
        "first": embedded(lm, ids[:positions]),
        "last": embedded(lm, ids[-positions:]),
        "sentences": embedded(lm, spaced_sentences(lm, text, positions)),
    }


def control_arms(
    lm: FrozenLM, memory: Tensor, other: Tensor | None, exact: Tensor | None, seed: int
) -> dict[str, Tensor]:
    """The memory (M, D), noise of the same norms and, if they are given, another document's memory and exact vectors."""
    noise = torch.randn(memory.shape, generator=torch.Generator().manual_seed(seed % 2**64)).to(memory.device)
    arms = {"memory": memory, "random": noise / noise.norm(dim=1, keepdim=True) * memory.norm(dim=1, keepdim=True)}
    if other is not None:
        arms["shuffled"] = other
    if exact is not None:
        arms["exact"] = exact
    return arms


def spaced_sentences(lm: FrozenLM, text: str, positions: int) -> list[int]:
    """Token ids of as many complete sentences as `positions` allow, evenly spaced over the text, in order."""
    sentences = [lm.encode(s) for s in re.findall(r"[^.!?]+[.!?]*\s*", text)]
    chosen: list[int] = []
    for count in range(len(sentences), 0, -1):
        step = len(sentences) / count
        chosen = [token for i in range(count) for token in sentences[int((i + 0.5) * step)]]
        if len(chosen) <= positions:
            break
    return chosen[:positions]
