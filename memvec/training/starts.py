"""Find the start of a fit: of several random starts, the one behind which the text has the least surprisal.

The steps of a fit depend more on its start than on its text. The surprisal of the text's first tokens behind a start
predicts them (docs/LOG.md). K starts, M vectors, D width.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from memvec.lm.frozen import FrozenLM
from memvec.lm.head import head_pass
from memvec.training.layout import lay_out, row_length

TRIED = 6  # starts tried for each fit
TRIES_A_STEP = 3  # tries that cost as much as a step, because they have no backward pass
TEXTS_AT_ONCE = 16  # texts whose starts are tried together


def draw(scale: float, shape: tuple[int, int], ids: Sequence[int], salt: str) -> Tensor:
    """Draw K = TRIED starts (K, *shape) float32 of (M, D). They depend on `ids` and `salt`, not on other texts of a batch."""
    digest = hashlib.sha256(f"{salt} {' '.join(map(str, ids))}".encode()).digest()
    chance = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)  # torch takes 63 bits
    return torch.randn(TRIED, *shape, generator=chance) * scale


@torch.inference_mode()
def best(lm: FrozenLM, starts: Sequence[Tensor], texts: Sequence[Sequence[int]]) -> list[Tensor]:
    """Of the starts (K, M, D) of each text, the one behind which it has the least surprisal. All run in one batch."""
    rows = [(ids, start) for some, ids in zip(starts, texts, strict=True) for start in some]
    layout = lay_out(lm, [ids for ids, _ in rows], [len(start) for _, start in rows])
    rounded = torch.cat([start for _, start in rows]).half().to(lm.dtype)
    nats = head_pass(layout.hidden(lm, rounded), lm.head, layout.targets, gradient=False).nats
    behind = nats.new_zeros(len(rows)).index_add_(0, layout.owner, nats)
    parts = torch.split(behind, [len(some) for some in starts])
    return [some[part.argmin()] for some, part in zip(starts, parts, strict=True)]


def look_cost(tokens: int, vectors: int) -> int:
    """Token-steps of trying starts for N = `tokens`. A try counts as a third of a step."""
    return TRIED * row_length(tokens, vectors) // TRIES_A_STEP
