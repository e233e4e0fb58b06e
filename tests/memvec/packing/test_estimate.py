"""What a dry run reckons with on a GPU: rows that stay as long as the longest, and steps that are compiled later on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from memvec.lm.compile import COMPILING, GAIN, PAYS_AFTER, Fused
from memvec.packing import estimate as estimating
from memvec.packing.estimate import _of_whole_rows, estimate
from memvec.settings import PackSettings
from memvec.training.fit import FitEngine, Task
from memvec.training.static_batch import StaticBatch


@pytest.mark.parametrize("growth", [0, 12])
def test_token_steps_of_whole_rows_are_what_they_come_to(
    growth: int, tiny_lm: Any, tiny_settings: Callable[..., PackSettings]
) -> None:
    settings = tiny_settings(max_steps=90, growth=growth, max_corrections=0.0)
    ragged, static = FitEngine(tiny_lm, settings), FitEngine(tiny_lm, settings, StaticBatch(tiny_lm, settings))
    ragged.most = 1  # so that nothing is padded
    came_to: list[int] = []
    planned = [Task(k, tuple(range(10 + k, 42 + 3 * k - k % 2)), 4) for k in range(5)]
    for engine in (ragged, static):
        counted: list[int] = []
        engine.add(Task(task.key, task.ids, task.vectors) for task in planned)
        assert len([one for done in engine.run(counted.append) for one in done]) == 5
        came_to.append(sum(counted))
    assert came_to[1] > 1.1 * came_to[0]
    sizes = [(len(task.ids), task.vectors) for task in planned]
    assert _of_whole_rows(came_to[0], sizes, growth) == pytest.approx(came_to[1], rel=0.05)


def test_steps_that_will_be_compiled_are_reckoned_as_faster_and_compiling_as_well() -> None:
    model = nn.ModuleList([nn.Linear(2, 2)])
    for on in (True, False):
        assert Fused(model, on).seconds(PAYS_AFTER, 1e5) == pytest.approx(PAYS_AFTER / 1e5)
    more = PAYS_AFTER + 1e6
    assert Fused(model, True).seconds(more, 1e5) == pytest.approx(PAYS_AFTER / 1e5 + COMPILING + 1e6 / 1e5 / GAIN)
    assert Fused(model, False).seconds(more, 1e5) == pytest.approx(more / 1e5)


def test_a_dry_run_reckons_so_where_batches_are_a_gpus(
    tiny: str, tmp_path: Path, tiny_settings: Callable[..., PackSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "t.txt").write_text("It is a truth universally acknowledged, that a single man must want a wife. " * 3)
    settings = tiny_settings(max_steps=40, growth=12)

    def said() -> estimating.Estimate:
        return estimate([tmp_path / "t.txt"], tmp_path / "s", model=tiny, settings=settings)

    ragged = said()
    monkeypatch.setattr(estimating, "FitEngine", lambda lm, chosen: FitEngine(lm, chosen, StaticBatch(lm, chosen)))
    monkeypatch.setattr(Fused, "seconds", lambda self, positions, speed: 1e6)
    whole = said()
    assert whole.tokens == ragged.tokens and whole.token_steps > 1.1 * ragged.token_steps
    assert ragged.seconds < 1e6 <= whole.seconds
