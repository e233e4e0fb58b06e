"""Selected rows go into a record and come out of it."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from reading import off, tokens

from memvec.kv.compact import compact
from memvec.kv.selection import Selection, sizes, spread
from memvec.lm.frozen import FrozenLM


@pytest.mark.parametrize(("bits", "most"), [(16, 1e-3), (8, 0.01), (4, 0.15)])
def test_stored_rows_come_back(tiny_lm: FrozenLM, bits: int, most: float) -> None:
    """What is counted comes back exactly, numbers as well as their bits allow."""
    kept = compact(tiny_lm, [tokens(tiny_lm, 80)], 4)[0]
    stored = kept.stored(bits)
    back = Selection.of(stored, kept.tokens)
    assert (stored.positions, stored.bits, back.tokens, back.positions) == (20, bits, 80, 20)
    assert torch.equal(back.counts, kept.counts) and torch.equal(back.distances, kept.distances)
    for name in ("keys", "values"):
        error = off(getattr(back, name), getattr(kept, name))
        assert most / 100 < error < most
    again = back.stored(bits)
    assert (again.distances == stored.distances).all() and (again.counts == stored.counts).all()


def test_memories_of_even_length(tiny_lm: FrozenLM) -> None:
    """They are even if all heads keep as many rows, which is not said anywhere but counted."""
    even = compact(tiny_lm, [tokens(tiny_lm, 20)], 4, "even")[0]
    counts = even.counts.clone()
    counts[0, 0] += 1
    assert even.even and not dataclasses.replace(even, counts=counts).even


def test_sizes_are_those_of_each_group() -> None:
    """Noise is as large as each head."""
    numbers, owners = torch.tensor([[3.0, 4.0], [0.0, 0.0], [1.0, 1.0]]), torch.tensor([0, 0, 1])
    torch.testing.assert_close(sizes(numbers, owners, 2)[:, 0], torch.tensor([2.5, 2.5, 1.0]))


def test_spread() -> None:
    """Each head has its own. What all keys of a head share does not count, since a bias can make that many times as large."""
    torch.manual_seed(0)
    counts = torch.tensor([[4000, 0], [1, 3000]])
    numbers = torch.cat([torch.randn(4000, 8) * 3, torch.randn(1, 8), torch.randn(3000, 8) / 50])
    found = spread(numbers, counts)
    assert found.shape == (7001, 1)
    assert found[0] == pytest.approx(3, rel=0.02) and found[-1] == pytest.approx(1 / 50, rel=0.02)
    assert found[4000] == pytest.approx(float(numbers[4000].square().mean().sqrt()))
    moved = torch.cat([numbers[:4000] + 100, numbers[4000:4001], numbers[4001:] - 1])
    torch.testing.assert_close(spread(moved, counts), found, rtol=1e-3, atol=0.0)


def test_spread_of_few_rows() -> None:
    """The means of few rows are near them. That does not make the spread smaller."""
    torch.manual_seed(0)
    assert spread(torch.randn(4000, 8), torch.full((2000, 1), 2)).square().mean() == pytest.approx(1, rel=0.02)
