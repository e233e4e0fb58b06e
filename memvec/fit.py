"""The fit engine: many segments' vectors optimised at once; a solved slot retires and the next segment takes its place.

Letters: B slots, M vectors, D width, N tokens, L positions of a row, T targets of all rows. A row is
[v_1 … v_M, t_1 … t_{N-1}] with padding on the right, which a causal model never sees; position M-1+i predicts t_{i+1},
so the first token comes from the vectors too. Recipe: AdamW as Kuratov et al. 2025, but with a first beta of .8 instead of .9,
a learning rate of 5 instead of .01, cooled to 1 in 60 steps, and a start 20 times as large; and a fit begins with the first
part of its text, which grows to the whole in 24 steps (docs/LOG.md has the comparison).
"""

from __future__ import annotations

import hashlib
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

from memvec.adam import SlotAdam
from memvec.lm import FrozenLM
from memvec.objective import head_pass
from memvec.rows import alike, pass_cost
from memvec.settings import PackSettings
from memvec.types import Vectors

MOST_SLOTS = 16  # on a CPU more rows make a step longer, not cheaper
MOST_SLOTS_GPU = 512
# Margins are measured in the fit's dtype, where bfloat16 logits come in steps of 1/8: ask for more than certifying does.
MARGIN_RESERVE = 0.2
MOMENTUM = 0.8  # Adam's first beta
START = 20  # elements of starting vectors, in standard deviations of tokens' embeddings: fits end at such norms
FIRST_SHARE = 0.3  # of a text that a fit begins with
LEAST_SHOWN = 8  # tokens
GROWN = 24  # steps after which it has the whole
GROW_EVERY = 4  # steps; a batch is laid out anew each time
NEVER = float(1 << 20)  # a score worse than any


@dataclass(slots=True)
class Task:
    """A segment waiting for its vectors, and what earlier attempts cost."""

    key: int  # the caller's name for it
    ids: tuple[int, ...]  # N tokens
    vectors: int  # M
    attempt: int = 0
    start: Tensor | None = None  # (M, D) float32 to begin with; None: noise that depends on the segment alone
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


@dataclass(frozen=True, slots=True)
class _Pass:
    """Slots of like length that are run together: b slots of L positions each, r rows of vectors, t targets."""

    base: Tensor  # (b·L, D) token embeddings, zeros elsewhere
    rows: Tensor  # (r,) which of all rows of vectors are theirs
    places: Tensor  # (r,) positions of these in the base
    outputs: Tensor  # (t,) positions that predict
    length: int  # L


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where everything lies in a batch; made anew only when slots change. T targets in order of the passes."""

    passes: list[_Pass]
    targets: Tensor  # (T,) what should be predicted
    owner: Tensor  # (T,) slot of each target
    slot_of_row: Tensor  # (R,)
    lengths: list[int]  # L of each slot's pass
    shown: list[int]  # tokens of each slot's text that it has so far

    @property
    def positions(self) -> int:
        """Token positions of one step, padding included."""
        return sum(self.lengths)


class FitEngine:
    """A queue of tasks and the slots they are fitted in. Feed it with `add`, drain it with `run`."""

    def __init__(self, lm: FrozenLM, settings: PackSettings) -> None:
        self.lm, self.settings = lm, settings
        self.queue: deque[Task] = deque()
        self.tasks: list[Task] = []  # one a slot
        self.ages: list[int] = []
        self.positions = positions_for(lm, settings.memory)
        self.most = MOST_SLOTS if lm.device.type == "cpu" else MOST_SLOTS_GPU
        self._scale = lm.table.float().std() * START
        self._adam = SlotAdam(lm.width, lm.device, MOMENTUM)
        self._best = _Best(self._adam.vectors.half(), self._adam.vectors.new_zeros(0))

    def add(self, tasks: Iterable[Task]) -> None:
        """Put tasks at the end of the queue; also while `run` is being drained."""
        self.queue.extend(tasks)

    def run(self, tick: Callable[[int], None] = lambda token_steps: None) -> Iterator[list[Fitted]]:
        """Fit until the queue is empty, giving tasks back as soon as they are solved or out of steps.

        `tick` is called after every step with the token positions it ran.
        """
        layout: _Layout | None = None
        while self.queue or self.tasks:
            self._refill()
            shown = [
                _shown(task, age, self.settings.max_steps) for task, age in zip(self.tasks, self.ages, strict=True)
            ]
            if layout is None or layout.shown != shown:
                layout = _lay_out(self.lm, self.tasks, shown)
            done = self._step(layout)
            tick(layout.positions)
            if any(done):
                layout = None
                yield self._retire(done)  # at once: what is taken out here must not wait in a generator

    def _refill(self) -> None:
        while self.queue and self._fits(self.queue[0]):
            task = self.queue.popleft()
            start = self._start(task)
            self._adam.extend(start)
            best = self._best
            best.vectors = torch.cat([best.vectors, start.half()])
            best.fewest = torch.cat([best.fewest, best.fewest.new_full((1,), NEVER)])
            self.tasks.append(task)
            self.ages.append(0)

    def _start(self, task: Task) -> Tensor:
        if task.start is not None:
            return task.start.to(self.lm.device)
        chance = torch.Generator().manual_seed(_seed(task, self.settings.seed))
        return torch.randn(task.vectors, self.lm.width, generator=chance).to(self.lm.device) * self._scale

    def _fits(self, task: Task) -> bool:
        """Is there room for one more row, all as long as the longest? For one alone there always is."""
        rows = len(self.tasks) + 1
        longest = max(row.vectors + len(row.ids) for row in (*self.tasks, task))
        return rows == 1 or (rows <= self.most and rows * longest <= self.positions)

    def _step(self, layout: _Layout) -> list[bool]:
        """One forward pass; which slots it shows to be done. They keep what was measured, the others take a step."""
        begun = time.perf_counter()
        best, slots = self._best, len(self.tasks)
        rounded = self._adam.vectors.half().to(self.lm.dtype).requires_grad_(True)  # (R, D) as they would be stored
        hidden = torch.cat([self._hidden(one, rounded) for one in layout.passes])  # (T, D)
        passed = head_pass(hidden.detach(), self.lm.head, layout.targets)
        counts = self._counts(passed.margin, layout.owner, slots)  # (B, 2)
        score = counts[:, 1] + (NEVER / 2 * (counts[:, 0] > 0) if self.settings.strict else 0)
        whole = [n == len(task.ids) for n, task in zip(layout.shown, self.tasks, strict=True)]
        better = (score < best.fewest) & torch.tensor(whole, device=score.device)
        best.fewest = torch.where(better, score, best.fewest)
        best.vectors = torch.where(better[layout.slot_of_row, None], rounded.detach().half(), best.vectors)
        self.ages = [age + 1 for age in self.ages]
        done = [
            all_ and self._is_done(*row)
            for all_, *row in zip(whole, self.tasks, self.ages, *counts.T.tolist(), strict=True)
        ]
        if not all(done):
            (gradient,) = torch.autograd.grad(hidden, rounded, passed.gradient)  # rows of different slots do not touch
            self._descend(gradient.float())
        share = (time.perf_counter() - begun) / layout.positions
        for task, length in zip(self.tasks, layout.lengths, strict=True):
            task.steps += 1
            task.token_steps += length
            task.seconds += share * length
        return done

    def _hidden(self, one: _Pass, rounded: Tensor) -> Tensor:
        """Hidden states (t, D) that predict the targets of one pass."""
        embeds = one.base.index_copy(0, one.places, rounded.index_select(0, one.rows))
        return self.lm.hidden(embeds.view(-1, one.length, self.lm.width)).flatten(0, 1).index_select(0, one.outputs)

    def _counts(self, margin: Tensor, owner: Tensor, slots: int) -> Tensor:
        """(B, 2): how many targets of each slot are wrong, and how many wrong or under margin."""
        thresholds = margin.new_tensor([0.0, self.settings.margin + MARGIN_RESERVE])
        missed = (~(margin[:, None] > thresholds)).float()  # (T, 2); a NaN margin is a miss
        return margin.new_zeros(slots, 2).index_add_(0, owner, missed)

    def _is_done(self, task: Task, age: int, wrong: float, thin: float) -> bool:
        settled = thin <= self.settings.enough(len(task.ids)) and not (self.settings.strict and wrong)
        return settled or age >= self.settings.max_steps

    def _descend(self, gradient: Tensor) -> None:
        """One step of every slot along gradient (R, D), at the learning rate of its age."""
        adam, s = self._adam, self.settings
        adam.age += 1
        warm = (adam.age / max(1, s.warmup)).clamp(max=1)
        cooled = 1 - (1 - s.last_rate) * (adam.age / s.cooling).clamp(max=1)
        adam.descend(gradient, s.learning_rate * warm * cooled, s.weight_decay)

    def _retire(self, done: list[bool]) -> list[Fitted]:
        sizes = [task.vectors for task in self.tasks]
        pieces = torch.split(self._best.vectors.cpu(), sizes)
        fewest = self._best.fewest.tolist()
        out = [
            Fitted(task, np.ascontiguousarray(piece.numpy()), int(score % (NEVER / 2)))
            for task, piece, score, over in zip(self.tasks, pieces, fewest, done, strict=True)
            if over
        ]
        stay = torch.tensor([not over for over in done], device=self.lm.device)
        rows = stay.repeat_interleave(torch.tensor(sizes, device=self.lm.device))
        self._adam.keep(rows)
        self._best = _Best(self._best.vectors[rows], self._best.fewest[stay])
        self.tasks = [task for task, over in zip(self.tasks, done, strict=True) if not over]
        self.ages = [age for age, over in zip(self.ages, done, strict=True) if not over]
        return out


def _shown(task: Task, age: int, most: int) -> int:
    """Tokens of its text that a task has at an age; all where it goes on from vectors of its own, or of `most` steps
    an eighth is over."""
    n, grown = len(task.ids), min(GROWN, most // 8)
    if age >= grown or task.start is not None:
        return n
    share = FIRST_SHARE + (1 - FIRST_SHARE) * (age // GROW_EVERY * GROW_EVERY) / grown
    return min(n, max(LEAST_SHOWN, math.ceil(n * share)))


def _lay_out(lm: FrozenLM, tasks: Sequence[Task], shown: Sequence[int]) -> _Layout:
    """The batch of these tasks, vectors left open, in passes of like length: padding costs as much as text."""
    tasks = [replace(task, ids=task.ids[:n]) for task, n in zip(tasks, shown, strict=True)]
    ends = list(accumulate(task.vectors for task in tasks))
    groups = alike([_length(task) for task in tasks], pass_cost(lm))
    slots = [slot for group in groups for slot in group]  # in the order of their targets
    lengths = [0] * len(tasks)
    for group in groups:
        for slot in group:
            lengths[slot] = max(_length(tasks[other]) for other in group)

    def index(values: Iterable[int]) -> Tensor:
        return torch.tensor(list(values), dtype=torch.long, device=lm.device)

    def laid(group: Sequence[int]) -> _Pass:
        length = lengths[group[0]]
        base = torch.zeros(len(group), length, lm.width, dtype=lm.dtype, device=lm.device)
        rows: list[int] = []
        places: list[int] = []
        outputs: list[int] = []
        for at, slot in enumerate(group):
            m, n = tasks[slot].vectors, len(tasks[slot].ids)
            base[at, m : m + n - 1] = lm.embed(index(tasks[slot].ids[:-1]))
            rows += range(ends[slot] - m, ends[slot])
            places += range(at * length, at * length + m)
            outputs += range(at * length + m - 1, at * length + m - 1 + n)
        return _Pass(base.flatten(0, 1), index(rows), index(places), index(outputs), length)

    return _Layout(
        [laid(group) for group in groups],
        targets=index(token for slot in slots for token in tasks[slot].ids),
        owner=index(slot for slot in slots for _ in tasks[slot].ids),
        slot_of_row=index(slot for slot, task in enumerate(tasks) for _ in range(task.vectors)),
        lengths=lengths,
        shown=list(shown),
    )


def _length(task: Task) -> int:
    """Positions of a task's row: the last token is predicted, not read."""
    return task.vectors + len(task.ids) - 1


def positions_for(lm: FrozenLM, memory: int) -> int:
    """Token positions whose activations, kept for the backward pass, take `memory` bytes."""
    config = lm.model.config
    inner = getattr(config, "intermediate_size", None) or 4 * lm.width
    # Kept per position and layer: about 16 values of the width and 5 of the inner width, in the model's dtype.
    # Measured on the default model: 1.2 GiB for 16 rows of 74 positions, logits included.
    return int(memory // (config.num_hidden_layers * (16 * lm.width + 5 * inner) * lm.dtype.itemsize))


def _seed(task: Task, seed: int) -> int:
    """The start of a segment depends on the segment alone, not on what shares its batch."""
    text = f"{seed} {task.attempt} {' '.join(map(str, task.ids))}"
    digest = hashlib.sha256(text.encode()).digest()
    number: int = int.from_bytes(digest[:8], "little") >> 1  # torch takes 63 bits
    return number
