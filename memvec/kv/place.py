"""Put selected rows in front of prompts: turn keys to their places, and make the cache that prompts go on from.

Letters: B memories, L layers, H key/value heads, K rows of all memories, k rows of one layer, E width of a head,
P positions before the memories, M positions of the longest, C keys of a head.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from memvec.errors import UsageError
from memvec.kv.before import run_before
from memvec.kv.fronts import Front, FrontCache, FrontLayer, HeadGroup, sees_fronts
from memvec.kv.rotation import rotation_of
from memvec.kv.scores import windows
from memvec.kv.selection import Selection
from memvec.lm import compat
from memvec.lm.device import device_of
from memvec.lm.layers import AWAY
from memvec.lm.scoring import Prefixes, alike

WASTE = 8  # keys of a head that one more group of heads costs as much as


@dataclass(frozen=True, slots=True)
class _Group:
    """Heads of a layer that share padded tensors."""

    heads: list[int]
    at: Tensor  # (B, h, C) rows of the layer; its number of rows stands for padding
    distances: Tensor  # (B, h, C) 0 is padding
    full: bool


class Placing:
    """The places of memories behind the tokens before each. Made once, it places keys and values of any training step.

    Every key keeps the distances that it had when the document was read: to the prompt, which goes on at P + M, and to
    the tokens before the memory. So those are moved back by N - M positions.
    """

    def __init__(self, model: Any, memories: Sequence[Selection | None], before: Sequence[Sequence[int]]) -> None:
        """Rows may have no memory or no tokens before it. At least one has a memory."""
        self.dtype, self.rotation = model.dtype, rotation_of(model)
        device = device_of(model.get_input_embeddings())
        some = [memory for memory in memories if memory is not None]
        self.layers, self.heads = some[0].counts.shape
        none = torch.zeros_like(some[0].counts)
        self.counts = torch.stack([none if m is None else m.counts for m in memories])  # (B, L, H)
        self.order = layer_first(torch.stack([m.counts for m in some])).to(device)  # (K,)
        sizes = self.counts.sum((0, 2)).tolist()
        self.slices = [slice(end - size, end) for size, end in zip(sizes, accumulate(sizes), strict=True)]
        distances = torch.cat([m.distances.to(device) for m in some])[self.order]
        ends = [len(ids) + m.positions for ids, m in zip(before, memories, strict=True) if m is not None]
        owners = torch.arange(len(some)).repeat_interleave(torch.tensor([len(m.distances) for m in some]))
        places = torch.tensor(ends, device=device)[owners.to(device)][self.order] - distances
        self.angles = self.rotation.angles(places, self.slices) if self.rotation.movable else None
        run, held = run_before(model, before)
        self.before = [] if run is None else list(zip(self._moved(run[0], memories), run[1], strict=True))
        columns, self.positions = held.shape[1], max(m.positions for m in some)
        self.held = torch.zeros(len(memories), columns + self.positions, dtype=torch.long, device=device)
        self.held[:, :columns] = held
        for row, memory in zip(self.held, memories, strict=True):
            if memory is not None:
                row[columns + self.positions - memory.positions :] = 1
        self.outside = _outside(held, memories)
        self.bare = tuple(
            n for n, (m, ids) in enumerate(zip(memories, before, strict=True)) if m is None and not len(ids)
        )
        self.groups = [_groups(self.counts[:, layer], distances[part]) for layer, part in enumerate(self.slices)]

    def _moved(self, keys: Tensor, memories: Sequence[Selection | None]) -> Tensor:
        """Keys (L, B, H, P, E) before the memories, moved back where positions are saved."""
        saved = torch.tensor([0 if m is None else m.tokens - m.positions for m in memories])
        if not self.rotation.movable or not bool(saved.any()):
            return keys
        rows = keys[0, ..., 0].numel()  # of one layer
        moves = -saved.to(keys.device)[None, :, None, None].expand(keys.shape[:4]).flatten()
        angles = self.rotation.angles(moves, [slice(n * rows, (n + 1) * rows) for n in range(len(keys))])
        return self.rotation.turn(keys.float().flatten(0, 3), angles).view(keys.shape).to(self.dtype)

    def prefixes(self, keys: Tensor, values: Tensor) -> Prefixes:
        """The cache of all memories with keys and values (K, E), layer by layer as `order` puts them. Differentiable."""
        if self.angles is not None:
            keys = self.rotation.turn(keys, self.angles)
        keys, values = keys.to(self.dtype), values.to(self.dtype)
        columns = self.held.shape[1] - self.positions
        empty = keys.new_zeros(len(self.held), self.heads, 0, keys.shape[1])
        layers = []
        for number, part in enumerate(self.slices):
            groups = _filled(self.groups[number], keys[part], values[part])
            front = Front(columns, self.positions, self.outside, groups, self.bare)
            layers.append(FrontLayer(front, *(self.before[number] if self.before else (empty, empty))))
        return Prefixes(FrontCache(layers), self.held)


def placed(model: Any, memories: Sequence[Selection | None], before: Sequence[Sequence[int]]) -> Prefixes:
    """The cache of a row for each memory, behind the tokens `before` it. One of them at least is a memory.

    If all heads keep as many rows in every memory, it is a plain cache, for any attention. Else it is a `FrontCache`. Where
    the attention takes it, it is one also for sliding windows, because a plain cache does not know the distances of its
    keys, and beside rows without a memory, which it leaves as they are.

    Raises:
        UsageError: Heads keep different numbers of rows, and the model's attention does not take them.
    """
    even = all(fits_plain(memory) for memory in memories if memory is not None)
    if not even:
        check_attention(model)
    front = not even or (sees_fronts(model) and (windowed(model) or None in memories))
    made = _placed(model, memories, before)
    return made if front else plain(made)


def check_attention(model: Any) -> None:
    """Raise UsageError for a model whose attention does not see fronts."""
    if not sees_fronts(model):
        raise UsageError(
            "the heads of this memory keep other numbers of keys than it takes positions, and the model's attention "
            f"({model.config._attn_implementation}) cannot take them. Load the model with attn_implementation='sdpa'"
            + (", or pack it with an even budget, KVSettings(budget='even')." if rotation_of(model).movable else ".")
        )


def placed_plain(model: Any, memory: Selection, before: Sequence[int]) -> Prefixes:
    """A plain cache of one memory behind the tokens `before` it. UsageError if heads keep different numbers of rows."""
    if not fits_plain(memory):
        raise UsageError(
            "the heads of this memory keep other numbers of keys than it takes positions, which a plain cache cannot hold. "
            + (
                "Pack it with an even budget, KVSettings(budget='even')."
                if rotation_of(model).movable
                else "Use context vectors: kind='context'."
            )
        )
    return plain(_placed(model, [memory], [before]))


def fits_plain(memory: Selection) -> bool:
    """Does every head keep a row for each position?"""
    return memory.even and int(memory.counts[0, 0]) == memory.positions


def _check(model: Any) -> None:
    """Raise UsageError for a model on several devices, or one that attends within chunks."""
    places = set(map(str, (getattr(model, "hf_device_map", None) or {}).values())) - {*AWAY}  # those run on the others
    if len(places) > 1:
        raise UsageError(
            f"the model is on several devices ({', '.join(sorted(places))}), and keys and values go to one. Load it on one "
            "device, or use context vectors: kind='context'."
        )
    if "chunked_attention" in (getattr(model.config.get_text_config(), "layer_types", None) or ()):
        raise UsageError(
            f"{model.config.model_type} models attend within chunks of positions, which selected keys do not have. Use context "
            "vectors: kind='context'."
        )


def _placed(model: Any, memories: Sequence[Selection | None], before: Sequence[Sequence[int]]) -> Prefixes:
    _check(model)
    placing = Placing(model, memories, before)
    some = [memory for memory in memories if memory is not None]
    device = placing.held.device
    keys, values = (torch.cat([getattr(m, n).to(device) for m in some])[placing.order] for n in ("keys", "values"))
    return placing.prefixes(keys, values)


def plain_windows(model: Any, prefixes: Prefixes) -> bool:
    """Would sliding windows count the columns of this cache, instead of distances?"""
    return windowed(model) and not isinstance(prefixes.cache, FrontCache)


def windowed(model: Any) -> bool:
    """Has a model sliding windows?"""
    return any(width < math.inf for width in windows(model, 1))


def plain(prefixes: Prefixes) -> Prefixes:
    """The same as a plain cache, for memories whose heads all keep as many rows as the memory takes positions."""
    cache = compat.empty_cache()
    for number, layer in enumerate(prefixes.cache.layers):  # type: ignore[attr-defined]
        (group,) = layer.front.groups
        # The padding of shorter memories goes in front of them, where the mask has it.
        place = (group.distances > 0).to(torch.uint8).argsort(dim=-1, stable=True)[..., None]
        keys, values = (part.gather(2, place.expand_as(part)) for part in (group.keys, group.values))
        cache.update(torch.cat([layer.keys, keys], 2), torch.cat([layer.values, values], 2), number)
    return Prefixes(cache, prefixes.held)


def layer_first(counts: Tensor) -> Tensor:
    """(K,) the numbers of rows that lie memory by memory, each ordered by layer, in the order of layers. `counts` (B, L, H)."""
    of_layers = counts.sum(2)  # (B, L)
    layers = torch.arange(of_layers.shape[1]).repeat(len(of_layers)).repeat_interleave(of_layers.flatten())
    return layers.argsort(stable=True)


def _outside(held: Tensor, memories: Sequence[Selection | None]) -> Tensor:
    """(B, P) distances of the tokens before each memory to its end; 0 is padding. `held` (B, P) is their mask."""
    tokens = torch.tensor([0 if memory is None else memory.tokens for memory in memories], device=held.device)
    from_end = torch.arange(held.shape[1], 0, -1, device=held.device)  # they are padded on the left
    return (from_end + tokens[:, None]) * held


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
