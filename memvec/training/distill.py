"""Distil context vectors of many documents at once, until a frozen LM answers behind them as it does behind the text.

The teacher is the LM behind the text. The student is the same LM behind M vectors. The loss is the divergence between
their next tokens. Rows are questions about the text, with right answers mixed into the teacher's. If wanted, they are also
spans of the text, each asked for by its first token. Some rows are not about the text, and their teacher has not seen it.
Caccia et al. 2025 and Eyuboglu et al. 2025 distil adapters and caches in this way. docs/LOG.md has the worth of each part.

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
from memvec.training.cost import NOTHING, Cost
from memvec.training.fit import memory_of, positions_for
from memvec.training.lessons import Lesson, LossMix, span_phases, teach
from memvec.training.segments import surprisal
from memvec.types import Vectors

PART_TOKENS = 150  # tokens of a part; the settings give the number of rows for each part of a text
SPAN_WITHOUT_QUESTIONS = 16  # tokens
ROW_TOKENS = 31  # tokens that a row takes on average, padding included; only for estimates
OTHER_DOCUMENTS = 0.5  # share of unrelated rows that are about other documents, if there are any; the rest is off-topic
QUESTIONS_FOR_OTHERS = 32  # questions about a document that memories of other documents are asked too


@dataclass(frozen=True, slots=True)
class DistilTask:
    """A window of a document that waits for its vectors."""

    key: int  # the caller's name for it
    ids: tuple[int, ...]  # N tokens
    vectors: int  # M
    document: str = ""  # its name: windows of one document are not other documents to each other
    questions: tuple[tuple[Row, ...], ...] = ()  # about the text, for each prompt prefix


@dataclass(frozen=True, slots=True)
class Distilled:
    """A task that is done, with its vectors as they would be stored."""

    task: DistilTask
    vectors: Vectors  # (M, D) float16
    cost: Cost = NOTHING


@dataclass(slots=True)
class _Slot:
    """A task being distilled."""

    task: DistilTask
    phases: list[list[int]]  # spans of the lesson that together cover the text, one list for each phase
    lesson: Lesson  # the spans
    questions: list[Lesson]  # for each prompt prefix
    unread: list[Lesson]  # some of the same questions, answered without the text, for memories of other documents
    chance: random.Random
    cost: Cost
    age: int = 0
    left: dict[int, list[int]] = field(default_factory=dict)  # questions not yet asked in this round, by prompt prefix

    @property
    def parts(self) -> int:
        """Parts of its text."""
        return parts(len(self.task.ids))

    def draw(self, prefix: int, count: int) -> list[tuple[Lesson, int]]:
        """The next `count` questions behind a prompt prefix. Each is drawn once before any is drawn again."""
        lesson = self.questions[prefix] if prefix < len(self.questions) else Lesson([], [], [])
        left = self.left.setdefault(prefix, [])
        drawn = []
        for _ in range(min(count, len(lesson.rows))):
            if not left:
                left += self.chance.sample(range(len(lesson.rows)), len(lesson.rows))
            drawn.append((lesson, left.pop()))
        return drawn


def parts(tokens: int) -> int:
    """Parts in a text of N tokens. A step asks the rows of the settings once for each part."""
    return max(1, round(tokens / PART_TOKENS))


def start(lm: FrozenLM, ids: Sequence[int], vectors: int) -> Tensor:
    """Starting vectors (M, D) float32: the embeddings of the M tokens with the highest surprisal, in their order.

    Untrained, their gain is .25 at ratio 4, while the means of windows do harm (docs/LOG.md).
    """
    (nats,) = surprisal(lm, [ids])
    told = sorted(sorted(range(len(ids)), key=lambda place: -nats[place])[:vectors])
    return lm.embed(torch.tensor([ids[place] for place in told], device=lm.device)).float()


class DistilEngine:
    """A queue of tasks and the slots they are distilled in. `add` fills the queue, `run` empties it."""

    def __init__(
        self,
        lm: FrozenLM,
        settings: ContextSettings,
        prompt_prefixes: Sequence[tuple[int, ...]],
        off_topic: Sequence[Sequence[Row]] = (),
        unseen_documents: Sequence[Sequence[Row]] = (),
    ) -> None:
        """Prepare to distil memories that will stand behind any of `prompt_prefixes`.

        Args:
            lm: The frozen LM.
            settings: The settings.
            prompt_prefixes: Tokens of each prefix.
            off_topic: General prompts, for each prefix.
            unseen_documents: Questions about documents that no store holds, for each prefix.
        """
        self.lm, self.settings = lm, settings
        self.prompt_prefixes = [
            lm.embed(torch.tensor(ids, dtype=torch.long, device=lm.device)) for ids in prompt_prefixes
        ]
        self._unrelated = LossMix(weight=settings.aside_weight)
        self.off_topic = self._taught(off_topic)
        self.unseen_documents = self._taught(unseen_documents)
        self.queue: deque[DistilTask] = deque()
        self.slots: list[_Slot] = []
        self.positions = positions_for(lm, settings.memory or memory_of(lm))
        self._adam = SlotAdam(lm.width, lm.device)
        self._chance = random.Random(settings.seed)

    def _taught(self, rows: Sequence[Sequence[Row]], most: int | None = None) -> list[Lesson]:
        """The LM's answers without any text to the first `most` rows behind each prompt prefix."""
        return [
            teach(self.lm, prefix, some[:most], self._unrelated)
            for prefix, some in zip(self.prompt_prefixes, rows, strict=False)
        ]

    def add(self, tasks: Iterable[DistilTask]) -> None:
        """Put tasks at the end of the queue."""
        self.queue.extend(tasks)

    def run(self, tick: Callable[[int], None] = lambda token_steps: None) -> Iterator[list[Distilled]]:
        """Distil until the queue is empty. Yield tasks as soon as they have had all their steps.

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
        """A slot for a task: all rows it may be asked, with the teacher's answers."""
        begun, s = time.perf_counter(), self.settings
        # From some texts, such as lists of short words, no questions are made. Then spans are asked for.
        span = s.span or (0 if any(task.questions) else SPAN_WITHOUT_QUESTIONS)
        spans, phases = span_phases(len(task.ids), span, s.stride)
        text = self.lm.embed(torch.tensor(task.ids, device=self.lm.device))
        fronts = [torch.cat([prefix, text]) for prefix in self.prompt_prefixes]
        rows = [Row(task.ids[begin:end], 1) for begin, end in spans]
        lesson = teach(self.lm, fronts[0], rows, LossMix(weight=s.span_weight))
        mix = LossMix(s.truth, s.first_truth, question_weight=s.question_weight)
        asked = [teach(self.lm, front, rows, mix) for front, rows in zip(fronts, task.questions, strict=False)]
        unread = self._taught(task.questions, QUESTIONS_FOR_OTHERS)
        chance = random.Random(f"{s.seed} {task.ids}")
        return _Slot(task, phases, lesson, asked, unread, chance, Cost(seconds=time.perf_counter() - begun))

    def _fits(self, task: DistilTask) -> bool:
        """Is there room for one more? One alone always fits, if need be without stored activations."""
        s, tasks = self.settings, [*(slot.task for slot in self.slots), task]
        asked = sum(parts(len(t.ids)) for t in tasks) * (s.question_rows + s.aside_rows) * ROW_TOKENS
        spans = sum(len(t.ids) for t in tasks) * (s.span_share if s.span else 0.0)
        prefixes = len(tasks) * 2 * max(t.vectors for t in tasks)  # all as long as the longest, some with a distractor
        fits = asked + spans + prefixes <= self.positions
        if not fits and not self.slots and self.lm.recompute():
            self.positions = positions_for(self.lm, self.settings.memory or memory_of(self.lm))
        return fits or not self.slots

    def _step(self) -> int:
        """Take a step of every slot. Return the token positions it ran."""
        begun = time.perf_counter()
        prefix = self._chance.randrange(len(self.prompt_prefixes))
        distractors = self._distractors()
        rows, owner, answers, weights = self._ask(prefix, distractors)
        vectors = self._adam.vectors.clone().requires_grad_(True)
        prefixes = self._prefixes(vectors, self.prompt_prefixes[prefix], distractors)
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
            slot.cost += Cost(1, positions // len(self.slots), share)
        return positions

    def _distractors(self) -> list[int | None]:
        """For each slot, the slot whose memory is placed next to it in this step, or None.

        Either all slots have one or none has: with padding a step costs the same for one as for all.
        """
        count = len(self.slots)
        if count < 2 or self._chance.random() >= self.settings.company:
            return [None] * count
        return [(number + self._chance.randrange(1, count)) % count for number in range(count)]

    def _ask(
        self, prefix: int, distractors: Sequence[int | None]
    ) -> tuple[list[Row], list[int], list[TeacherPass], Tensor]:
        """(rows of this step behind a prompt prefix, their slots, the teacher's answers, the tokens' weights (T,))."""
        rows: list[Row] = []
        owner: list[int] = []
        answers: list[TeacherPass] = []
        weights: list[float] = []
        for number, slot in enumerate(self.slots):
            phase = slot.chance.choice(slot.phases)
            chosen = [
                (slot.lesson, i) for i in slot.chance.sample(phase, math.ceil(len(phase) * self.settings.span_share))
            ]
            chosen += slot.draw(prefix, self.settings.question_rows * slot.parts)
            others, off_topic = self._unrelated_to(number, distractors[number], prefix)
            for _ in range(self.settings.aside_rows * slot.parts if others or off_topic else 0):
                about_others = others and (slot.chance.random() < OTHER_DOCUMENTS or not off_topic)
                lesson = slot.chance.choice(others if about_others else off_topic)
                chosen.append((lesson, slot.chance.randrange(len(lesson.rows))))
            rows += [lesson.rows[i] for lesson, i in chosen]
            answers += [lesson.answers[i] for lesson, i in chosen]
            owner += [number] * len(chosen)
            weights += [weight for lesson, i in chosen for weight in lesson.weights[i]]
        return rows, owner, answers, torch.tensor(weights, device=self.lm.device)

    def _unrelated_to(self, number: int, distractor: int | None, prefix: int) -> tuple[list[Lesson], list[Lesson]]:
        """(questions about other documents than those in front of a slot's rows, off-topic prompts)."""
        present = {self.slots[n].task.document for n in (number, distractor) if n is not None}
        absent = [slot.unread for slot in self.slots if slot.task.document not in present]
        others = [unread[prefix] for unread in absent if prefix < len(unread) and unread[prefix].rows]
        unseen = [lesson for lesson in self.unseen_documents[prefix : prefix + 1] if lesson.rows]
        others += unseen * max(1, len(others))  # as often as those about documents of this pack
        off_topic = [lesson for lesson in self.off_topic[prefix : prefix + 1] if lesson.rows]
        return others, off_topic

    def _prefixes(self, vectors: Tensor, before: Tensor, distractors: Sequence[int | None]) -> list[Tensor]:
        """For each slot, the prompt prefix `before` (P, D) and its vectors. Those of a distractor stand before or behind them."""
        pieces = torch.split(vectors, [slot.task.vectors for slot in self.slots])
        out = []
        for slot, piece, other in zip(self.slots, pieces, distractors, strict=True):
            memories = [piece]
            if other is not None:
                memories.insert(slot.chance.randrange(2), pieces[other].detach())
            out.append(torch.cat([before, *(memory.to(before.dtype) for memory in memories)]))
        return out

    def _rates(self) -> Tensor:
        """(R, 1) learning rates: a short warm-up, then linear decay to a fiftieth."""
        s, age = self.settings, self._adam.age
        return s.learning_rate * (age / max(1, s.warmup)).clamp(max=1) * (1 - (age - 1) / s.steps).clamp(min=0.02)

    def _retire(self) -> list[Distilled]:
        over = [slot.age >= self.settings.steps for slot in self.slots]
        sizes = [slot.task.vectors for slot in self.slots]
        pieces = torch.split(self._adam.vectors.half().cpu(), sizes)
        out = [
            Distilled(slot.task, np.ascontiguousarray(piece.numpy()), slot.cost)
            for slot, piece, done in zip(self.slots, pieces, over, strict=True)
            if done
        ]
        stay = torch.tensor([not done for done in over]).repeat_interleave(torch.tensor(sizes))
        self._adam.keep(stay.to(self.lm.device))
        self.slots = [slot for slot, done in zip(self.slots, over, strict=True) if not done]
        return out
