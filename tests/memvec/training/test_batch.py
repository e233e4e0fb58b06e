"""Scores of a batch: a miss is never taken for a hit, and the best vectors are stored."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from memvec.settings import PackSettings
from memvec.training.batch import RaggedBatch, Score, fewer, missed
from memvec.training.static_batch import StaticBatch


def test_a_model_gone_wrong_is_never_taken_for_solved(tiny_lm: Any, tiny_settings: Callable[..., PackSettings]) -> None:
    assert missed(torch.full((4,), torch.nan), tiny_settings()).tolist() == [[1, 1]] * 4


@pytest.mark.parametrize("kind", [RaggedBatch, StaticBatch])
def test_an_unseen_text_counts_as_missed(kind: Any, tiny_lm: Any, tiny_settings: Callable[..., PackSettings]) -> None:
    """Neither before its first step nor while it is shown in part has a slot come out right."""
    batch = kind(tiny_lm, tiny_settings())
    batch.reserve([(20, 2), (8, 2)])
    for tokens in (20, 8):
        batch.add(tuple(range(10, 10 + tokens)), torch.full((2, tiny_lm.width), 0.1), fixed=0)
    batch.step([8, 8])
    (_, unseen), (_, seen) = batch.take([True, True])
    assert unseen == Score(20, 20, False)
    assert seen.whole and 0 < seen.wrong <= seen.thin <= 8


@pytest.mark.parametrize(
    ("counts", "least", "measured", "strict", "better"),
    [
        ((0, 3), (0, 4), True, False, True),
        ((1, 3), (0, 4), True, False, True),
        ((1, 3), (0, 4), True, True, False),
        ((0, 5), (1, 4), True, True, True),
        ((2, 3), (1, 4), True, True, True),
        ((0, 4), (0, 4), True, True, False),
        ((5, 5), (0, 0), False, True, True),
        ((5, 5), (0, 0), False, False, True),
    ],
)
def test_the_best_is_kept(counts: Any, least: Any, measured: bool, strict: bool, better: bool) -> None:
    found = fewer(torch.tensor([counts]), torch.tensor([least]), torch.tensor([measured]), strict)
    assert bool(found) is better
