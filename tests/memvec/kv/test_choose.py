"""Choosing rows: how many in each head, then the best."""

from __future__ import annotations

import torch
from torch import Tensor

from memvec.kv.choose import adaptive, best, even, positions_for, shared_out

LENGTHS, POSITIONS = [9, 5, 7], [3, 2, 7]
LAYERS, HEADS, LONGEST = 2, 3, 9


def scored(levels: int = 4) -> Tensor:
    """Scores (L, B, H, N) of few levels, so that many are equal."""
    chance = torch.Generator().manual_seed(0)
    scores = torch.randint(0, levels, (LAYERS, 3, HEADS, LONGEST), generator=chance).float()
    for row, tokens in enumerate(LENGTHS):
        scores[:, row, :, : LONGEST - tokens] = -1
    return scores


def by_hand(scores: Tensor, most: int) -> list[tuple[int, int, int]]:
    """(layer, head, place) of the highest scores (L, H, N), of equal ones the first."""
    places = [(layer, head, n) for layer in range(LAYERS) for head in range(HEADS) for n in range(scores.shape[-1])]
    return sorted(places, key=lambda place: -float(scores[place]))[:most]


def test_positions() -> None:
    """One for `ratio` tokens, at least one and at most all of them."""
    assert [positions_for(*case) for case in ((80, 8), (3, 8), (1, 1), (10, 0.5), (20, 8))] == [10, 1, 1, 10, 2]


def test_the_best_of_each_head() -> None:
    """As many as wanted, of equal scores the first, never padding."""
    scores = scored()
    counts = torch.randint(0, 6, scores.shape[:3], generator=torch.Generator().manual_seed(1))
    kept = best(scores, counts)
    assert torch.equal(kept.sum(-1), counts) and not (kept & (scores < 0)).any()
    for layer, row, head in torch.cartesian_prod(torch.arange(LAYERS), torch.arange(3), torch.arange(HEADS)).tolist():
        own = scores[layer, row, head].tolist()
        wanted = sorted(range(LONGEST), key=lambda n: -own[n])[: int(counts[layer, row, head])]
        assert kept[layer, row, head].nonzero().flatten().tolist() == sorted(wanted)


def test_even_counts() -> None:
    """Every head of a document keeps as many rows as it has positions."""
    counts = even(scored(), POSITIONS)
    assert counts.shape == (LAYERS, 3, HEADS)
    assert all((counts[:, row] == most).all() for row, most in enumerate(POSITIONS))


def test_adaptive_counts() -> None:
    """The highest scores of all heads together. A document has the counts that it has alone, without padding."""
    scores = scored()
    counts = adaptive(scores, POSITIONS)
    for row, (tokens, most) in enumerate(zip(LENGTHS, POSITIONS, strict=True)):
        own = scores[:, row, :, -tokens:]
        chosen = by_hand(own, most * LAYERS * HEADS)
        wanted = [[sum((layer, head) == where[:2] for where in chosen) for head in range(HEADS)] for layer in range(2)]
        assert counts[:, row].tolist() == wanted
        assert torch.equal(adaptive(own[:, None], [most])[:, 0], counts[:, row])
        assert torch.equal(best(own, counts[:, row]), best(scores, counts)[:, row, :, -tokens:])


def test_shares_give_all_positions() -> None:
    """Counts sum to the positions of all heads, are at most the tokens, and follow the shares."""
    chance = torch.Generator().manual_seed(2)
    for spread in (0.2, 1, 5):
        shares = torch.rand(6, 5, generator=chance).pow(spread)
        tokens = [40, 7, 100, 1, 333]
        for ratio in (1, 2, 7.3, 33):
            positions = [positions_for(many, ratio) for many in tokens]
            counts = shared_out(shares, tokens, positions)
            assert counts.sum((0, 2)).tolist() == [30 * most for most in positions]
            assert (counts >= 0).all() and (counts <= torch.tensor(tokens)[None, :, None]).all()
            order = shares.flatten().argsort(descending=True)
            by_share = counts.transpose(0, 1).flatten(1)[:, order]
            assert (by_share.diff(dim=1) <= 0).all()
            for row, (many, most) in enumerate(zip(tokens, positions, strict=True)):
                assert torch.equal(shared_out(shares, [many], [most])[:, 0], counts[:, row])


def test_shares_that_fit_are_kept() -> None:
    """Shares that already sum to the positions are only rounded, the largest remainders up."""
    assert shared_out(torch.tensor([[0.5, 0.1, 0.3, 0.1]]), [8], [2])[0, 0].tolist() == [4, 1, 2, 1]
    assert shared_out(torch.tensor([[1.0, 0.25], [0.25, 0.5]]), [4], [2])[:, 0].tolist() == [[4, 1], [1, 2]]


def test_shares_at_their_ends() -> None:
    """A full head gives what it cannot take to the others. Full heads alone may be too much. Zeros are shared alike."""
    assert shared_out(torch.tensor([[1.0, 0.2, 0.2]]), [10], [6])[0, 0].tolist() == [10, 4, 4]
    assert shared_out(torch.tensor([[1.0, 1.0, 1.0, 0.0]]), [10], [2])[0, 0].tolist() == [3, 3, 2, 0]
    assert shared_out(torch.zeros(1, 3), [10], [2])[0, 0].tolist() == [2, 2, 2]
