"""Fronts: keys and values that every prompt of a row sees, with another number of them in each head.

A `FrontCache` is a cache of transformers' interface. Its layers hold the tokens before a memory and those behind it, as
any cache does. The memory itself is beside them. `lm.attention.attend` finds it on the keys that a layer returns.

Letters: B rows, H key/value heads, G query heads of each, Q queries, E width of a head, P positions before the memory,
M positions it takes, T positions behind it, C keys of a head (padded to the most in a group).
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from memvec.errors import UnsupportedModelError
from memvec.lm import compat
from memvec.lm.attention import attend, attention_of, mark
from memvec.lm.device import device_of


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
        keys, values, distances = (_rows(part, index) for part in (self.keys, self.values, self.distances))
        return HeadGroup(self.heads, keys, values, distances, self.full)


@dataclass(frozen=True, slots=True)
class Front:
    """The memory of each row in one layer."""

    before: int  # P, columns of the layer in front of the memory
    positions: int  # M, columns of a mask that stand for the memory
    outside: Tensor  # (B, P) distances of the tokens before the memory to its end; 0 is padding
    groups: tuple[HeadGroup, ...]
    bare: tuple[int, ...] = ()  # rows without a memory and without tokens before it

    def rows(self, index: Tensor) -> Front:
        """The rows `index` of it."""
        groups = tuple(group.rows(index) for group in self.groups)
        bare = tuple(n for n, row in enumerate(index.tolist()) if row in self.bare) if self.bare else ()
        return Front(self.before, self.positions, _rows(self.outside, index), groups, bare)

    def __deepcopy__(self, memo: Any) -> Front:
        """Return itself: nothing changes it."""
        return self

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
        if _unknown(rest):
            raise UnsupportedModelError("this model changes attention weights in a way that kv memories do not know")
        given = query
        batch, every, asked, width = query.shape
        heads = key.shape[1]
        shared = every // heads
        # Query heads that share keys become further queries of them, so no key is copied.
        query = query.reshape(batch, heads, shared * asked, width)
        own = self._own(attention_mask)  # (B, 1, Q, P + T) or None
        window = self._window(module, rest, own, key.shape[2] - self.before)  # distances in sight
        if window is not None:
            own = self._before(own, window, key)
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
            out[:, among] = _mixed(query[:, among], keys, values, mask, scaling)
        out = out.view(batch, every, asked, width).transpose(1, 2).contiguous()
        if self.bare:  # such rows get what they get in a batch without memories, to the bit
            rows = torch.tensor(self.bare, device=key.device)
            keys, values = (part[rows, :, self.before :] for part in (key, value))
            behind = None if own is None else own.expand(batch, -1, -1, -1)[rows, :, :, self.before :]
            out[rows] = attend(module, given[rows], keys, values, behind, scaling=scaling, **rest)[0]
        return out, None

    def _own(self, mask: Tensor | None) -> Tensor | None:
        """What of a mask (B, 1, Q, P + M + T) is about the layer's own keys, as booleans."""
        if mask is None:
            return None
        if mask.dtype != torch.bool:
            mask = mask > -1
        return torch.cat([mask[..., : self.before], mask[..., self.before + self.positions :]], -1)

    def _before(self, own: Tensor | None, window: Tensor | int, key: Tensor) -> Tensor:
        """`own` with what a window leaves of the tokens before the memory. Its columns do not tell their distances."""
        distances = self.outside[:, None, None]  # (B, 1, 1, P)
        seen = (distances > 0) & (distances <= window)
        if own is None:
            own = torch.ones(len(key), 1, 1, key.shape[2], dtype=torch.bool, device=key.device)
        return torch.cat([seen, own[..., self.before :].expand(len(key), -1, -1, -1)], -1)

    def _window(self, module: Any, rest: dict[str, Any], own: Tensor | None, behind: int) -> Tensor | int | None:
        """The greatest distance in the memory that each query sees, (B, 1, Q, 1) or one for all. None without a window."""
        width = _width(module, rest)
        if width is None:
            return None
        if own is None:  # one query, and no padding
            return int(width) - behind
        # The tokens from the memory's end to the query, itself included. Padding between them does not count.
        return int(width) - own[..., self.before :].sum(-1, keepdim=True)


def _mixed(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float | None) -> Tensor:
    """Attention of queries (B, h, q, E) to keys and values (B, h, S, E) under a mask (B, h, q, S) of booleans."""
    if not torch.is_grad_enabled() or query.device.type != "cpu":
        return torch.nn.functional.scaled_dot_product_attention(query, key, value, mask, scale=scaling)
    # As in `lm.attention`: the backward pass of PyTorch's fused kernels is slow on a CPU.
    scores = (query.float() * (query.shape[-1] ** -0.5 if scaling is None else scaling)) @ key.float().transpose(-1, -2)
    if mask is not None:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    return (scores.softmax(-1) @ value.float()).to(query.dtype)


def _width(module: Any, rest: dict[str, Any]) -> int | None:
    """The sliding window of a layer. Some models tell it only to their masks: then it is that of all layers."""
    told: int | None = rest.get("sliding_window") or getattr(module, "sliding_window", None)
    config = getattr(module, "config", None)
    if told is None and not getattr(config, "layer_types", None):
        told = getattr(config, "sliding_window", None)
    return told


class FrontLayer(DynamicLayer):  # type: ignore[misc]
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
        """Let beams continue others of the same prompt, and so of the same memory."""
        index = beam_idx.to(self.keys.device)
        self.keys, self.values = self.keys[index], self.values[index]

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every row."""
        self._choose(torch.arange(len(self.keys), device=self.keys.device).repeat_interleave(repeats))

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep some rows."""
        self._choose(indices)

    def _choose(self, index: Tensor) -> None:
        self.front = self.front.rows(index)
        self.keys, self.values = _rows(self.keys, index), _rows(self.values, index)


class FrontCache(DynamicCache):  # type: ignore[misc]
    """A cache with a front in every layer."""

    def __init__(self, layers: Sequence[FrontLayer]) -> None:
        super().__init__()
        self.layers = list(layers)

    def branched(self, owner: Tensor) -> FrontCache:
        """A new cache with the rows owner (R,). Differentiable."""
        return FrontCache(
            [FrontLayer(x.front.rows(owner), _rows(x.keys, owner), _rows(x.values, owner)) for x in self.layers]
        )


class _Probe(DynamicLayer):  # type: ignore[misc]
    """A layer of a cache that notes whether its keys come to an attention that knows fronts."""

    seen = False

    def update(self, key_states: Tensor, value_states: Tensor, *given: Any, **named: Any) -> tuple[Tensor, Tensor]:
        """Add keys and values (B, H, Q, E), and mark the keys."""
        keys, values = super().update(key_states, value_states, *given, **named)
        return mark(keys, self), values

    def attend(
        self, module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **rest: Any
    ) -> Any:
        """Plain attention."""
        self.seen = not _unknown(rest)
        return attend(module, query, key.view_as(key), value, attention_mask, **rest)


_KNOWN: weakref.WeakKeyDictionary[Any, dict[Any, bool]] = weakref.WeakKeyDictionary()


def sees_fronts(model: Any) -> bool:
    """Does the attention of every layer of a model see fronts? One token is run to find out, once for each attention."""
    known = _KNOWN.setdefault(model, {})
    function = attention_of(model)
    if function not in known:
        known[function] = _tried(model)
    return known[function]


@torch.no_grad()
def _tried(model: Any) -> bool:
    cache = DynamicCache()
    cache.layers = [_Probe() for _ in range(model.config.get_text_config().num_hidden_layers)]
    ids = torch.zeros(1, 1, dtype=torch.long, device=device_of(model.get_input_embeddings()))
    model.base_model(input_ids=ids, use_cache=True, **{compat.cache_argument(model): cache})
    return all(layer.seen for layer in cache.layers if layer.is_initialized)


def _unknown(given: Mapping[str, Any]) -> bool:
    """Does a model change attention weights in a way that fronts do not know?"""
    return given.get("s_aux") is not None or given.get("softcap") is not None


def _rows(rows: Tensor, index: Tensor) -> Tensor:
    """The rows `index` of a tensor. A single row is not copied."""
    return rows.expand(len(index), *rows.shape[1:]) if len(rows) == 1 else rows[index]
