"""Selections: the rows of keys and values of a memory as tensors, between a stored record and a front.

Letters: L layers, H key/value heads, K rows in all heads, E width of a head, M positions, N tokens of the document.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

from memvec.formats.keys_values import dequantised, quantised
from memvec.types import KeysValues


@dataclass(frozen=True, slots=True, eq=False)
class Selection:
    """Rows of one memory, ordered by layer and head. In a head those of one document are in order of place."""

    tokens: int  # N, of the longest document
    positions: int  # M
    counts: Tensor  # (L, H) rows of each head, on the CPU
    distances: Tensor  # (K,) tokens to the end of the document, 1 for the last
    keys: Tensor  # (K, E) float32, not rotated
    values: Tensor  # (K, E) float32

    @classmethod
    def of(cls, stored: KeysValues, tokens: int, device: torch.device | str = "cpu") -> Selection:
        """The rows of a stored memory of a document of N `tokens`."""
        keys, values = dequantised(stored)
        return cls(
            tokens,
            stored.positions,
            torch.from_numpy(stored.counts.astype(np.int64)),
            torch.from_numpy(stored.distances.astype(np.int64)).to(device),
            torch.from_numpy(keys).to(device),
            torch.from_numpy(values).to(device),
        )

    @classmethod
    def behind(cls, parts: Sequence[Selection]) -> Selection:
        """The memories of a document's windows, in order, as one memory of the document."""
        following = [0, *accumulate(part.tokens for part in parts[:0:-1])][::-1]  # tokens behind each window
        distances = [part.distances + tokens for part, tokens in zip(parts, following, strict=True)]
        return cls._together(parts, sum(part.tokens for part in parts), distances)

    @classmethod
    def joined(cls, memories: Sequence[Selection]) -> Selection:
        """Memories of several documents side by side: each key keeps its distance to what follows them all.

        Their positions are added up. So the tokens before them have the distance of the longest document.
        """
        return cls._together(memories, max(m.tokens for m in memories), [m.distances for m in memories])

    @classmethod
    def _together(cls, parts: Sequence[Selection], tokens: int, distances: Sequence[Tensor]) -> Selection:
        counts = torch.stack([part.counts for part in parts])  # (B, L, H)
        heads = torch.arange(counts[0].numel()).repeat(len(parts))
        # Rows lie part by part, and are put head by head.
        order = heads.repeat_interleave(counts.flatten()).argsort(stable=True).to(parts[0].keys.device)
        return cls(
            tokens,
            sum(part.positions for part in parts),
            counts.sum(0),
            torch.cat(list(distances))[order],
            torch.cat([part.keys for part in parts])[order],
            torch.cat([part.values for part in parts])[order],
        )

    def stored(self, bits: int) -> KeysValues:
        """The rows as they are stored, with so many bits for each number."""
        counts = self.counts.numpy().astype(np.uint32)
        keys, values = (part.float().cpu().numpy() for part in (self.keys, self.values))
        codes, scales, value_codes, value_scales = quantised(keys, values, counts, bits)
        distances = self.distances.cpu().numpy().astype(np.uint32)
        return KeysValues(self.positions, bits, counts, distances, codes, scales, value_codes, value_scales)

    @property
    def even(self) -> bool:
        """Does every head keep as many rows? Then a plain cache can hold them."""
        return bool((self.counts == self.counts.flatten()[0]).all())


def sizes(numbers: Tensor, groups: Tensor, count: int) -> Tensor:
    """(K, 1) the root mean square of the numbers (K, E) in the group of each row. `groups` (K,) are below `count`."""
    squares = numbers.square().mean(1)
    sums = torch.zeros(count, device=numbers.device).index_add_(0, groups, squares)
    rows = torch.zeros(count, device=numbers.device).index_add_(0, groups, torch.ones_like(squares))
    return (sums / rows).sqrt()[groups, None]


def spread(numbers: Tensor, counts: Tensor) -> Tensor:
    """How far the numbers (K, E) of each head are from their mean: the root mean square (K, 1). `counts` (L, H).

    The mean is left out, since keys of models with biases are nearly all mean: Qwen2.5's are nine times as large as this. Each
    head has its own, since values of some heads are a hundred times as large as those of others.
    """
    rows = counts.flatten()
    heads = torch.arange(len(rows)).repeat_interleave(rows).to(numbers.device)
    rows = rows.to(numbers.device)
    means = numbers.new_zeros(len(rows), numbers.shape[1]).index_add_(0, heads, numbers) / rows.clamp(min=1)[:, None]
    means = means.masked_fill((rows == 1)[:, None], 0.0)  # a head's only row has nothing to differ from
    squares = (numbers - means[heads]).square().mean(1)
    return (squares.new_zeros(len(rows)).index_add_(0, heads, squares) / (rows - 1).clamp(min=1)).sqrt()[heads, None]
