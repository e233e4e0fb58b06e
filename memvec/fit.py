"""The fit engine: many segments' vectors optimised at once; a solved slot retires and the next segment takes its place.

Letters: B slots, M vectors, D width, N tokens, T targets of all rows, R = ΣM. The first of M is the anchor, the embedding of BOS:
a model's first position is its attention sink and can carry little. Recipe: AdamW as Kuratov et al. 2025, but
with a first beta of .8 instead of .9, a learning rate of 5 instead of .01, cooled to 1 in 60 steps, from the best of six
starts 20 times as large; a fit begins with the first part of its text, which grows to the whole in 24 steps, and begins
anew, once, if by half of these it has got nowhere (docs/LOG.md has the comparison).
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from memvec.adam import SlotAdam
from memvec.layout import Layout, lay_out
from memvec.lm import FrozenLM
from memvec.objective import head_pass
from memvec.settings import PackSettings
from memvec.starts import TEXTS_AT_ONCE, draw, look_cost, ranked, scale_of
from memvec.types import Vectors

MOST_SLOTS = 16  # on a CPU more rows make a step longer, not cheaper
MOST_SLOTS_GPU = 512
# Margins are measured in the fit's dtype, where bfloat16 logits come in steps of 1/8: ask for more than certifying does.
MARGIN_RESERVE = 0.2
MOMENTUM = 0.8  # Adam's first beta
FIRST_SHARE = 0.3  # of a text that a fit begins with
LEAST_SHOWN = 8  # tokens
GROW_EVERY = 4  # steps between which it grows; a batch is laid out anew each time
LOST = 0.7  # share of what is shown that is wrong, halfway through the growth, in a fit that begins anew
NEVER = float(1 << 20)  # a score worse than any


@dataclass(slots=True)
class Task:
    """A segment waiting for its vectors, and what earlier attempts cost."""

    key: int  # the caller's name for it
    ids: tuple[int, ...]  # N tokens
    vectors: int  # M
    attempt: int = 0
    start: Tensor | None = None  # (M, D) float32 to begin with; None: noise that depends on the segment alone
    most: int | None = None  # steps of this attempt; None: those of the settings
    steps: int = 0
    token_steps: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Fitted:
    """A task whose fit ended: the best vectors it had, already rounded to storage."""

    task: Task
    vectors: Vectors  # (M, D) float16
    corrections: int  # positions wrong or under margin, as the fit measured them


@dataclass(slots=True)
class _Best:
    """The best vectors each slot has had. R = ΣM rows, in order of the slots."""

    vectors: Tensor  # (R, D) float16, as they would be stored
    fewest: Tensor  # (B,) their score


@dataclass(slots=True)
class _Slot:
    """A task being fitted."""

    task: Task
    starts: list[Tensor]  # (M, D) float32 that it may still begin from
    left: int  # steps that may still be taken
    age: int = 0  # steps since its start

    def shown(self, grown: int) -> int:
        """Tokens of its text that it has at its age; all where it goes on from vectors of its own."""
        n = len(self.task.ids)
        return n if self.task.start is not None else _shown(n, self.age, grown)


class FitEngine:
    """A queue of tasks and the slots they are fitted in. Feed it with `add`, drain it with `run`."""

    def __init__(self, lm: FrozenLM, settings: PackSettings) -> None:
        self.lm, self.settings = lm, settings
        self.queue: deque[Task] = deque()
        self.slots: list[_Slot] = []
        self.positions = positions_for(lm, settings.memory)
        self.most = MOST_SLOTS if lm.device.type == "cpu" else MOST_SLOTS_GPU
        self.grown = min(settings.growth, settings.max_steps // 2)
        self._scale = scale_of(lm)
        self._adam = SlotAdam(lm.width, lm.device, MOMENTUM)
        self._best = _Best(self._adam.vectors.half(), self._adam.vectors.new_zeros(0))

    def add(self, tasks: Iterable[Task]) -> None:
        """Put tasks at the end of the queue; also while `run` is being drained."""
        self.queue.extend(tasks)

    def run(self, tick: Callable[[int], None] = lambda token_steps: None) -> Iterator[list[Fitted]]:
        """Fit until the queue is empty, giving tasks back as soon as they are solved or out of steps.

        `tick` is called after every step with the token positions it ran, and with those that finding starts took.
        """
        layout: Layout | None = None
        while self.queue or self.slots:
            if looked := self._refill():
                tick(looked)
            shown = [slot.shown(self.grown) for slot in self.slots]
            if layout is None or layout.shown != shown:
                tasks = [slot.task for slot in self.slots]
                texts = [task.ids[:n] for task, n in zip(tasks, shown, strict=True)]
                layout = lay_out(self.lm, texts, [task.vectors for task in tasks])
            done = self._step(layout)
            tick(layout.positions)
            if any(done):
                layout = None
                yield self._retire(done)  # at once: what is taken out here must not wait in a generator

    def _refill(self) -> int:
        """Fill free slots from the queue; the token-steps that finding starts took."""
        fresh: list[_Slot] = []
        while self.queue and self._fits(self.queue[0]):
            task = self.queue.popleft()
            given = [] if task.start is None else [task.start.to(self.lm.device)]
            fresh.append(_Slot(task, given, task.most or self.settings.max_steps))
            self.slots.append(fresh[-1])
        todo = [slot for slot in fresh if not slot.starts]
        looked = sum(self._look(todo[at : at + TEXTS_AT_ONCE]) for at in range(0, len(todo), TEXTS_AT_ONCE))
        best = self._best
        for slot in fresh:
            start = slot.starts.pop(0)
            self._adam.extend(start, self._fixed(slot.task))
            best.vectors = torch.cat([best.vectors, start.half()])
        best.fewest = torch.cat([best.fewest, best.fewest.new_full((len(fresh),), NEVER)])
        return looked

    def _look(self, slots: Sequence[_Slot]) -> int:
        """Find what slots begin with, and may begin anew with; the token-steps that it took."""
        begun, tasks = time.perf_counter(), [slot.task for slot in slots]
        texts = [task.ids[: _shown(len(task.ids), 0, 1)] for task in tasks]
        starts = [
            draw(self._scale, (task.vectors, self.lm.width), task.ids, f"{self.settings.seed} {task.attempt}")
            for task in tasks
        ]
        for some, task in zip(starts, tasks, strict=True):
            fixed = self._fixed(task)
            some[:, :fixed] = self.lm.anchor[:fixed]
        costs = [look_cost(len(ids), task.vectors) for ids, task in zip(texts, tasks, strict=True)]
        for slot, found in zip(slots, ranked(self.lm, starts, texts), strict=True):
            begins_anew = self.grown == self.settings.growth  # of few steps there are none to spare
            slot.starts = list(found[: 1 + begins_anew])
        share = (time.perf_counter() - begun) / sum(costs)
        for task, cost in zip(tasks, costs, strict=True):
            task.token_steps += cost
            task.seconds += share * cost
        return sum(costs)

    def _fixed(self, task: Task) -> int:
        """How many of its vectors are not trained: the anchor, where others can carry the text."""
        return len(self.lm.anchor) if self.settings.anchor and task.vectors > 1 else 0

    def _fits(self, task: Task) -> bool:
        """Is there room for one more row, all as long as the longest? For one alone there always is."""
        tasks = [*(slot.task for slot in self.slots), task]
        longest = max(row.vectors + len(row.ids) for row in tasks)
        return len(tasks) == 1 or (len(tasks) <= self.most and len(tasks) * longest <= self.positions)

    def _step(self, layout: Layout) -> list[bool]:
        """One forward pass; which slots it shows to be done. They keep what was measured, the others take a step."""
        begun = time.perf_counter()
        best, slots = self._best, self.slots
        rounded = self._adam.vectors.half().to(self.lm.dtype).requires_grad_(True)  # (R, D) as they would be stored
        hidden = layout.hidden(self.lm, rounded)  # (T, D)
        passed = head_pass(hidden.detach(), self.lm.head, layout.targets)
        counts = self._counts(passed.margin, layout.owner, len(slots))  # (B, 2)
        score = counts[:, 1] + (NEVER / 2 * (counts[:, 0] > 0) if self.settings.strict else 0)
        whole = [n == len(slot.task.ids) for n, slot in zip(layout.shown, slots, strict=True)]
        better = (score < best.fewest) & torch.tensor(whole, device=score.device)
        best.fewest = torch.where(better, score, best.fewest)
        best.vectors = torch.where(better[layout.slot_of_row, None], rounded.detach().half(), best.vectors)
        wrong, thin = counts.T.tolist()
        for slot in slots:
            slot.age, slot.left = slot.age + 1, slot.left - 1
        done = [all_ and self._is_done(*row) for all_, *row in zip(whole, slots, wrong, thin, strict=True)]
        if not all(done):
            (gradient,) = torch.autograd.grad(hidden, rounded, passed.gradient)  # rows of different slots do not touch
            self._descend(gradient.float())
            for number, slot in enumerate(slots):
                if slot.starts and slot.age == self.grown // 2 and wrong[number] > LOST * layout.shown[number]:
                    self._begin_anew(slot, layout.slot_of_row == number)
        self._charge(layout, time.perf_counter() - begun)
        return done

    def _charge(self, layout: Layout, seconds: float) -> None:
        """Share out what a step took."""
        for slot, length in zip(self.slots, layout.lengths, strict=True):
            slot.task.steps += 1
            slot.task.token_steps += length
            slot.task.seconds += seconds * length / layout.positions

    def _counts(self, margin: Tensor, owner: Tensor, slots: int) -> Tensor:
        """(B, 2): how many targets of each slot are wrong, and how many wrong or under margin."""
        thresholds = margin.new_tensor([0.0, self.settings.margin + MARGIN_RESERVE])
        missed = (~(margin[:, None] > thresholds)).float()  # (T, 2); a NaN margin is a miss
        return margin.new_zeros(slots, 2).index_add_(0, owner, missed)

    def _is_done(self, slot: _Slot, wrong: float, thin: float) -> bool:
        settled = thin <= self.settings.enough(len(slot.task.ids), slot.age) and not (self.settings.strict and wrong)
        return settled or slot.left <= 0

    def _descend(self, gradient: Tensor) -> None:
        """One step of every slot along gradient (R, D), at the learning rate of its age."""
        adam, s = self._adam, self.settings
        adam.age += 1
        warm = (adam.age / max(1, s.warmup)).clamp(max=1)
        way = (adam.age / s.cooling).clamp(max=1)
        cooled = s.last_rate**way if s.geometric else 1 - (1 - s.last_rate) * way
        adam.descend(gradient, s.learning_rate * warm * cooled, s.weight_decay)

    def _begin_anew(self, slot: _Slot, rows: Tensor) -> None:
        """Put a slot, whose rows of vectors are the mask `rows` (R,), back to its second start."""
        self._adam.restart(rows, slot.starts.pop())
        slot.age = 0

    def _retire(self, done: list[bool]) -> list[Fitted]:
        sizes = [slot.task.vectors for slot in self.slots]
        pieces = torch.split(self._best.vectors.cpu(), sizes)
        fewest = self._best.fewest.tolist()
        out = [
            Fitted(slot.task, np.ascontiguousarray(piece.numpy()), int(score % (NEVER / 2)))
            for slot, piece, score, over in zip(self.slots, pieces, fewest, done, strict=True)
            if over
        ]
        stay = torch.tensor([not over for over in done], device=self.lm.device)
        rows = stay.repeat_interleave(torch.tensor(sizes, device=self.lm.device))
        self._adam.keep(rows)
        self._best = _Best(self._best.vectors[rows], self._best.fewest[stay])
        self.slots = [slot for slot, over in zip(self.slots, done, strict=True) if not over]
        return out


def _shown(tokens: int, age: int, grown: int) -> int:
    """How many of N = `tokens` a fit has at an age, if the text has grown whole at age `grown`."""
    if age >= grown:
        return tokens
    share = FIRST_SHARE + (1 - FIRST_SHARE) * (age // GROW_EVERY * GROW_EVERY) / grown
    return min(tokens, max(LEAST_SHOWN, math.ceil(tokens * share)))


def positions_for(lm: FrozenLM, memory: int) -> int:
    """Token positions whose activations, kept for the backward pass, take `memory` bytes."""
    config = lm.model.config
    inner = getattr(config, "intermediate_size", None) or 4 * lm.width
    # Kept per position and layer: about 16 values of the width and 5 of the inner width, in the model's dtype.
    # Measured on the default model: 1.2 GiB for 16 rows of 74 positions, logits included.
    return int(memory // (config.num_hidden_layers * (16 * lm.width + 5 * inner) * lm.dtype.itemsize))
