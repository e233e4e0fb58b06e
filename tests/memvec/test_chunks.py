"""Pieces of a sequence cover it once, in order."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from memvec.chunks import chunked, slices


@pytest.mark.parametrize("items", [list(range(7)), tuple(range(7)), bytes(range(7)), np.arange(7), torch.arange(7)])
@pytest.mark.parametrize(("size", "lengths"), [(3, [3, 3, 1]), (7, [7]), (9, [7]), (1, [1] * 7)])
def test_pieces_cover_a_sequence(items: Any, size: int, lengths: list[int]) -> None:
    pieces = list(chunked(items, size))
    assert [len(piece) for piece in pieces] == lengths
    assert [int(item) for piece in pieces for item in piece] == list(range(7))
    assert all(type(piece) is type(items) for piece in pieces)


def test_without_items_there_is_no_piece() -> None:
    assert not list(chunked([], 3)) and not list(slices(0, 3))
