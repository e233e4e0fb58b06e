"""Refine memories: train their keys and values for a few steps, until the model answers behind them as behind the text.

The teacher is the LM behind the text, the student the same LM behind the memory. Rows are questions about the text, and
prompts that have nothing to do with it, whose teacher has seen no text. A memory's rows, and all random choices, follow
from its own document, so that its neighbours in a batch do not change it.

Letters: B memories, L layers, K rows of all memories, E width of a head, N tokens, T scored tokens.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from memvec.kv.place import Placing
from memvec.kv.selection import Selection, spread
from memvec.lm.frozen import FrozenLM
from memvec.lm.head import TeacherPass, distil_pass
from memvec.lm.scoring import Prefixes, Row, embedded, padded, passes, run_rows
from memvec.training.lessons import Lesson, LossMix, teach, teach_each

Asked = tuple[int, bool, int]  # (memory, is it a question?, number of the row) of one row of a step
PART_TOKENS = 150  # a step asks the rows of the settings once for so many tokens of a document
BETAS = (0.9, 0.99)
LAST_RATE = 0.02  # of the full rate
WARM_UP = 10  # most steps in which the rate rises; a quarter of all steps, if that is less


@dataclass(frozen=True, slots=True)
class RefineTask:
    """A memory to be trained."""

    ids: tuple[int, ...]  # N tokens of its document
    selection: Selection
    questions: tuple[tuple[Row, ...], ...]  # about the document, for each prompt prefix


@dataclass(frozen=True, slots=True)
class Recipe:
    """How memories are trained."""

    steps: int = 20
    question_rows: int = 8  # for each part of a document
    aside_rows: int = 1
    aside_weight: float = 4.0
    key_rate: float = 0.1  # in spreads of the keys of each head
    value_rate: float = 0.1
    truth: float = 0.9  # this and the next two are those of ContextSettings
    first_truth: float | None = 0.4
    question_weight: float = 0.3
    seed: int = 0

    @property
    def mix(self) -> LossMix:
        """The loss of questions about a document."""
        return LossMix(self.truth, self.first_truth, question_weight=self.question_weight)


class Refiner:
    """Trains batches of memories with one LM."""

    def __init__(
        self,
        lm: FrozenLM,
        prompt_prefixes: Sequence[Sequence[int]],
        unrelated: Sequence[Sequence[Row]],
        recipe: Recipe,
    ) -> None:
        """`unrelated` rows are for each of the prompt prefixes."""
        self.lm, self.recipe = lm, recipe
        self.prompt_prefixes = [list(ids) for ids in prompt_prefixes]
        mix = LossMix(weight=recipe.aside_weight)
        self.unrelated: list[Lesson] = []
        for prefix, rows in zip(self.prompt_prefixes, unrelated, strict=True):
            self.unrelated.append(teach(lm, embedded(lm, prefix), rows, mix))

    def run(self, tasks: Sequence[RefineTask], tick: Callable[[int], None] = lambda positions: None) -> list[Selection]:
        """Train the memories of some documents together. `tick` gets the positions of each step."""
        recipe, lm = self.recipe, self.lm
        plans = self._plans(tasks)
        lessons, where = self._teach(tasks, plans)
        placings = [
            Placing(lm.model, [task.selection for task in tasks], [prefix] * len(tasks))
            for prefix in self.prompt_prefixes
        ]
        order = placings[0].order
        adams = []
        for name, rate in (("keys", recipe.key_rate), ("values", recipe.value_rate)):
            parts = [getattr(task.selection, name) for task in tasks]
            spreads = torch.cat([spread(p, t.selection.counts) for p, t in zip(parts, tasks, strict=True)])
            adams.append(_Adam(torch.cat(parts)[order], rate * spreads[order]))
        for step, plan in enumerate(plans):
            form = step % len(self.prompt_prefixes)
            rows = [
                (lessons[form], where[form][memory, number], memory)
                if asked
                else (self.unrelated[form], number, memory)
                for memory, asked, number in plan
            ]
            prefixes = placings[form].prefixes(*(adam.numbers.requires_grad_(True) for adam in adams))
            positions = self._step(prefixes, rows, adams, self._rate(step))
            tick(positions)
        back = order.argsort()
        lengths = [len(task.selection.distances) for task in tasks]
        trained = [torch.split(adam.numbers.detach()[back], lengths) for adam in adams]
        return [
            dataclasses.replace(task.selection, keys=k, values=v) for task, k, v in zip(tasks, *trained, strict=True)
        ]

    def _plans(self, tasks: Sequence[RefineTask]) -> list[list[Asked]]:
        """The rows of every step. Each question of a document is drawn once before any is drawn again."""
        recipe, forms = self.recipe, len(self.prompt_prefixes)
        plans: list[list[Asked]] = [[] for _ in range(recipe.steps)]
        for memory, task in enumerate(tasks):
            chance = random.Random(f"{recipe.seed} {task.ids}")
            parts = max(1, round(len(task.ids) / PART_TOKENS))
            left: list[list[int]] = [[] for _ in range(forms)]
            for step, plan in enumerate(plans):
                form = step % forms
                questions = task.questions[form]
                for _ in range(min(recipe.question_rows * parts, len(questions))):
                    if not left[form]:
                        left[form] = chance.sample(range(len(questions)), len(questions))
                    plan.append((memory, True, left[form].pop()))
                for _ in range(recipe.aside_rows * parts if self.unrelated[form].rows else 0):
                    plan.append((memory, False, chance.randrange(len(self.unrelated[form].rows))))
        return plans

    def _teach(
        self, tasks: Sequence[RefineTask], plans: Sequence[Sequence[Asked]]
    ) -> tuple[list[Lesson], list[dict[tuple[int, int], int]]]:
        """(lessons by prompt prefix, where in them each question is). Only questions that will be asked are taught."""
        forms = len(self.prompt_prefixes)
        lessons, where = [], []
        for form, prefix in enumerate(self.prompt_prefixes):
            asked = sorted({(m, n) for plan in plans[form::forms] for m, is_question, n in plan if is_question})
            fronts = [embedded(self.lm, [*prefix, *task.ids]) for task in tasks]
            rows = [tasks[memory].questions[form][number] for memory, number in asked]
            lessons.append(teach_each(self.lm, fronts, [memory for memory, _ in asked], rows, self.recipe.mix))
            where.append({one: place for place, one in enumerate(asked)})
        return lessons, where

    def _step(
        self, prefixes: Prefixes, rows: Sequence[tuple[Lesson, int, int]], adams: Sequence[_Adam], rate: float
    ) -> int:
        """One step of all memories. Return the positions it ran."""
        lm = self.lm
        asked = [lesson.rows[number] for lesson, number, _ in rows]
        hidden = run_rows(lm, prefixes, [memory for *_, memory in rows], asked)
        said = TeacherPass(
            torch.cat([lesson.answers[number].ids for lesson, number, _ in rows]),
            torch.cat([lesson.answers[number].log_probs for lesson, number, _ in rows]),
        )
        weights = torch.tensor([w for lesson, number, _ in rows for w in lesson.weights[number]], device=lm.device)
        _, upstream = distil_pass(hidden.detach(), lm.head, said)
        gradients = torch.autograd.grad(
            hidden, [adam.numbers for adam in adams], upstream * weights[:, None].to(upstream.dtype)
        )
        for adam, gradient in zip(adams, gradients, strict=True):
            adam.descend(gradient.float(), rate)
        return padded(asked, passes(lm, asked))

    def _rate(self, step: int) -> float:
        """The share of the full rate in a step: a short warm-up, then linear decay."""
        steps = self.recipe.steps
        rising = min(1.0, (step + 1) / max(1, min(WARM_UP, steps // 4)))
        return rising * max(LAST_RATE, 1 - step / steps)


class _Adam:
    """Numbers (K, E) and their moments."""

    def __init__(self, numbers: Tensor, rate: Tensor) -> None:
        """`rate` (K, 1) is the full learning rate of each row."""
        self.numbers, self.rate, self.age = numbers.detach().clone(), rate, 0
        self.first, self.second = torch.zeros_like(numbers), torch.zeros_like(numbers)

    def descend(self, gradient: Tensor, share: float) -> None:
        """Take a step at a share of the full rate."""
        self.age += 1
        one, two = BETAS
        self.first.mul_(one).add_(gradient, alpha=1 - one)
        self.second.mul_(two).addcmul_(gradient, gradient, value=1 - two)
        mean, size = self.first / (1 - one**self.age), (self.second / (1 - two**self.age)).sqrt()
        self.numbers = self.numbers.detach() - share * self.rate * mean / (size + 1e-10)
