"""Compact documents: read them, score their positions, and keep the best keys and values. Nothing is trained.

Letters: L layers, H key/value heads, N tokens of a document, K rows kept, E width of a head, M positions of a memory.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from memvec.kv import choose
from memvec.kv.choose import Budget, positions_for
from memvec.kv.kept import Kept
from memvec.kv.rotation import Rotation
from memvec.kv.scores import Read, Score, read
from memvec.lm.frozen import FrozenLM


def compact(
    lm: FrozenLM,
    rotation: Rotation,
    texts: Sequence[Sequence[int]],
    ratio: float = 8.0,
    budget: Budget = "head",
    score: Score = "repeat",
    shares: Tensor | None = None,
    longest: int | None = None,
) -> list[Kept]:
    """Keep 1 of `ratio` rows of each document of token ids, read in one batch.

    Args:
        lm: The frozen LM.
        rotation: Its rotation.
        texts: Token ids of each document.
        ratio: Tokens for each position of a memory.
        budget: "even" keeps as many rows in every head, "head" most where the scores are highest.
        score: "repeat" reads a document three times, "norm" once.
        shares: (L, H) the share of rows that each head keeps, from a profile. Without it, "head" compares the scores of all heads.
        longest: Pad to this length.
    """
    found = read(lm, texts, score, longest)
    return [chosen(rotation, found, row, ratio, budget, shares) for row in range(len(texts))]


def chosen(rotation: Rotation, found: Read, row: int, ratio: float, budget: Budget, shares: Tensor | None) -> Kept:
    """The rows that are kept of document number `row` of a batch."""
    tokens = found.lengths[row]
    positions = positions_for(tokens, ratio)
    scores = found.scores[:, row, :, -tokens:]
    if budget == "even":
        counts = choose.even(scores, positions)
    elif shares is None:
        counts = choose.adaptive(scores, positions)
    else:
        counts = choose.shared_out(shares, tokens, positions).to(scores.device)
    kept = choose.best(scores, counts)
    return gathered(rotation, found, row, kept, positions)


def gathered(rotation: Rotation, found: Read, row: int, kept: Tensor, positions: int) -> Kept:
    """The rows `kept` (L, H, N) of document number `row`, without their places. If keys cannot be moved, they take N positions."""
    tokens = found.lengths[row]
    keys, values, distances = [], [], []
    for layer, of_layer in enumerate(kept):
        heads, places = of_layer.nonzero(as_tuple=True)
        taken = found.keys[layer][row, :, -tokens:][heads, places].float()
        moves = -(found.before + places)
        keys.append(rotation.turned(layer, taken, moves) if rotation.movable else taken)
        values.append(found.values[layer][row, :, -tokens:][heads, places].float())
        distances.append(tokens - places)
    return Kept(
        positions if rotation.movable else tokens,
        kept.sum(-1).cpu(),
        torch.cat(distances),
        torch.cat(keys),
        torch.cat(values),
    )
