"""Put kept rows in front of prompts: turn keys to their places, and make the cache that prompts go on from.

Letters: B memories, L layers, H key/value heads, K rows of all memories, k rows of one layer, E width of a head,
P positions before the memories, M positions of the longest, C keys of a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from memvec.kv.fronts import Front, FrontCache, FrontLayer, HeadGroup
from memvec.kv.kept import Kept
from memvec.kv.rotation import Rotation
from memvec.lm.frozen import FrozenLM
from memvec.lm.scoring import Prefixes, alike, embedded, run_prefixes

WASTE = 8  # keys of a head that one more group of heads costs as much as


@dataclass(frozen=True, slots=True)
class _Group:
    """Heads of a layer that share padded tensors."""

    heads: list[int]
    at: Tensor  # (B, h, C) rows of the layer; its number of rows stands for padding
    distances: Tensor  # (B, h, C) 0 is padding
    full: bool


class Placing:
    """The places of memories behind the tokens before each. Made once, it places keys and values of any training step."""

    def __init__(
        self, lm: FrozenLM, rotation: Rotation, memories: Sequence[Kept | None], before: Sequence[Sequence[int]]
    ) -> None:
        """Rows may have no memory or no tokens before it. At least one has a memory."""
        self.lm, self.rotation = lm, rotation
        self.start = run_prefixes(lm, [embedded(lm, ids) for ids in before])
        some = [memory for memory in memories if memory is not None]
        self.layers, self.heads = some[0].counts.shape
        none = torch.zeros_like(some[0].counts)
        counts = torch.stack([none if m is None else m.counts for m in memories])  # (B, L, H)
        self.order = layer_first(torch.stack([m.counts for m in some])).to(lm.device)  # (K,)
        sizes = counts.sum((0, 2)).tolist()
        self.slices = [slice(end - size, end) for size, end in zip(sizes, accumulate(sizes), strict=True)]
        distances = torch.cat([m.distances for m in some])[self.order]
        ends = [len(ids) + m.positions for ids, m in zip(before, memories, strict=True) if m is not None]
        owners = torch.arange(len(some)).repeat_interleave(torch.tensor([len(m.distances) for m in some]))
        places = torch.tensor(ends, device=lm.device)[owners.to(lm.device)][self.order] - distances
        self.angles = rotation.angles(places, self.slices) if rotation.movable else None
        columns, self.positions = self.start.held.shape[1], max(m.positions for m in some)
        self.held = torch.zeros(len(memories), columns + self.positions, dtype=torch.long, device=lm.device)
        self.held[:, :columns] = self.start.held
        for row, memory in zip(self.held, memories, strict=True):
            if memory is not None:
                row[columns + self.positions - memory.positions :] = 1
        self.groups = [_groups(counts[:, layer], distances[part]) for layer, part in enumerate(self.slices)]

    def prefixes(self, keys: Tensor, values: Tensor) -> Prefixes:
        """The cache of all memories with keys and values (K, E), layer by layer as `order` puts them. Differentiable."""
        if self.angles is not None:
            keys = self.rotation.turn(keys, self.angles)
        keys, values = keys.to(self.lm.dtype), values.to(self.lm.dtype)
        columns = self.start.held.shape[1]
        empty = keys.new_zeros(len(self.held), self.heads, 0, keys.shape[1])
        layers = []
        for number, part in enumerate(self.slices):
            own = None if self.start.cache is None else self.start.cache.layers[number]  # type: ignore[attr-defined]
            front = Front(columns, self.positions, _filled(self.groups[number], keys[part], values[part]))
            layers.append(FrontLayer(front, *((empty, empty) if own is None else (own.keys, own.values))))
        return Prefixes(FrontCache(layers), self.held)


def placed(
    lm: FrozenLM, rotation: Rotation, memories: Sequence[Kept | None], before: Sequence[Sequence[int]]
) -> Prefixes:
    """The cache of a row for each memory, behind the tokens `before` it."""
    placing = Placing(lm, rotation, memories, before)
    some = [memory for memory in memories if memory is not None]
    keys, values = (torch.cat([getattr(m, name) for m in some])[placing.order] for name in ("keys", "values"))
    return placing.prefixes(keys, values)


def layer_first(counts: Tensor) -> Tensor:
    """(K,) the numbers of rows that lie memory by memory, each ordered by layer, in the order of layers. `counts` (B, L, H)."""
    of_layers = counts.sum(2)  # (B, L)
    layers = torch.arange(of_layers.shape[1]).repeat(len(of_layers)).repeat_interleave(of_layers.flatten())
    return layers.argsort(stable=True)


def _groups(counts: Tensor, distances: Tensor) -> list[_Group]:
    """Where rows of one layer go, for `counts` (B, H) of them in each head and `distances` (k,)."""
    begins = (counts.flatten().cumsum(0) - counts.flatten()).view_as(counts)
    padded = torch.cat([distances, distances.new_zeros(1)])
    made = []
    for heads in alike(counts.amax(0).tolist(), WASTE):
        sizes = counts[:, heads]  # (B, h)
        longest = int(sizes.max())
        steps = torch.arange(longest)
        at = torch.where(steps < sizes[..., None], begins[:, heads, None] + steps, len(distances)).to(distances.device)
        made.append(_Group(heads, at, padded[at], bool((sizes == longest).all())))
    return made


def _filled(groups: Sequence[_Group], keys: Tensor, values: Tensor) -> tuple[HeadGroup, ...]:
    nothing = keys.new_zeros(1, keys.shape[1])
    keys, values = torch.cat([keys, nothing]), torch.cat([values, nothing])
    return tuple(HeadGroup(g.heads, keys[g.at], values[g.at], g.distances, g.full) for g in groups)
