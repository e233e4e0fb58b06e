"""Distilling context vectors: many documents' vectors at once, until a frozen LM reads them as it reads the text.

The teacher is the LM behind the text, the student the same LM behind M vectors; the loss is the divergence between what
they say next. They are asked questions about the text, whose right answers are mixed into the teacher's, and where it
is wanted spans of the text by their first words. A share of rows is about something else, with a teacher that saw no text
(Caccia et al. 2025 and Eyuboglu et al. 2025 distil adapters and caches so; docs/LOG.md has what each part is worth here).

Letters: B slots, M vectors, D width, N tokens, R rows, T scored tokens, K likeliest tokens kept of a teacher.
"""

from __future__ import annotations

import math
import random
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from memvec.lm.frozen import FrozenLM
from memvec.lm.head import TeacherPass, distil_pass
from memvec.lm.scoring import Row, padded, passes, run_prefixes, run_rows
from memvec.settings import ContextSettings
from memvec.training.adam import SlotAdam
from memvec.training.fit import memory_of, positions_for
from memvec.training.lessons import Lesson, Manner, combs, teach
from memvec.training.segments import surprisal
from memvec.types import Vectors

PART_TOKENS = 150  # of a text, for which a step asks so many rows
SPAN_WITHOUT_QUESTIONS = 16  # tokens
ROW_TOKENS = 31  # that a row takes, about, padding included; only for estimates
STRANGERS = 0.5  # share of the rows aside that are questions about other documents, where there are any
FOREIGN = 32  # questions about a document that other memories are asked too


@dataclass(slots=True)
class DistilTask:
    """A window of a document waiting for its vectors, and what they cost so far."""

    key: int  # the caller's name for it
    ids: tuple[int, ...]  # N tokens
    vectors: int  # M
    document: str = ""  # windows of one are no strangers to each other
    questions: tuple[tuple[Row, ...], ...] = ()  # about the text, for each beginning a memory may stand behind
    steps: int = 0
    token_steps: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Distilled:
    """A task whose vectors are done, rounded to storage."""

    task: DistilTask
    vectors: Vectors  # (M, D) float16


@dataclass(slots=True)
class _Slot:
    task: DistilTask
    combs: list[list[int]]  # rows of the lesson that together cover the text, one list for each phase
    lesson: Lesson
    questions: list[Lesson]  # for each beginning
    foreign: list[
        Lesson
    ]  # some of the same, as the LM answers without the text: what other memories should leave alone
    chance: random.Random
    age: int = 0
    left: dict[int, list[int]] = field(default_factory=dict)  # by beginning, questions not asked yet in this round

    @property
    def parts(self) -> int:
        """How many times the rows of a short text a step asks for."""
        return parts(len(self.task.ids))

    def draw(self, beginning: int, count: int) -> list[tuple[Lesson, int]]:
        """The next `count` questions behind a beginning, every one before any comes again."""
        lesson = self.questions[beginning] if beginning < len(self.questions) else Lesson([], [], [])
        left = self.left.setdefault(beginning, [])
        drawn = []
        for _ in range(min(count, len(lesson.rows))):
            if not left:
                left += self.chance.sample(range(len(lesson.rows)), len(lesson.rows))
            drawn.append((lesson, left.pop()))
        return drawn


def parts(tokens: int) -> int:
    """How many parts a text of N tokens counts as: so many times the rows of one are asked in a step."""
    return max(1, round(tokens / PART_TOKENS))


def start(lm: FrozenLM, ids: Sequence[int], vectors: int) -> Tensor:
    """Starting vectors (M, D) float32: the embeddings of the M tokens that the LM expects least, in their order.

    Untrained they are worth .25 of the text at ratio 4, where means of windows do harm (docs/LOG.md).
    """
    (nats,) = surprisal(lm, [ids])
    told = sorted(sorted(range(len(ids)), key=lambda place: -nats[place])[:vectors])
    return lm.embed(torch.tensor([ids[place] for place in told], device=lm.device)).float()


class DistilEngine:
    """A queue of tasks and the slots they are distilled in. Feed it with `add`, drain it with `run`."""

    def __init__(
        self,
        lm: FrozenLM,
        settings: ContextSettings,
        befores: Sequence[tuple[int, ...]],
        aside: Sequence[Sequence[Row]] = (),
        elsewhere: Sequence[Sequence[Row]] = (),
    ) -> None:
        """`befores` are the beginnings a memory may stand behind; rows for each that have nothing to do with it.

        Those are general prompts (`aside`) and questions about documents that nobody has (`elsewhere`).
        """
        self.lm, self.settings = lm, settings
        self.befores = [lm.embed(torch.tensor(ids, dtype=torch.long, device=lm.device)) for ids in befores]
        self._apart = Manner(weight=settings.aside_weight)
        self.aside = [teach(lm, before, rows, self._apart) for before, rows in zip(self.befores, aside, strict=False)]
        self.elsewhere = [
            teach(lm, before, rows, self._apart) for before, rows in zip(self.befores, elsewhere, strict=False)
        ]
        self.queue: deque[DistilTask] = deque()
        self.slots: list[_Slot] = []
        self.positions = positions_for(lm, settings.memory or memory_of(lm))
        self._adam = SlotAdam(lm.width, lm.device)
        self._chance = random.Random(settings.seed)

    def add(self, tasks: Iterable[DistilTask]) -> None:
        """Put tasks at the end of the queue."""
        self.queue.extend(tasks)

    def run(self, tick: Callable[[int], None] = lambda token_steps: None) -> Iterator[list[Distilled]]:
        """Distil until the queue is empty, giving tasks back as soon as they have had their steps.

        `tick` is called after every step with the token positions it ran.
        """
        while self.queue or self.slots:
            self._refill()
            tick(self._step())
            if any(slot.age >= self.settings.steps for slot in self.slots):
                yield self._retire()

    def _refill(self) -> None:
        while self.queue and self._fits(self.queue[0]):
            task = self.queue.popleft()
            self.slots.append(self._open(task))
            self._adam.extend(start(self.lm, task.ids, task.vectors))

    def _open(self, task: DistilTask) -> _Slot:
        """A slot for a task: everything it will be asked, with the teacher's answers."""
        begun, s = time.perf_counter(), self.settings
        # Text of which the rule makes no questions, as one without spaces, is asked for itself.
        span = s.span or (0 if any(task.questions) else SPAN_WITHOUT_QUESTIONS)
        spans, phases = combs(len(task.ids), span, s.stride)
        text = self.lm.embed(torch.tensor(task.ids, device=self.lm.device))
        fronts = [torch.cat([before, text]) for before in self.befores]
        rows = [Row(task.ids[begin:end], 1) for begin, end in spans]
        lesson = teach(self.lm, fronts[0], rows, Manner(weight=s.span_weight))
        manner = Manner(s.truth, s.first_truth, question_weight=s.question_weight)
        asked = [teach(self.lm, front, rows, manner) for front, rows in zip(fronts, task.questions, strict=False)]
        foreign = [
            teach(self.lm, before, rows[:FOREIGN], self._apart)
            for before, rows in zip(self.befores, task.questions, strict=False)
        ]
        task.seconds += time.perf_counter() - begun
        return _Slot(task, phases, lesson, asked, foreign, random.Random(f"{s.seed} {task.ids}"))

    def _fits(self, task: DistilTask) -> bool:
        """Is there room for one more? For one alone there always is."""
        s, tasks = self.settings, [*(slot.task for slot in self.slots), task]
        asked = sum(parts(len(t.ids)) for t in tasks) * (s.question_rows + s.aside_rows) * ROW_TOKENS
        spans = sum(len(t.ids) for t in tasks) * (s.span_share if s.span else 0.0)
        prefixes = len(tasks) * 2 * max(t.vectors for t in tasks)  # all as long as the longest, some with company
        return not self.slots or asked + spans + prefixes <= self.positions

    def _step(self) -> int:
        """One step of every slot; the token positions it ran."""
        begun = time.perf_counter()
        beginning = self._chance.randrange(len(self.befores))
        beside = self._beside()
        rows, owner, answers, weights = self._ask(beginning, beside)
        vectors = self._adam.vectors.clone().requires_grad_(True)
        prefixes = self._prefixes(vectors, self.befores[beginning], beside)
        run = run_prefixes(self.lm, prefixes)
        hidden = run_rows(self.lm, run, owner, rows)
        said = TeacherPass(torch.cat([a.ids for a in answers]), torch.cat([a.log_probs for a in answers]))
        _, upstream = distil_pass(hidden.detach(), self.lm.head, said)
        (gradient,) = torch.autograd.grad(hidden, vectors, upstream * weights[:, None].to(upstream.dtype))
        self._adam.age += 1
        self._adam.descend(gradient.float(), self._rates())
        positions = run.held.numel() + padded(rows, passes(self.lm, rows))
        share = (time.perf_counter() - begun) / len(self.slots)
        for slot in self.slots:
            slot.age += 1
            slot.task.steps += 1
            slot.task.token_steps += positions // len(self.slots)
            slot.task.seconds += share
        return positions

    def _beside(self) -> list[int | None]:
        """The slots whose vectors stand beside each one's in this step: all have company or none, as they are padded alike."""
        count = len(self.slots)
        if count < 2 or self._chance.random() >= self.settings.company:
            return [None] * count
        return [(number + self._chance.randrange(1, count)) % count for number in range(count)]

    def _ask(
        self, beginning: int, beside: Sequence[int | None]
    ) -> tuple[list[Row], list[int], list[TeacherPass], Tensor]:
        """The rows of this step behind a beginning, whose they are, the teacher's answers and tokens' weights (T,)."""
        rows: list[Row] = []
        owner: list[int] = []
        answers: list[TeacherPass] = []
        weights: list[float] = []
        for number, slot in enumerate(self.slots):
            comb = slot.chance.choice(slot.combs)
            chosen = [
                (slot.lesson, i) for i in slot.chance.sample(comb, math.ceil(len(comb) * self.settings.span_share))
            ]
            chosen += slot.draw(beginning, self.settings.question_rows * slot.parts)
            theirs, general = self._elsewhere(number, beside[number], beginning)
            for _ in range(self.settings.aside_rows * slot.parts if theirs or general else 0):
                strange = theirs and (slot.chance.random() < STRANGERS or not general)
                lesson = slot.chance.choice(theirs if strange else general)
                chosen.append((lesson, slot.chance.randrange(len(lesson.rows))))
            rows += [lesson.rows[i] for lesson, i in chosen]
            answers += [lesson.answers[i] for lesson, i in chosen]
            owner += [number] * len(chosen)
            weights += [weight for lesson, i in chosen for weight in lesson.weights[i]]
        return rows, owner, answers, torch.tensor(weights, device=self.lm.device)

    def _elsewhere(self, number: int, beside: int | None, beginning: int) -> tuple[list[Lesson], list[Lesson]]:
        """What has nothing to do with what is in front: (questions about other documents, off-topic prompts)."""
        there = {self.slots[n].task.document for n in (number, beside) if n is not None}
        others = [slot.foreign for slot in self.slots if slot.task.document not in there]
        theirs = [foreign[beginning] for foreign in others if beginning < len(foreign) and foreign[beginning].rows]
        invented = [lesson for lesson in self.elsewhere[beginning : beginning + 1] if lesson.rows]
        theirs += invented * max(1, len(theirs))  # as often as those of real ones
        general = [lesson for lesson in self.aside[beginning : beginning + 1] if lesson.rows]
        return theirs, general

    def _prefixes(self, vectors: Tensor, before: Tensor, beside: Sequence[int | None]) -> list[Tensor]:
        """What stands before the rows: a beginning, the slot's vectors, sometimes another's before or behind them."""
        pieces = torch.split(vectors, [slot.task.vectors for slot in self.slots])
        out = []
        for slot, piece, other in zip(self.slots, pieces, beside, strict=True):
            parts = [piece]
            if other is not None:
                parts.insert(slot.chance.randrange(2), pieces[other].detach())
            out.append(torch.cat([before, *(part.to(before.dtype) for part in parts)]))
        return out

    def _rates(self) -> Tensor:
        """(R, 1) learning rates: a short warm-up, then down in a line to a fiftieth."""
        s, age = self.settings, self._adam.age
        return s.learning_rate * (age / max(1, s.warmup)).clamp(max=1) * (1 - (age - 1) / s.steps).clamp(min=0.02)

    def _retire(self) -> list[Distilled]:
        over = [slot.age >= self.settings.steps for slot in self.slots]
        sizes = [slot.task.vectors for slot in self.slots]
        pieces = torch.split(self._adam.vectors.half().cpu(), sizes)
        out = [
            Distilled(slot.task, np.ascontiguousarray(piece.numpy()))
            for slot, piece, done in zip(self.slots, pieces, over, strict=True)
            if done
        ]
        stay = torch.tensor([not done for done in over]).repeat_interleave(torch.tensor(sizes))
        self._adam.keep(stay.to(self.lm.device))
        self.slots = [slot for slot, done in zip(self.slots, over, strict=True) if not done]
        return out
