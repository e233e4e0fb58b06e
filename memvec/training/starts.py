"""What a fit begins with: of several random starts the one that disturbs the LM least, and the next best in reserve.

How long a fit takes depends on its start more than on its text, and the surprisal of the text's beginning right behind
the start foretells it (docs/LOG.md). K starts, M vectors, D width.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from memvec.lm.frozen import FrozenLM
from memvec.lm.head import head_pass
from memvec.training.layout import lay_out, row_length

NORM = 20  # elements of starting vectors, in standard deviations of tokens' embeddings: fits end at such norms
TRIED = 6  # starts looked at
A_LOOK = 3  # looks that cost as much as a step: they have no backward pass
TEXTS_AT_ONCE = 16  # whose starts are looked at together


def scale_of(lm: FrozenLM) -> Tensor:
    """The standard deviation () of starts' elements; takes a pass over the embedding table."""
    return lm.table.float().std() * NORM


def draw(scale: Tensor, shape: tuple[int, int], ids: Sequence[int], salt: str, count: int = TRIED) -> Tensor:
    """Starts (K, *shape) float32 of (M, D) for `ids`; they depend on these and on the salt, not on what shares a batch."""
    digest = hashlib.sha256(f"{salt} {' '.join(map(str, ids))}".encode()).digest()
    chance = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)  # torch takes 63 bits
    return torch.randn(count, *shape, generator=chance).to(scale.device) * scale


@torch.inference_mode()
def ranked(lm: FrozenLM, starts: Sequence[Tensor], texts: Sequence[Sequence[int]]) -> list[Tensor]:
    """The starts (K, M, D) of each text, those first behind which it is the least surprise. All in one batch."""
    rows = [(ids, start) for some, ids in zip(starts, texts, strict=True) for start in some]
    layout = lay_out(lm, [ids for ids, _ in rows], [len(start) for _, start in rows])
    rounded = torch.cat([start for _, start in rows]).half().to(lm.dtype)
    nats = head_pass(layout.hidden(lm, rounded), lm.head, layout.targets, gradient=False).nats
    behind = nats.new_zeros(len(rows)).index_add_(0, layout.owner, nats)
    parts = torch.split(behind, [len(some) for some in starts])
    return [some[part.argsort(stable=True)] for some, part in zip(starts, parts, strict=True)]


def look_cost(tokens: int, vectors: int, count: int = TRIED) -> int:
    """Token-steps that ranking takes, a look at N = `tokens` counted as a third of a step."""
    return count * row_length(tokens, vectors) // A_LOOK
