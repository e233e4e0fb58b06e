"""benchmarks/speed.py times the products of the same batch as the step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import speed
import torch

from memvec.lm.frozen import FrozenLM


def test_one_batch(tiny_lm: FrozenLM) -> None:
    step, positions, rows = speed.step_of(tiny_lm)
    assert positions == rows * (speed.TOKENS + speed.VECTORS - 1)
    assert _multiplied(step) == _multiplied(speed.products_of(tiny_lm, positions, rows))


def test_shares(tiny_lm: FrozenLM) -> None:
    step, _, _ = speed.step_of(tiny_lm)
    found = speed.shares(step, "cpu")
    assert abs(sum(found.values()) - 1) < 1e-6
    assert 0.05 < found["matrix products"] < 1


def _multiplied(run: Callable[[], Any]) -> int:
    """The multiplications in matrix products of a call, as torch's profiler counts them."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], with_flops=True) as seen:
        run()
    return sum(e.flops for e in seen.key_averages() if e.key in ("aten::mm", "aten::bmm", "aten::addmm"))
