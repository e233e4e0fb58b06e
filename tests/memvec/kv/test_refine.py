"""Training selected rows: the loss falls, the rest of the world stays as it is."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from reading import off, prose, tokens
from torch import Tensor

from memvec.kv.compact import compact
from memvec.kv.place import Placing, placed
from memvec.kv.refine import Recipe, Refiner, RefineTask
from memvec.kv.selection import Selection, spread
from memvec.lm.frozen import FrozenLM
from memvec.lm.head import TeacherPass, distil_pass
from memvec.lm.scoring import Row, embedded, run_rows
from memvec.training.lessons import LossMix, teach

FORMS: list[list[int]] = [[], [5, 9]]  # two beginnings of prompts


def rows(lm: FrozenLM, ids: Sequence[int], many: int) -> tuple[Row, ...]:
    """Pieces of a text as questions whose last four tokens are the answer."""
    return tuple(Row(tuple(ids[n : n + 8]), 4) for n in range(0, 8 * many, 8))


def task(lm: FrozenLM, text: list[int], ratio: float = 8) -> RefineTask:
    """A memory of a text, and questions about it."""
    questions = rows(lm, text, 6)
    return RefineTask(tuple(text), compact(lm, [text], ratio)[0], (questions, questions[::-1]))


def texts(lm: FrozenLM) -> list[list[int]]:
    """Three texts of several lengths."""
    ids = prose(lm, 180)
    return [ids[:64], ids[64:114], ids[114:180]]


def refiner(lm: FrozenLM, **changes: Any) -> Refiner:
    """It trains quickly, with rows about nothing if any."""
    aside = rows(lm, tokens(lm, 40, 7), 3)
    return Refiner(lm, FORMS, [aside, aside], Recipe(**{"steps": 6, **changes}))


def loss(lm: FrozenLM, kept: Selection, one: RefineTask, form: int, mix: LossMix) -> float:
    """What a step would lower: the weighted loss of all of a document's questions."""
    text = embedded(lm, [*FORMS[form], *one.ids])
    questions = one.questions[form]
    lesson = teach(lm, text, questions, mix)
    hidden = run_rows(lm, placed(lm.model, [kept], [FORMS[form]]), [0] * len(questions), lesson.rows)
    said = TeacherPass(torch.cat([a.ids for a in lesson.answers]), torch.cat([a.log_probs for a in lesson.answers]))
    losses, _ = distil_pass(hidden.detach(), lm.head, said)
    return float((losses * torch.tensor([w for of_row in lesson.weights for w in of_row])).sum())


def test_the_loss_falls(tiny_lm: FrozenLM) -> None:
    """Of every memory, behind every beginning, and further with more steps."""
    tasks = [task(tiny_lm, text) for text in texts(tiny_lm)]
    some, more = (refiner(tiny_lm, steps=steps).run(tasks) for steps in (4, 16))
    mix = Recipe().mix
    for one, few, many in zip(tasks, some, more, strict=True):
        for form in range(2):
            start, then, end = (loss(tiny_lm, kept, one, form, mix) for kept in (one.selection, few, many))
            assert end < then < start
            assert end < 0.8 * start
        for name in ("tokens", "positions"):
            assert getattr(many, name) == getattr(one.selection, name)
        assert torch.equal(many.counts, one.selection.counts) and torch.equal(many.distances, one.selection.distances)


def test_no_steps_change_nothing(tiny_lm: FrozenLM) -> None:
    """Not even the order of rows."""
    tasks = [task(tiny_lm, text) for text in texts(tiny_lm)]
    for one, kept in zip(tasks, refiner(tiny_lm, steps=0).run(tasks), strict=True):
        assert torch.equal(kept.keys, one.selection.keys) and torch.equal(kept.values, one.selection.values)


def test_rows_that_are_not_trained_stay(tiny_lm: FrozenLM) -> None:
    """With a rate of zero for keys, values change and keys do not."""
    one = task(tiny_lm, texts(tiny_lm)[0])
    kept = refiner(tiny_lm, key_rate=0.0).run([one])[0]
    assert torch.equal(kept.keys, one.selection.keys) and off(kept.values, one.selection.values) > 0.01


def test_neighbours_change_little(tiny_lm: FrozenLM) -> None:
    """A memory is trained alike alone, in a batch and in another order. Adam's first steps enlarge rounding."""
    tasks = [task(tiny_lm, text) for text in texts(tiny_lm)]
    together, turned = refiner(tiny_lm).run(tasks), refiner(tiny_lm).run(tasks[::-1])[::-1]
    for one, kept, other in zip(tasks, together, turned, strict=True):
        alone = refiner(tiny_lm).run([one])[0]
        for name in ("keys", "values"):
            change = float((getattr(kept, name) - getattr(one.selection, name)).norm())
            for again in (alone, other):
                assert float((getattr(kept, name) - getattr(again, name)).norm()) < 0.02 * change
    again = refiner(tiny_lm).run(tasks)
    assert all(torch.equal(kept.keys, same.keys) for kept, same in zip(together, again, strict=True))


def test_the_seed_chooses_rows(tiny_lm: FrozenLM) -> None:
    """Each question is asked once before any is asked again, in an order of the seed and the document."""
    one = task(tiny_lm, texts(tiny_lm)[0])
    plans = [refiner(tiny_lm, steps=6, question_rows=2, seed=seed)._plans([one]) for seed in (0, 0, 1)]
    asked = [[row for plan in made for row in plan] for made in plans]
    assert asked[0] == asked[1] != asked[2]
    for form in range(2):
        first = [number for plan in plans[0][form::2] for _, question, number in plan if question]
        assert sorted(first) == list(range(6))


def test_unrelated_prompts_are_answered_as_without_a_memory(tiny_lm: FrozenLM) -> None:
    """Their rows have a teacher that saw no text. Trained with them, a memory disturbs them less."""
    one = task(tiny_lm, texts(tiny_lm)[0])
    aside = rows(tiny_lm, tokens(tiny_lm, 40, 7), 3)
    lesson = teach(tiny_lm, embedded(tiny_lm, FORMS[1]), aside, LossMix())
    said = TeacherPass(torch.cat([a.ids for a in lesson.answers]), torch.cat([a.log_probs for a in lesson.answers]))
    harms = []
    for weight in (0.0, 4.0):
        kept = refiner(tiny_lm, steps=16, aside_weight=weight).run([one])[0]
        hidden = run_rows(tiny_lm, placed(tiny_lm.model, [kept], [FORMS[1]]), [0] * 3, lesson.rows)
        harms.append(float(distil_pass(hidden.detach(), tiny_lm.head, said)[0].sum()))
    assert harms[1] < 0.7 * harms[0]


def test_positions_are_counted(tiny_lm: FrozenLM) -> None:
    """Each step tells how many positions it ran."""
    ticks: list[int] = []
    refiner(tiny_lm, steps=3).run([task(tiny_lm, texts(tiny_lm)[0])], ticks.append)
    assert len(ticks) == 3 and min(ticks) >= 8 * 5  # rows of eight tokens: four questions and one aside


@pytest.mark.parametrize("name", ["keys", "values"])
def test_gradients_are_finite_differences(tiny_lm: FrozenLM, name: str) -> None:
    """Of the logits behind a front with heads of every length, with tokens before it, down to keys without rotation."""
    lm = FrozenLM(copy.deepcopy(tiny_lm.model).double(), tiny_lm.tokenizer)
    memories = [compact(tiny_lm, [tokens(tiny_lm, many, many)], 3)[0] for many in (14, 9)]
    memories = [dataclasses.replace(m, keys=m.keys.double(), values=m.values.double()) for m in memories]
    placing = Placing(lm.model, memories, [(5, 6), (7,)])
    tensors = {n: torch.cat([getattr(m, n) for m in memories])[placing.order] for n in ("keys", "values")}
    asked = [Row(tuple(tokens(tiny_lm, 5, 2)), 1), Row(tuple(tokens(tiny_lm, 3, 3)), 1)]

    def value(numbers: Tensor) -> Tensor:
        hidden = run_rows(lm, placing.prefixes(**{**tensors, name: numbers}), [0, 1], asked)
        return (hidden * torch.linspace(-1, 1, hidden.shape[1], dtype=torch.double)).sum()

    numbers = tensors[name].clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(value(numbers), numbers)
    chance = torch.Generator().manual_seed(0)
    for _ in range(4):
        way = torch.randn(numbers.shape, generator=chance, dtype=torch.double)
        with torch.no_grad():
            # Llama's norms are in float32 whatever the dtype, so steps cannot be much smaller.
            slope = (value(numbers + 3e-3 * way) - value(numbers - 3e-3 * way)) / 6e-3
        assert float((gradient * way).sum()) == pytest.approx(float(slope), rel=2e-3, abs=1e-3)
    assert (gradient.abs().amax(1) > 0).all()  # every row is seen by some question


def test_each_head_has_its_own_rate(tiny_lm: FrozenLM) -> None:
    """The first step of Adam moves a number by its rate. So keys and values that differ little in their head move little."""
    one = task(tiny_lm, texts(tiny_lm)[0], ratio=2)
    rows_of = one.selection.counts.flatten().tolist()
    size = torch.cat([torch.full((n, 1), 0.01 if head % 2 else 1.0) for head, n in enumerate(rows_of)])
    one = dataclasses.replace(one, selection=dataclasses.replace(one.selection, values=one.selection.values * size))
    (made,) = refiner(tiny_lm, steps=1, key_rate=0.2, value_rate=0.1).run([one])
    for name, rate in (("keys", 0.2), ("values", 0.1)):
        before = getattr(one.selection, name)
        moved = (getattr(made, name) - before).abs()
        spreads = spread(before, one.selection.counts)
        assert 0.9 < float((moved / (rate * spreads)).median()) < 1.001
        assert float((moved / (rate * spreads)).max()) < 1.001
