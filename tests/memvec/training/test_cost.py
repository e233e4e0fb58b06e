"""Costs add up, over attempts too."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from memvec.settings import PackSettings
from memvec.training.cost import Cost
from memvec.training.fit import FitEngine, Task


def test_sum() -> None:
    assert Cost(1, 20, 0.5) + Cost(2, 30, 0.25) == Cost(3, 50, 0.75)


def test_refits_cost_what_was_spent(tiny_lm: Any, tiny_settings: Callable[..., PackSettings]) -> None:
    """A task is not changed by a fit. The next attempt starts with its cost."""
    task = Task(0, tuple(range(10, 26)), 2)
    costs = []
    for spent in (Cost(), Cost(100, 1000, 50.0)):
        engine = FitEngine(tiny_lm, tiny_settings(max_steps=3, growth=0, max_corrections=0.0, margin=50.0))
        engine.add([dataclasses.replace(task, spent=spent)])
        ((fitted,),) = engine.run()
        costs.append(fitted.cost)
    first, second = costs
    assert (first.steps, second.steps) == (3, 103) and second.token_steps == first.token_steps + 1000
    assert second.seconds > 50
    with pytest.raises(dataclasses.FrozenInstanceError):
        task.attempt = 1  # type: ignore[misc]
