"""Segments that are fitted together on a GPU. Shapes stay the same, so that a step is one CUDA graph.

A step of a small batch has thousands of kernels, and launching them one by one takes longer than running them. So rows
are padded to one length, each slot stays in its row, and a free row takes the next slot. Position M-1+i of a row predicts
its token i+1, as in `layout`. Letters: B rows, L positions, W vectors of the row with the most, M of one row, D width,
N tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
from torch import Tensor

from memvec.causes import out_of_memory
from memvec.lm import attention
from memvec.lm.frozen import FrozenLM
from memvec.lm.fused import captured
from memvec.lm.head import head_pass
from memvec.settings import PackSettings
from memvec.training.adam import SlotAdam
from memvec.training.batch import MOMENTUM, Score, fewer, missed, rates, scores
from memvec.training.layout import row_length
from memvec.training.units import with_rates
from memvec.types import Vectors

LENGTHS = 8  # the length of rows is a multiple of this
SPARE = 0.6  # a batch is made smaller when less than this share of its rows is needed


class StaticBatch:
    """B rows of L positions, each with a slot or empty. `reserve` makes them. On a CPU the same code runs without a graph."""

    def __init__(self, lm: FrozenLM, settings: PackSettings) -> None:
        self.lm, self.settings = lm, with_rates(settings, lm)
        self.lengths: list[int] = []
        self._texts: list[Sequence[int]] = []
        self._sizes: list[int] = []  # M of each slot
        self._rows: list[int] = []  # the row of each slot
        self._free: list[int] = []
        self._allocate(0, 0, 0)

    def _allocate(self, rows: int, length: int, vectors: int) -> None:
        device, width = self.lm.device, self.lm.width
        self.shape = rows, length, vectors
        self._base = torch.zeros(rows, length, width, dtype=self.lm.dtype, device=device)  # embeddings of tokens
        self._targets = torch.zeros(rows, length, dtype=torch.long, device=device)
        self._count = torch.zeros(rows, 1, dtype=torch.long, device=device)  # M of each row, 0 of empty ones
        self._shown = torch.zeros(rows, 1, dtype=torch.long, device=device)  # tokens of each row that are measured
        self._whole = torch.zeros(rows, dtype=torch.bool, device=device)
        self._adam = SlotAdam(width, device, MOMENTUM)
        self._adam.extend(torch.zeros(rows * vectors, width, device=device), fixed=rows * vectors)
        self._best = torch.zeros(rows, vectors, width, dtype=torch.half, device=device)
        self._fewest = torch.zeros(rows, 2, device=device)  # targets that the best vectors miss
        self._measured = torch.zeros(rows, dtype=torch.bool, device=device)  # was the whole text measured?
        self._counts = torch.zeros(rows, 2, device=device)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._ran: bool | None = None  # was the last step of these shapes compiled? None: there was none
        self._masks: list[bool] = []  # which masks of that step were None
        self._free = list(range(rows))[::-1]

    def room(self, slots: int, length: int) -> int:
        """See Batch."""
        return roomy(slots) * even(length)

    def reserve(self, texts: Sequence[tuple[int, int]]) -> None:
        """See Batch. The number of rows changes in large steps, because each shape has a graph of its own."""
        rows, length, vectors = self.shape
        wanted = roomy(len(texts))
        longest, most = even(max(row_length(n, m) for n, m in texts)), max(m for _, m in texts)
        if rows >= wanted >= SPARE * rows and length >= longest and vectors >= most:
            return
        names = ("_base", "_targets", "_count", "_shown", "_whole", "_best", "_fewest", "_measured")
        before, adam = {name: getattr(self, name) for name in names}, self._adam
        live = torch.tensor(self._rows, dtype=torch.long, device=self.lm.device)
        self._allocate(wanted, longest, most)
        n, shared = len(self._rows), min(vectors, most)
        self._rows, self._free = list(range(n)), list(range(n, wanted))[::-1]
        if not n:
            return
        for name, old in before.items():
            new, moved = getattr(self, name), old[live]
            inside = tuple(slice(min(sizes)) for sizes in zip(moved.shape, new.shape, strict=True))
            new[inside] = moved[inside]
        for name in SlotAdam.STATES:
            moved = getattr(adam, name).view(rows, vectors, -1)[live, :shared]
            getattr(self._adam, name).view(wanted, most, -1)[:n, :shared] = moved

    def add(self, ids: Sequence[int], start: Tensor, fixed: int) -> None:
        """See Batch."""
        row, m = self._free.pop(), len(start)
        tokens = torch.tensor(ids, device=self.lm.device)
        self._base[row].zero_()
        self._base[row, m : m + len(ids) - 1] = self.lm.embed(tokens[:-1])
        self._targets[row, m - 1 : m - 1 + len(ids)] = tokens
        self._count[row], self._measured[row] = m, False
        self._best[row, :m] = start.half()
        vectors = self.shape[2]
        self._adam.moves[row * vectors : (row + 1) * vectors] = 0
        self._adam.moves[row * vectors + fixed : row * vectors + m] = 1
        self._texts.append(ids)
        self._sizes.append(m)
        self._rows.append(row)
        self._adam.restart(slice(row * vectors, row * vectors + m), start)

    def step(self, shown: Sequence[int]) -> list[Score]:
        """See Batch."""
        rows, length, _ = self.shape
        seen, whole = [0] * rows, [False] * rows
        for row, n, ids in zip(self._rows, shown, self._texts, strict=True):
            seen[row], whole[row] = n, n == len(ids)
        self._shown.copy_(torch.tensor(seen)[:, None])
        self._whole.copy_(torch.tensor(whole))
        self.lengths = [length] * len(self._rows)
        self._run()
        known = scores(self._counts, whole)
        return [known[row] for row in self._rows]

    def _run(self) -> None:
        """Take a step. The first of a shape runs kernel by kernel and allocates memory for the graph of later ones."""
        fused = self.lm.fused
        if self._ran is not fused.ready:
            self._graph = None
            try:
                self._compute()
            except RuntimeError as error:  # torch.compile needs a C compiler and Triton, and does not know every model
                if not fused.ready or out_of_memory(error):
                    raise
                fused.give_up(error)
                self._compute()  # any other error is raised again here
            self._ran = fused.ready
        else:
            if self._graph is None and self.lm.graphs:
                self._graph = captured(self.lm, lambda: self._compute(capturing=True))
            (self._graph.replay if self._graph else self._compute)()
        fused.ran(self.shape[0] * self.shape[1])

    def _compute(self, capturing: bool = False) -> None:
        lm, (rows, length, vectors) = self.lm, self.shape
        place = torch.arange(length, device=lm.device)  # (L,)
        live = (place >= self._count - 1) & (place < self._count - 1 + self._shown) & (self._count > 0)  # (B, L)
        stored = self._adam.vectors.half()  # as they would be
        own = stored.to(lm.dtype).requires_grad_(True)  # (B·W, D)
        padded = torch.nn.functional.pad(own.view(rows, vectors, -1), (0, 0, 0, length - vectors))
        with attention.plain_masks(self._masks, capturing), lm.fused.layers():
            hidden = lm.hidden(torch.where((place < self._count)[:, :, None], padded, self._base)).flatten(0, 1)
        passed = head_pass(hidden.detach(), lm.head, self._targets.flatten(), weigh=lm.fused.weigh)
        counts = (missed(passed.margin.view(rows, length), self.settings) * live[:, :, None]).sum(1)
        better = fewer(counts, self._fewest, self._measured, self.settings.strict) & self._whole
        self._fewest.copy_(torch.where(better[:, None], counts, self._fewest))
        self._measured.logical_or_(self._whole)
        self._best.copy_(torch.where(better[:, None, None], stored.view_as(self._best), self._best))
        self._counts.copy_(counts)
        upstream = passed.gradient.masked_fill_(~live.flatten()[:, None], 0)
        (gradient,) = torch.autograd.grad(hidden, own, upstream)
        self._adam.age += 1
        self._adam.descend(
            gradient.float(), rates(self._adam.age, self.settings), cast(float, self.settings.weight_decay)
        )

    def take(self, over: Sequence[bool]) -> list[tuple[Vectors, Score]]:
        """See Batch."""
        gone = [slot for slot, done in enumerate(over) if done]
        rows = torch.tensor([self._rows[slot] for slot in gone], dtype=torch.long, device=self.lm.device)
        best, known = self._best[rows].cpu().numpy(), scores(self._fewest[rows], self._measured[rows].tolist())
        out = [
            (
                np.ascontiguousarray(one[: self._sizes[slot]]),
                score if score.whole else Score.unmeasured(len(self._texts[slot])),
            )
            for slot, one, score in zip(gone, best, known, strict=True)
        ]
        self._count[rows] = 0
        self._free += [self._rows[slot] for slot in gone]
        for name in ("_texts", "_sizes", "_rows"):
            setattr(self, name, [value for value, done in zip(getattr(self, name), over, strict=True) if not done])
        return out


def even(length: int) -> int:
    """The length of rows that hold `length` positions."""
    return -(-length // LENGTHS) * LENGTHS


def roomy(slots: int) -> int:
    """Rows for `slots` slots: the next multiple of an eighth to a quarter of them."""
    step = max(1, 1 << max(0, slots.bit_length() - 3))
    return -(-slots // step) * step
