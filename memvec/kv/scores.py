"""Read documents, and score each of their positions in every head: how much does the model need it?

With "repeat" the model says the document again. The score of a position is the greatest attention that any token of the
repetition pays to it (KVzip, 2505.23416). That costs two more readings. With "norm" the score is the size of the value,
which costs none.

Letters: B documents, L layers, H key/value heads, G query heads of each, N tokens of the longest document, P positions
before it, T tokens of a chunk that is said again, E width of a head.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from memvec.kv.rotation import rotation_of
from memvec.lm import compat
from memvec.lm.attention import mark
from memvec.lm.frozen import FrozenLM
from memvec.templates.template import frame

Score = Literal["repeat", "norm"]
CHUNK, LEAST = 2048, 64  # tokens said again in one go; fewer where the model's context ends, but not fewer than this
BLOCK, BLOCK_GPU = 4 << 20, 512 << 20  # most attention weights of a layer that are in memory at once
LITTLE = 1e-6  # attention that hardly counts
OVERLAP = 8  # tokens of the chunk before, by which the model finds the place to go on
AGAIN = "Repeat the previous context exactly."
FURTHER = "Repeat the part of the previous context exactly, starting with"


@dataclass(frozen=True, slots=True)
class Read:
    """Documents as the model read them, behind the start of a prompt. All end in the last column; padding is on the left."""

    before: int  # P
    lengths: list[int]  # tokens of each document
    keys: list[Tensor]  # of each layer (B, H, N, E), turned to the places they were read at
    values: list[Tensor]  # (B, H, N, E)
    scores: Tensor  # (L, B, H, N) float32; padding has -1


@torch.inference_mode()
def read(lm: FrozenLM, texts: Sequence[Sequence[int]], score: Score, longest: int | None = None) -> Read:
    """Read documents of token ids, padded to `longest` or the longest of them, and score their positions.

    A document's result depends on the document and on the shape of the batch, never on its neighbours.
    """
    head = frame(lm.tokenizer, "").before
    before, lengths = len(head), [len(ids) for ids in texts]
    longest = longest or max(lengths)
    ids = torch.zeros(len(texts), before + longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for b, text in enumerate(texts):
        ids[b, longest - len(text) :] = torch.tensor([*head, *text])
        mask[b, longest - len(text) :] = 1
    ids, mask = ids.to(lm.device), mask.to(lm.device)
    layers = _run(lm, ids, (mask.cumsum(1) - 1).clamp(min=0), mask)
    keys, values = [layer.keys for layer in layers], [layer.values for layer in layers]
    if score == "norm":
        scores = torch.stack([value[:, :, before:].float().norm(dim=-1) for value in values])
    else:
        scores = _attention(lm, texts, keys, values, mask, longest)
    for of_layer, window in zip(scores, windows(lm.model, len(values)), strict=True):
        if window == math.inf:
            continue
        # No question sees what is out of its window. What only the repetition did not see comes before that, the last first.
        sight = (1 - torch.arange(longest, 0, -1, device=lm.device) / window).clamp(min=0)
        of_layer.copy_(of_layer.maximum(LITTLE * sight).masked_fill(sight == 0, 0))
    inside = torch.arange(longest) >= longest - torch.tensor(lengths)[:, None]
    scores = scores.masked_fill(~inside.to(lm.device)[None, :, None], -1.0)
    return Read(before, lengths, [k[:, :, before:] for k in keys], [v[:, :, before:] for v in values], scores)


def _run(lm: FrozenLM, ids: Tensor, places: Tensor, mask: Tensor, cache: Any = None) -> Any:
    """The layers of the cache after `ids` (B, T), at `places` (B, T), under a mask over all columns."""
    cache = compat.empty_cache() if cache is None else cache
    where = {"position_ids": places, "attention_mask": mask, lm.cache_name: cache}
    lm.model.base_model(input_ids=ids, use_cache=True, **where)
    return cache.layers


def _attention(
    lm: FrozenLM,
    texts: Sequence[Sequence[int]],
    keys: Sequence[Tensor],
    values: Sequence[Tensor],
    held: Tensor,
    longest: int,
) -> Tensor:
    """(L, B, H, N) the greatest attention that each position gets while the document is said again, chunk by chunk."""
    rotation = rotation_of(lm.model)
    best = torch.zeros(len(keys), *keys[0].shape[:2], longest, device=lm.device)
    ends, most = held.sum(1, keepdim=True), chunk_size(lm, longest)
    for begin in range(0, max(map(len, texts)), most):
        asked = [_asked(lm, text, begin, most) for text in texts]
        width = max(len(lead) + len(chunk) for lead, chunk in asked)
        ids = torch.zeros(len(texts), width, dtype=torch.long)
        mask = torch.zeros_like(ids)
        counts = torch.zeros(len(texts), width, dtype=torch.bool)  # do these queries count?
        for b, (lead, chunk) in enumerate(asked):
            ids[b, : len(lead) + len(chunk)] = torch.tensor([*lead, *chunk])
            mask[b, : len(lead) + len(chunk)] = 1
            counts[b, len(lead) - 1 : len(lead) + len(chunk)] = bool(chunk)
        counts = counts.to(lm.device)
        cache = DynamicCache()
        cache.layers = [_Watching(*kept, counts) for kept in zip(keys, values, best, strict=True)]
        places = ends + torch.arange(width, device=lm.device)
        if rotation.bound:  # padding may stand behind the last position there is
            places = places.clamp(max=(rotation.context or 0) - 1)
        _run(lm, ids.to(lm.device), places, torch.cat([held, mask.to(lm.device)], 1), cache)
    return best


def chunk_size(lm: FrozenLM, longest: int) -> int:
    """Tokens said again in one go. Behind documents padded to `longest`, they stay within the context if they can."""
    context = rotation_of(lm.model).context
    if context is None:
        return CHUNK
    return min(CHUNK, max(LEAST, context - len(frame(lm.tokenizer, "").before) - longest - lead_tokens(lm)))


def lead_tokens(lm: FrozenLM) -> int:
    """Room for the request in front of a chunk. Read again, the overlap may have more tokens."""
    return max(len(frame(lm.tokenizer, words).after) for words in (AGAIN, FURTHER)) + 2 * OVERLAP


def windows(model: Any, layers: int) -> list[int | float]:
    """The most tokens that a query of each layer sees, itself included. Infinite without a sliding window."""
    config = model.config.get_text_config()
    width = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None) or ["sliding_attention"] * layers
    return [width if width and kind == "sliding_attention" else math.inf for kind in kinds]


def _asked(lm: FrozenLM, text: Sequence[int], begin: int, most: int) -> tuple[list[int], list[int]]:
    """(the request to say a chunk again, the chunk of at most so many tokens)."""
    chunk = list(text[begin : begin + most])
    asked = AGAIN if not begin else f"{FURTHER} {lm.decode(text[begin - OVERLAP : begin])}"
    return list(frame(lm.tokenizer, asked).after), chunk


class _Watching(DynamicLayer):  # type: ignore[misc]
    """A layer of a cache that holds a document, and notes the attention that its positions get."""

    def __init__(self, keys: Tensor, values: Tensor, best: Tensor, counts: Tensor) -> None:
        """`best` (B, H, N), of the last N columns, is raised in place. Queries (B, T) are noted where `counts`."""
        super().__init__()
        self.lazy_initialization(keys, values)
        self.keys, self.values, self.best, self.counts = keys, values, best, counts

    def update(self, key_states: Tensor, value_states: Tensor, *given: Any, **named: Any) -> tuple[Tensor, Tensor]:
        """Return keys and values with those of the tokens said again. They are not kept: no later pass sees them."""
        keys = torch.cat([self.keys, key_states], 2)
        return mark(keys, self), torch.cat([self.values, value_states], 2)

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
        """Plain attention, a block of queries at a time. `best` gets the greatest weights."""
        batch, every, asked, width = query.shape
        heads, seen = key.shape[1], key.shape[2]
        shared, end = every // heads, self.keys.shape[2]
        document = slice(end - self.best.shape[2], end)
        query = query.view(batch, heads, shared, asked, width)
        scale = width**-0.5 if scaling is None else scaling
        size = max(1, (BLOCK if query.device.type == "cpu" else BLOCK_GPU) // (batch * every * seen))
        out = torch.empty_like(query)
        for begin in range(0, asked, size):
            block = query[:, :, :, begin : begin + size]
            rows = block.shape[3]
            logits = (block.reshape(batch, heads, -1, width) * scale) @ key.transpose(-1, -2)
            logits = logits.view(batch, heads, shared, rows, seen)
            allowed = attention_mask[:, :, None, begin : begin + size]  # type: ignore[index]
            if allowed.dtype == torch.bool:
                logits.masked_fill_(~allowed, -torch.inf)
            else:
                logits = logits.float() + allowed
            weights = logits.softmax(-1, dtype=torch.float32)  # on a GPU in one pass, from the model's dtype
            greatest = weights[..., document].amax(2)  # (B, H, rows, N)
            greatest.masked_fill_(~self.counts[:, None, begin : begin + size, None], 0)
            torch.maximum(self.best, greatest.amax(2), out=self.best)
            mixed = weights.to(value.dtype).view(batch, heads, -1, seen) @ value
            out[:, :, :, begin : begin + size] = mixed.view(batch, heads, shared, rows, width)
        return out.view(batch, every, asked, width).transpose(1, 2).contiguous(), None
