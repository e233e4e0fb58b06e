"""Choose the rows that memories keep: how many in each head, then the best of them. All documents of a batch at once.

Letters: L layers, B documents, H key/value heads, N tokens of the longest document. Shorter ones are padded on the left,
and padding scores less than any token.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

Budget = Literal["head", "even"]
FINEST = 2**20  # steps of a row that shares are rounded to, so that no sum's order decides about a row


def positions_for(tokens: int, ratio: float) -> int:
    """M: the mean number of rows that each head keeps."""
    return max(1, min(tokens, round(tokens / ratio)))


def best(scores: Tensor, counts: Tensor) -> Tensor:
    """(L, B, H, N) booleans: in each head the `counts` (L, B, H) positions with the highest scores (L, B, H, N).

    Of equal scores the earlier position is kept, so that the same scores give the same choice on every device.
    """
    order = scores.argsort(stable=True, dim=-1, descending=True)
    ranks = torch.empty_like(order).scatter_(
        -1, order, torch.arange(scores.shape[-1], device=scores.device).expand_as(order)
    )
    return ranks < counts[..., None]


def even(scores: Tensor, positions: Sequence[int]) -> Tensor:
    """Counts (L, B, H) with the same number in every head: the document's positions."""
    most = torch.tensor(positions, device=scores.device)
    return most[None, :, None].expand(scores.shape[:3])


def adaptive(scores: Tensor, positions: Sequence[int]) -> Tensor:
    """Counts (L, B, H) of each document's highest scores (L, B, H, N) in all heads together."""
    layers, _, heads, _ = scores.shape
    by_document = scores.transpose(0, 1)
    flat = by_document.flatten(1)  # (B, L·H·N)
    order = flat.argsort(dim=-1, descending=True, stable=True)
    most = torch.tensor(positions, device=scores.device)[:, None] * layers * heads
    among = torch.arange(flat.shape[1], device=scores.device) < most
    kept = torch.zeros_like(flat, dtype=torch.bool).scatter_(1, order, among)
    return kept.view(by_document.shape).sum(-1).transpose(0, 1)


def shared_out(shares: Tensor, tokens: Sequence[int], positions: Sequence[int]) -> Tensor:
    """Counts (L, B, H) by the shares (L, H) [0..1] of a profile. A document's sum to its positions times the heads.

    A head keeps at most all tokens of a document. The largest remainders are rounded up.
    """
    heads = shares.numel()
    full = torch.tensor(tokens, dtype=torch.double)[:, None]  # (B, 1)
    whole = torch.tensor(positions, dtype=torch.double)[:, None] * heads
    wanted = _filled_up((shares.detach().cpu().double().flatten() * full).clamp(max=full), full, whole)
    wanted = (wanted * FINEST).round() / FINEST
    counts = wanted.floor()
    left = whole - counts.sum(1, keepdim=True)
    rest = (wanted - counts).masked_fill(counts >= full, -1.0)
    order = rest.argsort(dim=-1, descending=True, stable=True)
    counts.scatter_add_(1, order, (torch.arange(heads) < left).double())
    return counts.long().view(len(tokens), *shares.shape).transpose(0, 1)


def _filled_up(wanted: Tensor, full: Tensor, whole: Tensor) -> Tensor:
    """Rows (B, L·H) wanted by heads that sum to `whole` (B, 1), none of them above `full` (B, 1).

    Heads that are not full share out what is missing, or too much, in proportion.
    """
    packed = (wanted * (wanted >= full)).sum(1, keepdim=True)
    # Full heads alone may be too much. Then all heads shrink.
    wanted = torch.where(packed > whole, wanted * (whole / wanted.sum(1, keepdim=True)), wanted)
    for _ in range(wanted.shape[1]):  # each time a head becomes full, or all is shared out
        free = wanted < full
        missing = whole - wanted.sum(1, keepdim=True)
        open_rows = (missing.abs() > 1e-6) & free.any(1, keepdim=True)
        if not open_rows.any():
            break
        room = wanted * free
        total = room.sum(1, keepdim=True)
        alike = free / free.sum(1, keepdim=True).clamp(min=1)
        added = missing * torch.where(total > 0, room / total.clamp(min=1e-300), alike)
        wanted = torch.where(open_rows & free, (wanted + added).clamp(min=0), wanted).minimum(full)
    return wanted
