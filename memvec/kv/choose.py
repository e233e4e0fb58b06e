"""Choose the rows that a memory keeps: how many in each head, then the best of them.

Letters: L layers, H key/value heads, N tokens of a document.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Budget = Literal["head", "even"]


def positions_for(tokens: int, ratio: float) -> int:
    """M: the mean number of rows that each head keeps."""
    return max(1, min(tokens, round(tokens / ratio)))


def best(scores: Tensor, counts: Tensor) -> Tensor:
    """(L, H, N) booleans: in each head the `counts` (L, H) positions with the highest scores (L, H, N).

    Of equal scores the earlier position is kept, so that the same scores give the same choice on every device.
    """
    order = scores.argsort(stable=True, dim=-1, descending=True)
    ranks = torch.empty_like(order).scatter_(
        -1, order, torch.arange(scores.shape[-1], device=scores.device).expand_as(order)
    )
    return ranks < counts[..., None]


def even(scores: Tensor, positions: int) -> Tensor:
    """Counts (L, H) with the same number in every head."""
    return torch.full(scores.shape[:2], positions, device=scores.device)


def adaptive(scores: Tensor, positions: int) -> Tensor:
    """Counts (L, H) of the highest scores of all heads together."""
    most = positions * scores.shape[0] * scores.shape[1]
    order = scores.flatten().argsort(dim=-1, descending=True, stable=True)[:most]
    kept = torch.zeros(scores.numel(), dtype=torch.bool, device=scores.device)
    kept[order] = True
    return kept.view(scores.shape).sum(-1)


def shared_out(shares: Tensor, tokens: int, positions: int) -> Tensor:
    """Counts (L, H) by the shares (L, H) [0..1] of a profile. They sum to `positions` times the heads.

    A head keeps at most all `tokens`. The largest remainders are rounded up.
    """
    whole = positions * shares.numel()
    wanted = (shares.double() * tokens).clamp(max=tokens)
    for _ in range(8):  # what full heads cannot take goes to the others, in proportion
        free = wanted < tokens
        missing = whole - float(wanted.sum())
        if abs(missing) < 1e-6 or not free.any():
            break
        room = wanted[free]
        wanted[free] = room + missing * (room / room.sum() if float(room.sum()) > 0 else 1 / int(free.sum()))
        wanted = wanted.clamp(0, tokens)
    counts = wanted.floor().long()
    left = whole - int(counts.sum())
    rest = (wanted - counts).masked_fill(counts >= tokens, -1.0).flatten()
    counts.view(-1)[rest.argsort(dim=-1, descending=True, stable=True)[: max(0, left)]] += 1
    return counts
