"""Compact documents: read them, score their positions, and keep the best keys and values. Nothing is trained.

Letters: L layers, H key/value heads, N tokens of a document, K rows kept, E width of a head, M positions of a memory.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from memvec.kv import choose
from memvec.kv.choose import Budget, positions_for
from memvec.kv.rotation import rotation_of
from memvec.kv.scores import Read, Score, read
from memvec.kv.selection import Selection
from memvec.lm.frozen import FrozenLM


def compact(
    lm: FrozenLM,
    texts: Sequence[Sequence[int]],
    ratio: float = 8.0,
    budget: Budget = "head",
    score: Score = "repeat",
    shares: Tensor | None = None,
    longest: int | None = None,
) -> list[Selection]:
    """Keep 1 of `ratio` rows of each document, all read in one batch.

    Args:
        lm: The frozen LM.
        texts: Token ids of each document.
        ratio: Tokens for each position of a memory.
        budget: "even" keeps as many rows in every head, "head" most where the scores are highest.
        score: "repeat" reads a document three times, "norm" once.
        shares: (L, H) the share of rows that each head keeps, from a profile. Without it, "head" compares the scores of
            all heads.
        longest: Pad all documents to this length, so that the shape of the batch does not depend on them.
    """
    found = read(lm, texts, score, longest)
    positions = [positions_for(tokens, ratio) for tokens in found.lengths]
    if budget == "even":
        counts = choose.even(found.scores, positions)
    elif shares is None:
        counts = choose.adaptive(found.scores, positions)
    else:
        counts = choose.shared_out(shares, found.lengths, positions).to(found.scores.device)
    kept = choose.best(found.scores, counts)
    return gathered(lm, found, kept, positions)


def gathered(lm: FrozenLM, found: Read, kept: Tensor, positions: Sequence[int]) -> list[Selection]:
    """The rows `kept` (L, B, H, N) of each document, without their places. Keys that cannot be moved take N positions."""
    rotation, longest = rotation_of(lm.model), kept.shape[3]
    counts = kept.sum(3).cpu()  # (L, B, H)
    lengths = torch.tensor(found.lengths, device=kept.device)
    parts: list[tuple[Tensor, ...]] = []
    for layer, of_layer in enumerate(kept):
        row, head, column = of_layer.nonzero(as_tuple=True)
        distance = longest - column
        keys, values = (part[layer][row, head, column].float() for part in (found.keys, found.values))
        if rotation.movable:
            keys = rotation.turned(layer, keys, distance - lengths[row] - found.before)
        parts.append((row, distance, keys, values))
    owner, distances, keys, values = (torch.cat(part) for part in zip(*parts, strict=True))
    order = owner.argsort(stable=True)  # document by document, each in the order of layers
    sizes = counts.sum((0, 2)).tolist()
    pieces = zip(*(torch.split(part[order], sizes) for part in (distances, keys, values)), strict=True)
    return [
        Selection(tokens, most if rotation.movable else tokens, counts[:, row], *piece)
        for row, (tokens, most, piece) in enumerate(zip(found.lengths, positions, pieces, strict=True))
    ]
