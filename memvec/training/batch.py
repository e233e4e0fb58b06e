"""Segments that are fitted together: their vectors, and one step of all of them.

Letters: B slots, M vectors, D width, N tokens, T targets of all rows. R = ΣM rows of vectors, in order of the slots.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, cast

import numpy as np
import torch
from torch import Tensor

from memvec.lm.frozen import FrozenLM
from memvec.lm.head import head_pass
from memvec.settings import PackSettings
from memvec.training.adam import SlotAdam
from memvec.training.layout import Layout, lay_out
from memvec.training.units import with_rates
from memvec.types import Vectors

MOMENTUM = 0.8  # Adam's first beta
# Margins are measured in the fit's dtype, and bfloat16 logits come in steps of 1/8. So a fit asks for a larger margin.
MARGIN_RESERVE = 0.2


@dataclass(frozen=True, slots=True)
class Score:
    """The number of tokens of a text that a slot's vectors miss."""

    wrong: int  # tokens that come out wrong
    thin: int  # tokens that come out wrong or under margin
    whole: bool  # was the whole text measured?

    @classmethod
    def unmeasured(cls, tokens: int) -> Score:
        """The score of a slot whose whole text of N = `tokens` was never measured: it misses every token."""
        return cls(tokens, tokens, False)


class Batch(Protocol):
    """The slots of a fit engine. They are numbered in the order in which they were added."""

    lengths: list[int]  # positions of each slot in the last step, padding included

    def room(self, slots: int, length: int) -> int:
        """Positions of `slots` slots of `length` positions each, padding included."""

    def reserve(self, texts: Sequence[tuple[int, int]]) -> None:
        """Make room for slots of (N, M). The present ones come first."""

    def add(self, ids: Sequence[int], start: Tensor, fixed: int) -> None:
        """Add a slot of N tokens that starts from vectors (M, D) float32. The first `fixed` of them are not trained."""

    def step(self, shown: Sequence[int]) -> list[Score]:
        """Measure each slot on the first `shown` tokens of its text, then take a step. The scores are from before the step.

        A slot that shows its complete text stores the measured vectors if they are its best so far.
        """

    def take(self, over: Sequence[bool]) -> list[tuple[Vectors, Score]]:
        """Remove the slots that are over. Return their best vectors (M, D) float16, each with its score on the whole text."""


def rates(age: Tensor, settings: PackSettings) -> Tensor:
    """The learning rates of rows at ages [steps]: a warm-up, times a decay that starts at the first step."""
    warm = (age / max(1, settings.warmup)).clamp(max=1)
    way = (age / settings.cooling).clamp(max=1)
    cooled = settings.last_rate**way if settings.geometric else 1 - (1 - settings.last_rate) * way
    return cast(float, settings.learning_rate) * warm * cooled  # the batch has set it


def missed(margin: Tensor, settings: PackSettings) -> Tensor:
    """(…, 2) float: is a target with this margin (…) wrong, and is it wrong or under margin? NaN is both."""
    return torch.stack([~(margin > least) for least in (0.0, settings.margin + MARGIN_RESERVE)], -1).float()


def fewer(counts: Tensor, least: Tensor, measured: Tensor, strict: bool) -> Tensor:
    """(B,) bool: are counts (B, 2) of `missed` targets better than the least so far, of slots `measured` (B,) before?

    With `strict`, counts without a wrong target are better than counts with one.
    """
    thinner = counts[:, 1] < least[:, 1]
    if strict:
        wrong, before = counts[:, 0] > 0, least[:, 0] > 0
        thinner = (~wrong & before) | ((wrong == before) & thinner)
    return thinner | ~measured


def scores(counts: Tensor, whole: Sequence[bool]) -> list[Score]:
    """The scores of counts (B, 2)."""
    return [Score(int(wrong), int(thin), all_of) for (wrong, thin), all_of in zip(counts.tolist(), whole, strict=True)]


class RaggedBatch:
    """Slots in passes of similar length. The batch is laid out again whenever a slot comes, goes or grows."""

    def __init__(self, lm: FrozenLM, settings: PackSettings) -> None:
        self.lm, self.settings = lm, with_rates(settings, lm)
        self.lengths: list[int] = []
        self._texts: list[Sequence[int]] = []
        self._sizes: list[int] = []  # M of each slot
        self._adam = SlotAdam(lm.width, lm.device, MOMENTUM)
        self._best = self._adam.vectors.half()  # (R, D) float16, as they would be stored
        self._fewest = self._adam.vectors.new_zeros(0, 2)  # (B, 2) targets that they miss
        self._measured = torch.zeros(0, dtype=torch.bool, device=lm.device)  # (B,) was the whole text measured?
        self._layout: Layout | None = None

    def room(self, slots: int, length: int) -> int:
        """See Batch. An upper bound, as if all slots had the same length."""
        return slots * length

    def reserve(self, texts: Sequence[tuple[int, int]]) -> None:
        """See Batch. There is nothing to do: slots are laid out in `step`."""

    def add(self, ids: Sequence[int], start: Tensor, fixed: int) -> None:
        """See Batch."""
        self._texts.append(ids)
        self._sizes.append(len(start))
        self._adam.extend(start, fixed)
        self._best = torch.cat([self._best, start.half()])
        self._fewest = torch.cat([self._fewest, self._fewest.new_zeros(1, 2)])
        self._measured = torch.cat([self._measured, self._measured.new_zeros(1)])
        self._layout = None

    def step(self, shown: Sequence[int]) -> list[Score]:
        """See Batch."""
        layout = self._laid_out(shown)
        vectors = self._adam.vectors.half().to(self.lm.dtype).requires_grad_(True)  # as they would be stored
        hidden = layout.hidden(self.lm, vectors)
        passed = head_pass(hidden.detach(), self.lm.head, layout.targets)
        counts = self._counts(passed.margin, layout.owner)
        whole = [n == len(ids) for n, ids in zip(shown, self._texts, strict=True)]
        now = torch.tensor(whole, device=counts.device)
        better = fewer(counts, self._fewest, self._measured, self.settings.strict) & now
        self._fewest = torch.where(better[:, None], counts, self._fewest)
        self._measured = self._measured | now
        self._best = torch.where(better[layout.slot_of_row, None], vectors.detach().half(), self._best)
        (gradient,) = torch.autograd.grad(hidden, vectors, passed.gradient)  # rows of different slots do not touch
        self._adam.age += 1
        self._adam.descend(
            gradient.float(), rates(self._adam.age, self.settings), cast(float, self.settings.weight_decay)
        )
        return scores(counts, whole)

    def _laid_out(self, shown: Sequence[int]) -> Layout:
        if self._layout is None or self._layout.shown != list(shown):
            texts = [ids[:n] for ids, n in zip(self._texts, shown, strict=True)]
            self._layout = lay_out(self.lm, texts, self._sizes)
            self.lengths = self._layout.lengths
        return self._layout

    def _counts(self, margin: Tensor, owner: Tensor) -> Tensor:
        """(B, 2): how many targets each slot misses."""
        return margin.new_zeros(len(self._texts), 2).index_add_(0, owner, missed(margin, self.settings))

    def take(self, over: Sequence[bool]) -> list[tuple[Vectors, Score]]:
        """See Batch."""
        pieces, known = torch.split(self._best.cpu(), self._sizes), scores(self._fewest, self._measured.tolist())
        out = [
            (np.ascontiguousarray(piece.numpy()), score if score.whole else Score.unmeasured(len(ids)))
            for piece, score, ids, gone in zip(pieces, known, self._texts, over, strict=True)
            if gone
        ]
        stay = torch.tensor([not gone for gone in over], device=self.lm.device)
        rows = stay.repeat_interleave(torch.tensor(self._sizes, device=self.lm.device))
        self._adam.keep(rows)
        self._best, self._fewest, self._measured = self._best[rows], self._fewest[stay], self._measured[stay]
        self._texts = [ids for ids, gone in zip(self._texts, over, strict=True) if not gone]
        self._sizes = [size for size, gone in zip(self._sizes, over, strict=True) if not gone]
        self._layout = None
        return out
