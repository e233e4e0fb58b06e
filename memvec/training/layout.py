"""Lay out the texts of a batch. Texts of similar length share a pass, because padding costs as much as text.

A row is [v_1 … v_M, t_1 … t_{N-1}] with padding on the right, which a causal model never sees. Position M-1+i predicts
t_{i+1}, so the first token comes from the vectors too. Letters: B slots, M vectors, N tokens, D width, L positions of a
row. R = ΣM rows of vectors, T = ΣN targets.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from memvec.lm.frozen import FrozenLM
from memvec.lm.scoring import alike, pass_cost


@dataclass(frozen=True, slots=True)
class Pass:
    """Slots that are run together: b slots of L positions, r rows of vectors, t targets."""

    base: Tensor  # (b·L, D) token embeddings; 0 at vectors and padding
    rows: Tensor  # (r,) their rows among all vectors
    places: Tensor  # (r,) the positions of these rows in the base
    outputs: Tensor  # (t,) positions that predict
    length: int  # L


@dataclass(frozen=True, slots=True)
class Layout:
    """The passes of a batch, and its targets in order of the passes."""

    passes: list[Pass]
    targets: Tensor  # (T,) tokens to predict
    owner: Tensor  # (T,) slot of each target
    slot_of_row: Tensor  # (R,)
    lengths: list[int]  # L of each slot's pass
    shown: list[int]  # N of each slot

    @property
    def positions(self) -> int:
        """Token positions of all passes, padding included."""
        return sum(self.lengths)

    def hidden(self, lm: FrozenLM, vectors: Tensor) -> Tensor:
        """Hidden states (T, D) that predict the targets behind vectors (R, D). Differentiable."""
        return torch.cat([_hidden(lm, one, vectors) for one in self.passes])


def lay_out(lm: FrozenLM, texts: Sequence[Sequence[int]], vectors: Sequence[int]) -> Layout:
    """Lay out `texts`, each of N ids behind M vectors. The vectors are filled in at each step."""
    ends = list(accumulate(vectors))
    sizes = [row_length(len(ids), m) for ids, m in zip(texts, vectors, strict=True)]
    groups = alike(sizes, pass_cost(lm))
    slots = [slot for group in groups for slot in group]  # in the order of their targets
    lengths = [0] * len(texts)
    for group in groups:
        for slot in group:
            lengths[slot] = max(sizes[other] for other in group)

    def index(values: Iterable[int]) -> Tensor:
        return torch.tensor(list(values), dtype=torch.long, device=lm.device)

    def laid(group: Sequence[int]) -> Pass:
        length = lengths[group[0]]
        read: list[int] = []  # tokens
        spots: list[int] = []  # their positions in the base
        rows: list[int] = []
        places: list[int] = []
        outputs: list[int] = []
        for at, slot in enumerate(group):
            m, n, begin = vectors[slot], len(texts[slot]), at * length
            read += texts[slot][:-1]
            spots += range(begin + m, begin + m + n - 1)
            rows += range(ends[slot] - m, ends[slot])
            places += range(begin, begin + m)
            outputs += range(begin + m - 1, begin + m - 1 + n)
        base = torch.zeros(len(group) * length, lm.width, dtype=lm.dtype, device=lm.device)
        base.index_copy_(0, index(spots), lm.embed(index(read)))
        return Pass(base, index(rows), index(places), index(outputs), length)

    return Layout(
        [laid(group) for group in groups],
        targets=index(token for slot in slots for token in texts[slot]),
        owner=index(slot for slot in slots for _ in texts[slot]),
        slot_of_row=index(slot for slot, m in enumerate(vectors) for _ in range(m)),
        lengths=lengths,
        shown=[len(ids) for ids in texts],
    )


def row_length(tokens: int, vectors: int) -> int:
    """The length L of a row. Its last token is predicted and not read."""
    return vectors + tokens - 1


def _hidden(lm: FrozenLM, one: Pass, vectors: Tensor) -> Tensor:
    embeds = one.base.index_copy(0, one.places, vectors.index_select(0, one.rows))
    return lm.hidden(embeds.view(-1, one.length, lm.width)).flatten(0, 1).index_select(0, one.outputs)
