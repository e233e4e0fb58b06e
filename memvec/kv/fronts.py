"""Fronts: keys and values that every prompt of a row sees, with another number of them in each head.

A `FrontCache` is a cache of transformers' interface. Its layers hold the tokens before a memory and those behind it, as
any cache does. The memory itself is beside them. `lm.attention.attend` finds it on the keys that a layer returns.

Letters: B rows, H key/value heads, G query heads of each, Q queries, E width of a head, P positions before the memory,
M positions it takes, T positions behind it, C keys of a head (padded to the most in a group).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from memvec.errors import UnsupportedModelError
from memvec.lm.attention import mark


@dataclass(frozen=True, slots=True)
class HeadGroup:
    """Heads of one layer that keep about as many keys. They share a tensor, so that little of it is padding."""

    heads: list[int]  # of H
    keys: Tensor  # (B, h, C, E), rotated to their places
    values: Tensor  # (B, h, C, E)
    distances: Tensor  # (B, h, C) to the end of the memory; 0 is padding
    full: bool  # is there no padding?

    def rows(self, index: Tensor) -> HeadGroup:
        """The rows `index` of it."""
        return HeadGroup(self.heads, self.keys[index], self.values[index], self.distances[index], self.full)


@dataclass(frozen=True, slots=True)
class Front:
    """The memory of each row in one layer."""

    before: int  # P, columns of the layer in front of the memory
    positions: int  # M, columns of a mask that stand for the memory
    groups: tuple[HeadGroup, ...]

    def rows(self, index: Tensor) -> Front:
        """The rows `index` of it."""
        return Front(self.before, self.positions, tuple(group.rows(index) for group in self.groups))

    @property
    def nbytes(self) -> int:
        """Size of its keys and values [bytes]."""
        return sum(part.numel() * part.element_size() for group in self.groups for part in (group.keys, group.values))

    def attend(
        self,
        module: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        scaling: float | None = None,
        **rest: Any,
    ) -> tuple[Tensor, None]:
        """Attention of queries (B, H·G, Q, E) to the memory and to the layer's own keys (B, H, P + T, E): ((B, Q, H·G, E), None)."""
        if rest.get("s_aux") is not None or rest.get("softcap") is not None:
            raise UnsupportedModelError("this model changes attention weights in a way that kv memories do not know")
        batch, every, asked, width = query.shape
        heads = key.shape[1]
        shared = every // heads
        # Query heads that share keys become further queries of them, so no key is copied.
        query = query.reshape(batch, heads, shared * asked, width)
        own = self._own(attention_mask)  # (B, 1, Q, P + T) or None
        window = self._window(
            module, rest, own, key.shape[2] - self.before
        )  # (B, 1, Q, 1) distances that are in sight, or None
        out = torch.empty_like(query)
        for group in self.groups:
            among = group.heads
            keys = torch.cat([group.keys, key[:, among]], 2)
            values = torch.cat([group.values, value[:, among]], 2)
            mask = None
            if not (group.full and own is None and window is None):
                distances = group.distances[:, :, None]  # (B, h, 1, C)
                seen = (distances > 0).expand(-1, -1, asked, -1)
                if window is not None:
                    seen = seen & (distances <= window)
                rows = (
                    own if own is not None else torch.ones(1, 1, 1, key.shape[2], dtype=torch.bool, device=key.device)
                )
                mask = torch.cat([seen, rows.expand(batch, len(among), asked, -1)], -1)
                mask = mask[:, :, None].expand(-1, -1, shared, -1, -1).reshape(batch, len(among), shared * asked, -1)
            out[:, among] = torch.nn.functional.scaled_dot_product_attention(
                query[:, among], keys, values, mask, scale=scaling
            )
        return out.view(batch, every, asked, width).transpose(1, 2).contiguous(), None

    def _own(self, mask: Tensor | None) -> Tensor | None:
        """What of a mask (B, 1, Q, P + M + T) is about the layer's own keys, as booleans."""
        if mask is None:
            return None
        if mask.dtype != torch.bool:
            mask = mask > -1
        return torch.cat([mask[..., : self.before], mask[..., self.before + self.positions :]], -1)

    def _window(self, module: Any, rest: dict[str, Any], own: Tensor | None, behind: int) -> Tensor | int | None:
        """The greatest distance in the memory that each query sees, (B, 1, Q, 1) or one for all. None without a window."""
        width = rest.get("sliding_window") or getattr(module, "sliding_window", None)
        if width is None:
            return None
        if own is None:  # one query, and no padding
            return int(width) - behind
        # The tokens from the memory's end to the query, itself included. Padding between them does not count.
        return width - own[..., self.before :].sum(-1, keepdim=True)


class FrontLayer(DynamicLayer):
    """A layer of a cache with a front. Its own keys begin with the P before the memory."""

    def __init__(self, front: Front, keys: Tensor, values: Tensor) -> None:
        """`keys` and `values` (B, H, P, E) stand before the memory."""
        super().__init__()
        self.lazy_initialization(keys, values)
        self.front, self.keys, self.values = front, keys, values

    def update(self, key_states: Tensor, value_states: Tensor, *given: Any, **named: Any) -> tuple[Tensor, Tensor]:
        """Add keys and values (B, H, Q, E). Return all of the layer's own, with the front on the keys."""
        keys, values = super().update(key_states, value_states, *given, **named)
        return mark(keys, self.front), values

    def get_seq_length(self, *given: Any) -> int:
        """P + M + T."""
        return self.front.positions + self.keys.shape[-2]

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Let beams continue others."""
        self._choose(beam_idx.to(self.keys.device))

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every row."""
        self._choose(torch.arange(len(self.keys), device=self.keys.device).repeat_interleave(repeats))

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep some rows."""
        self._choose(indices)

    def _choose(self, index: Tensor) -> None:
        self.front = self.front.rows(index)
        self.keys, self.values = self.keys[index], self.values[index]


class FrontCache(DynamicCache):
    """A cache with a front in every layer."""

    def __init__(self, layers: Sequence[FrontLayer]) -> None:
        super().__init__()
        self.layers = list(layers)

    def branched(self, owner: Tensor) -> FrontCache:
        """A new cache with the rows owner (R,). Differentiable."""
        return FrontCache([FrontLayer(x.front.rows(owner), x.keys[owner], x.values[owner]) for x in self.layers])
