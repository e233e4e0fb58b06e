"""Compute in float32 with weights of 16 bits: each weight is widened where it is used, and dropped behind it.

So one copy of the weights fits vectors in bfloat16 and certifies them in float32. The numbers are those of a float32 copy to
the bit. It costs time: a step of decoding reads each weight in 16 bits and writes it in 32 (docs/LOG.md).
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from memvec.lm.frozen import FrozenLM
from memvec.lm.layers import decoder_layers, hooks

_CHOOSING = (torch.ops.aten.embedding, torch.ops.aten.index)  # rows
# The same numbers in another shape. A product keeps such a view of its weight for the backward pass, so it stays narrow.
_VIEWS = tuple(
    getattr(torch.ops.aten, name) for name in ("detach", "t", "transpose", "permute", "view", "select", "slice")
)


class Widened(Tensor):
    """A tensor of 16 bits that everyone takes for its float32 copy, which is made anew for every use.

    Rows that are looked up are widened alone.
    """

    stored: Tensor

    @staticmethod
    def __new__(cls, stored: Tensor) -> Widened:  # noqa: PYI034 - torch makes it
        """Wrap a tensor of 16 bits. It is not copied."""
        made: Widened = Tensor._make_wrapper_subclass(
            cls, stored.shape, strides=stored.stride(), dtype=torch.float32, device=stored.device
        )
        made.stored = stored
        return made

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Run an operation of torch on float32 copies."""
        if function.overloadpacket in _CHOOSING and isinstance(args[0], Widened):
            return function(args[0].stored, *args[1:], **(kwargs or {})).float()
        with torch.inference_mode(False), torch.no_grad():  # torch takes views of plain tensors only
            if function.overloadpacket in _VIEWS:
                return cls(function(args[0].stored, *args[1:], **(kwargs or {})))
            given = pytree.tree_map_only(Widened, _wide, (args, kwargs or {}))
            return function(*given[0], **given[1])


def _wide(weight: Widened) -> Tensor:
    return weight.stored.float()


def widened(lm: FrozenLM) -> FrozenLM:
    """A model that computes in float32 with the weights of `lm`, which has them in 16 bits. It is not checked."""
    # accelerate widens an offloaded weight to the dtype of the parameter in its place.
    shared: dict[int, Any] = {id(part): part for part in (*lm.model.buffers(), *hooks(lm.model))}
    for weight in lm.model.parameters():
        narrow = weight.dtype in (torch.bfloat16, torch.float16)
        wide = torch.empty_like(weight, dtype=torch.float32) if weight.is_meta else Widened(weight.detach())
        shared[id(weight)] = nn.Parameter(wide, requires_grad=False) if narrow else weight
    return FrozenLM(copy.deepcopy(lm.model, shared), lm.tokenizer, lm.splitter)


def weights_bytes(*models: FrozenLM) -> int:
    """Memory of the weights of some models [bytes]. Shared ones count once.

    Of what is widened the largest weight counts, and of what is offloaded the largest layer.
    """
    weights = [weight for lm in models for weight in lm.model.parameters() if not weight.is_meta]
    stored = [weight.stored if isinstance(weight, Widened) else weight for weight in weights]
    widest = max((weight.nbytes for weight in weights if isinstance(weight, Widened)), default=0)
    passing = max((layer_bytes(lm) for lm in models), default=0)
    return widest + passing + sum({weight.data_ptr(): weight.nbytes for weight in stored}.values())


def layer_bytes(lm: FrozenLM) -> int:
    """Memory of the largest layer whose weights are offloaded, while it runs [bytes]. 0 if none is."""
    sizes = (sum(w.nbytes for w in layer.parameters() if w.is_meta) for layer in decoder_layers(lm.model.base_model))
    return max(sizes, default=0)
