"""The arms of an evaluation, each put in front of a question: the memory, its controls, and the text cut to its size.

An arm is input embeddings, or selected rows of keys and values.
Letters: M vectors or positions, N tokens, D width, L layers, H key/value heads, K rows in all heads.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeAlias

import torch
from torch import Tensor

from memvec.kv.place import placed
from memvec.kv.selection import Selection, sizes
from memvec.lm.frozen import FrozenLM
from memvec.lm.scoring import Prefixes, embedded, run_prefixes

EQUAL_POSITIONS = ("first", "last", "sentences")  # arms of text that are as large as the memory
Arm: TypeAlias = Tensor | Selection  # embeddings (M, D), or rows


def positions(arm: Arm) -> int:
    """M: the question goes on so many positions behind the start of the arm."""
    return arm.positions if isinstance(arm, Selection) else len(arm)


def size(arm: Arm) -> float:
    """The positions of a cache with as many keys: the rows that a head keeps on average."""
    return len(arm.distances) / arm.counts.numel() if isinstance(arm, Selection) else len(arm)


def digest(before: Sequence[int], arm: Arm) -> bytes:
    """A digest of the tokens `before` and an arm. Equal ones stand for equal fronts of a prompt."""
    if isinstance(arm, Selection):
        parts = [arm.counts, arm.distances, arm.keys, arm.values]
        found = hashlib.sha256(repr((list(before), arm.tokens, arm.positions)).encode())
    else:
        parts = [arm]
        found = hashlib.sha256(repr((list(before), arm.dtype)).encode())
    for part in parts:
        found.update(part.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return found.digest()


@torch.inference_mode()
def run_arms(lm: FrozenLM, before: Sequence[int], arms: Sequence[Arm]) -> Prefixes:
    """Put arms, all embeddings or all selected rows, each behind the tokens `before`."""
    rows = [arm for arm in arms if isinstance(arm, Selection)]
    if rows:
        return placed(lm.model, rows, [before] * len(rows))
    start = embedded(lm, before)
    return run_prefixes(lm, [torch.cat([start, arm.to(start.dtype)]) for arm in arms if isinstance(arm, Tensor)])


def text_arms(lm: FrozenLM, text: str, count: int) -> dict[str, Tensor]:
    """Embeddings of the complete text, and of `count` tokens of it: the first, the last, and evenly spaced sentences."""
    ids = lm.encode(text)
    return {
        "text": embedded(lm, ids),
        "first": embedded(lm, ids[:count]),
        "last": embedded(lm, ids[-count:]),
        "sentences": embedded(lm, spaced_sentences(lm, text, count)),
    }


def control_arms(memory: Arm, other: Arm | None, exact: Tensor | None, seed: int) -> dict[str, Arm]:
    """The memory, noise of its size and, if they are given, another document's memory and exact vectors."""
    arms = {"memory": memory, "random": noise(memory, seed)}
    if other is not None:
        arms["shuffled"] = other
    if exact is not None:
        arms["exact"] = exact
    return arms


def together(memories: Sequence[Arm]) -> Arm:
    """Memories of one kind as one arm: vectors one behind another, keys and values side by side."""
    rows = [memory for memory in memories if isinstance(memory, Selection)]
    return Selection.joined(rows) if rows else torch.cat([memory for memory in memories if isinstance(memory, Tensor)])


def noise(memory: Arm, seed: int) -> Arm:
    """Noise in place of vectors, each of the same norm; or in place of keys and values, in each head of the same size."""
    chance = torch.Generator().manual_seed(seed % 2**64)
    if isinstance(memory, Tensor):
        drawn = torch.randn(memory.shape, generator=chance).to(memory.device)
        scaled: Tensor = drawn * memory.norm(dim=1, keepdim=True) / drawn.norm(dim=1, keepdim=True)
        return scaled
    counts = memory.counts.flatten()
    head = torch.arange(len(counts)).repeat_interleave(counts).to(memory.keys.device)  # (K,)
    drawn = torch.randn(2, *memory.keys.shape, generator=chance).to(head.device)
    keys, values = (
        one * sizes(numbers, head, len(counts))
        for one, numbers in zip(drawn, (memory.keys, memory.values), strict=True)
    )
    return replace(memory, keys=keys, values=values)


def spaced_sentences(lm: FrozenLM, text: str, count: int) -> list[int]:
    """Token ids of as many complete sentences as `count` tokens allow, evenly spaced over the text, in order."""
    sentences = [lm.encode(s) for s in re.findall(r"[^.!?]+[.!?]*\s*", text)]
    chosen: list[int] = []
    for number in range(len(sentences), 0, -1):
        step = len(sentences) / number
        chosen = [token for i in range(number) for token in sentences[int((i + 0.5) * step)]]
        if len(chosen) <= count:
            break
    return chosen[:count]
