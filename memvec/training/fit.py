"""The fit engine: optimise the vectors of many segments at once. When a slot is done, the next segment takes its place.

The first vector is the anchor, the embedding of BOS. A model's first position is its attention sink and can carry little.
The optimiser is AdamW as with Kuratov et al. 2025, but with a first beta of .8 instead of .9. The learning rate is
thousands of times theirs, in the model's own unit, and cools to a fifth in 60 steps. A fit starts from the best of six
starts. It begins on the first part of its text and sees all of it after 24 steps (docs/LOG.md has the comparison).
Letters: B slots, M vectors, D width, N tokens, T targets of all rows, R = ΣM.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import cast

from torch import Tensor

from memvec.chunks import chunked
from memvec.lm.device import free_bytes
from memvec.lm.frozen import FrozenLM
from memvec.settings import PackSettings
from memvec.training.batch import Batch, RaggedBatch, Score
from memvec.training.cost import NOTHING, Cost
from memvec.training.layout import row_length
from memvec.training.starts import TEXTS_AT_ONCE, TRIED, best, draw, look_cost
from memvec.training.static_batch import StaticBatch
from memvec.training.units import unit_of
from memvec.types import Vectors

MOST_SLOTS = 16  # on a CPU more rows make a step longer, not cheaper
MOST_SLOTS_GPU = 512
WITHOUT_GRADIENT = 8  # positions without gradient that take the memory of one in a step, which stores activations
AHEAD_GPU = 64  # tasks whose starts are found together; one by one, each would make all slots wait
MEMORY = 2 * 1024**3  # bytes for activations on a CPU
SHARE_OF_GPU = 0.4  # share of a GPU's free memory for activations; certifying and finding starts use the rest
FIRST_SHARE = 0.3  # share of its text that a fit starts on
LEAST_SHOWN = 8  # least tokens that it starts on
GROW_EVERY = 4  # steps after which it sees more of its text; each time the batch is laid out again
HURRY = 0.25  # share of its text that it sees more of at a time, where it learns fast


@dataclass(frozen=True, slots=True)
class Task:
    """A segment that waits for its vectors."""

    key: int  # the caller's name for it
    ids: tuple[int, ...]  # N tokens
    vectors: int  # M
    attempt: int = 0
    start: Tensor | None = None  # (M, D) float32 to start from; None: noise that depends on the segment only
    most: int | None = None  # most steps of this attempt; None: those of the settings
    spent: Cost = NOTHING  # on earlier attempts


@dataclass(frozen=True, slots=True)
class Fitted:
    """A task whose fit ended, with the best vectors it had, as they would be stored."""

    task: Task
    vectors: Vectors  # (M, D) float16
    corrections: int  # positions wrong or under margin, as the fit measured them
    cost: Cost = NOTHING  # of this attempt and of those before it


@dataclass(slots=True)
class _Slot:
    """A task being fitted."""

    task: Task
    start: Tensor | None  # (M, D) float32
    left: int  # steps that it may still take
    cost: Cost
    age: int = 0  # steps since its start
    reached: int = 0  # tokens that it sees because it learnt those before

    def shown(self, grown: int) -> int:
        """Tokens of its text that it sees at its age. It sees all if the task brings a start."""
        n = len(self.task.ids)
        return n if self.task.start is not None else max(self.reached, shown_at(n, self.age, grown))

    def grow(self, shown: int, wrong: int, hurry: float) -> None:
        """See more from the next step on, if few enough of the `shown` tokens are `wrong`."""
        if self.age % GROW_EVERY == 0 and wrong < hurry * shown:
            n = len(self.task.ids)
            self.reached = min(n, shown + math.ceil(HURRY * n))


class FitEngine:
    """A queue of tasks and the slots they are fitted in. `add` fills the queue, `run` empties it."""

    def __init__(self, lm: FrozenLM, settings: PackSettings, batch: Batch | None = None) -> None:
        """Fit with `lm`. Without a `batch` there are static rows on a GPU and ragged ones on a CPU."""
        self.lm, self.settings = lm, settings
        self.queue: deque[Task] = deque()
        self.ready: deque[_Slot] = deque()  # with starts, waiting for room
        self.slots: list[_Slot] = []
        on_cpu = lm.device.type == "cpu"
        self.positions = positions_for(lm, settings.memory or memory_of(lm))
        self.most = MOST_SLOTS if on_cpu else MOST_SLOTS_GPU
        self.ahead = 1 if on_cpu else AHEAD_GPU
        self.grown = settings.grown
        self._scale = unit_of(lm)
        static = lm.device.type == "cuda" and not lm.recurrent
        self.batch = batch or (StaticBatch(lm, settings) if static else RaggedBatch(lm, settings))

    def add(self, tasks: Iterable[Task]) -> None:
        """Put tasks at the end of the queue, also while `run` goes on."""
        self.queue.extend(tasks)

    def run(self, tick: Callable[[int], None] = lambda token_steps: None) -> Iterator[list[Fitted]]:
        """Fit until the queue is empty. Yield tasks as soon as they are solved or out of steps.

        `tick` is called after every step and every search for starts, with the token positions that were run.
        """
        while self.queue or self.ready or self.slots:
            if looked := self._refill():
                tick(looked)
            done = self._step()
            tick(sum(self.batch.lengths))
            if any(done):
                yield self._retire(done)  # at once, so that no result waits in this generator

    def _refill(self) -> int:
        """Fill free slots from the queue. Return the token-steps of finding starts."""
        fitting = self._fitting(chain((slot.task for slot in self.ready), self.queue))
        looked = 0
        if fitting > len(self.ready):
            count = min(len(self.queue), max(fitting - len(self.ready), self.ahead))
            looked = self._prepare([self.queue.popleft() for _ in range(count)])
        fresh = [self.ready.popleft() for _ in range(fitting)]
        self.slots += fresh
        self.batch.reserve([(len(slot.task.ids), slot.task.vectors) for slot in self.slots])
        for slot in fresh:
            self.batch.add(slot.task.ids, cast(Tensor, slot.start), self._fixed(slot.task))
        return looked

    def _prepare(self, tasks: Sequence[Task]) -> int:
        """Find starts for tasks. Return the token-steps of it."""
        fresh = [
            _Slot(
                task,
                None if task.start is None else task.start.to(self.lm.device),
                task.most or self.settings.max_steps,
                task.spent,
            )
            for task in tasks
        ]
        todo = [slot for slot in fresh if slot.start is None]
        rows = (row_length(shown_at(len(slot.task.ids), 0, 1), slot.task.vectors) for slot in todo)
        fitting = self.positions * WITHOUT_GRADIENT // (TRIED * max(rows, default=1))
        at_once = max(1, min(max(self.ahead, TEXTS_AT_ONCE), fitting))
        looked = sum(map(self._look, chunked(todo, at_once)))
        self.ready += fresh
        return looked

    def _look(self, slots: Sequence[_Slot]) -> int:
        """Find a start for each slot. Return the token-steps of it."""
        begun, tasks = time.perf_counter(), [slot.task for slot in slots]
        texts = [task.ids[: shown_at(len(task.ids), 0, 1)] for task in tasks]
        starts = [
            draw(self._scale, (task.vectors, self.lm.width), task.ids, f"{self.settings.seed} {task.attempt}").to(
                self.lm.device
            )
            for task in tasks
        ]
        for some, task in zip(starts, tasks, strict=True):
            fixed = self._fixed(task)
            some[:, :fixed] = self.lm.anchor[:fixed]
        costs = [look_cost(len(ids), task.vectors) for ids, task in zip(texts, tasks, strict=True)]
        for slot, found in zip(slots, best(self.lm, starts, texts), strict=True):
            slot.start = found
        share = (time.perf_counter() - begun) / sum(costs)
        for slot, cost in zip(slots, costs, strict=True):
            slot.cost += Cost(token_steps=cost, seconds=share * cost)
        return sum(costs)

    def _fixed(self, task: Task) -> int:
        """How many vectors of a task are not trained: the anchor, if there are other vectors to carry the text."""
        return len(self.lm.anchor) if self.settings.anchor and task.vectors > 1 else 0

    def _fitting(self, waiting: Iterable[Task]) -> int:
        """How many of these tasks have room, if all rows are as long as the longest. One alone always has.

        If one row alone takes too much memory, its activations are not stored from then on.
        """
        rows, longest = len(self.slots), max((slot.task.vectors + len(slot.task.ids) for slot in self.slots), default=0)
        for task in waiting:
            longest = max(longest, task.vectors + len(task.ids))
            if not rows and self.batch.room(1, longest) > self.positions and self.lm.recompute():
                self.positions = positions_for(self.lm, self.settings.memory or memory_of(self.lm))
            if rows and (rows == self.most or self.batch.room(rows + 1, longest) > self.positions):
                break
            rows += 1
        return rows - len(self.slots)

    def _step(self) -> list[bool]:
        """Take a step of every slot. Return which of them are done, by the scores from before the step."""
        begun, slots = time.perf_counter(), self.slots
        shown = [slot.shown(self.grown) for slot in slots]
        scores = self.batch.step(shown)
        for slot, seen, score in zip(slots, shown, scores, strict=True):
            slot.age, slot.left = slot.age + 1, slot.left - 1
            slot.grow(seen, score.wrong, self.settings.hurry)
        done = [self._is_done(slot, score) for slot, score in zip(slots, scores, strict=True)]
        self._charge(time.perf_counter() - begun)
        return done

    def _charge(self, seconds: float) -> None:
        """Add the cost of a step to its slots, by their lengths."""
        a_position = seconds / sum(self.batch.lengths)
        for slot, length in zip(self.slots, self.batch.lengths, strict=True):
            slot.cost += Cost(1, length, a_position * length)

    def _is_done(self, slot: _Slot, score: Score) -> bool:
        enough = self.settings.enough(len(slot.task.ids), slot.age)
        settled = score.thin <= enough and not (self.settings.strict and score.wrong)
        return score.whole and (settled or slot.left <= 0)

    def _retire(self, done: list[bool]) -> list[Fitted]:
        over = [slot for slot, gone in zip(self.slots, done, strict=True) if gone]
        self.slots = [slot for slot, gone in zip(self.slots, done, strict=True) if not gone]
        return [
            Fitted(slot.task, vectors, score.thin, slot.cost)
            for slot, (vectors, score) in zip(over, self.batch.take(done), strict=True)
        ]


def shown_at(tokens: int, age: int, grown: int) -> int:
    """How many of N = `tokens` a fit sees at an age at least, if it sees all of them at age `grown`."""
    if age >= grown:
        return tokens
    share = FIRST_SHARE + (1 - FIRST_SHARE) * (age // GROW_EVERY * GROW_EVERY) / grown
    return min(tokens, max(LEAST_SHOWN, math.ceil(tokens * share)))


def memory_of(lm: FrozenLM) -> int:
    """Bytes for activations if the settings give no limit. A recurrent model gets MEMORY: the cost of its states is unknown."""
    return MEMORY if lm.device.type != "cuda" or lm.recurrent else int(SHARE_OF_GPU * free_bytes(lm.device))


def positions_for(lm: FrozenLM, memory: int) -> int:
    """Token positions whose activations, stored for the backward pass, take `memory` bytes."""
    return int(memory // bytes_of_position(lm))


def bytes_of_position(lm: FrozenLM) -> int:
    """Memory of the activations of a token position, stored for the backward pass [bytes]."""
    config = lm.model.config
    inner = getattr(config, "intermediate_size", None) or 4 * lm.width
    # Stored for each position and layer: about 16 values of the width and 5 of the inner width, in the model's dtype.
    # Measured on the default model: 1.2 GiB for 16 rows of 74 positions, logits included.
    layers, in_a_layer = config.num_hidden_layers, 16 * lm.width + 5 * inner
    # If they are computed again, the input of each layer is stored, and the activations of the layer that runs.
    stored = layers * lm.width + in_a_layer if lm.recomputes else layers * in_a_layer
    return int(stored * lm.dtype.itemsize)
