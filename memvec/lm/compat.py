"""Everything in `lm` that depends on the version of transformers: caches, and rotary positions that a pass changes.

A cache is the state of a model after the positions it has read. transformers calls it `cache` from 5.24 on. Before that it
was `past_key_values`, and `cache_params` in state-space models.
"""

from __future__ import annotations

import copy
import inspect
import types
from typing import TYPE_CHECKING, Any

from memvec.guard import Lock

if TYPE_CHECKING:  # this module loads without torch, for the dispatcher of `generate`
    from torch import Tensor

CACHE_NAMES = ("cache", "past_key_values", "cache_params")

_one_at_a_time = Lock()


def cache_argument(model: Any) -> str:
    """The name under which a model takes a cache."""
    taken = inspect.signature(model.forward).parameters
    return next((name for name in CACHE_NAMES if name in taken), CACHE_NAMES[0])


def cache_of(output: Any) -> Any:
    """The cache in a model's output."""
    return next(output[name] for name in CACHE_NAMES if name in output)


def empty_cache() -> Any:
    """An empty cache of plain layers. Those of sliding windows would drop keys that rows of other lengths still see."""
    from transformers import DynamicCache

    return DynamicCache()


def branched(cache: Any, owner: Tensor) -> Any:
    """A new cache with the rows owner (R,) of `cache`, or an empty one if that is None. Differentiable."""
    if hasattr(cache, "branched"):  # a cache with a memory beside it
        return cache.branched(owner)
    branches = empty_cache()
    for number, layer in enumerate(cache.layers if cache is not None else ()):
        branches.update(layer.keys[owner], layer.values[owner], number)
    return branches


def repeated(cache: Any, times: int = 1) -> Any:
    """A copy of a cache, with each row so many times. It shares the tensors that no pass changes in place."""
    fresh = copy.copy(cache)
    fresh.layers = [copy.copy(layer) if _only_grows(layer) else copy.deepcopy(layer) for layer in cache.layers]
    if times > 1:
        fresh.batch_repeat_interleave(times)
    return fresh


def _only_grows(layer: Any) -> bool:
    """Does a layer of a cache make new tensors in each pass, instead of writing into its own?"""
    from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

    return type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) or hasattr(layer, "front")


def cache_bytes(cache: Any) -> int:
    """Size of a cache's keys and values [bytes]."""
    from torch import Tensor

    tensors = (value for layer in cache.layers for value in vars(layer).values() if isinstance(value, Tensor))
    fronts: int = sum(layer.front.nbytes for layer in cache.layers if hasattr(layer, "front"))
    return fronts + sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def recurrent(model: Any) -> bool:
    """Is it a state-space model, with a state of fixed size instead of keys and values?"""
    return (
        bool(getattr(model, "_is_stateful", False))
        and "position_ids" not in inspect.signature(model.forward).parameters
    )


def sliding(cache: Any) -> bool:
    """Does a layer of a cache count positions in a window, padding among them?"""
    return any(getattr(layer, "is_sliding", False) for layer in cache.layers)


def isolate(model: Any) -> Any:
    """Let each forward pass of `model` choose its rotary frequencies alone, from the model's own. Return the model.

    Models of the rope types "dynamic" and "longrope" choose their frequencies by the length of their input, and store them
    in the module. Without this, another thread's pass would run with them.
    """
    for module in model.modules():
        if any("dynamic" in kind or kind == "longrope" for kind in rope_types(module).values()):
            module.forward = types.MethodType(_rotate, module)  # a bound method: a deep copy of the model has its own
    return model


def _rotate(self: Any, *given: Any, **named: Any) -> Any:
    with _one_at_a_time():
        for prefix, kind in rope_types(self).items():
            if "dynamic" in kind:  # it grew with the longest text so far, so it is set back
                name = f"{prefix}inv_freq"
                setattr(self, name, getattr(self, f"{prefix}original_inv_freq").to(getattr(self, name).device))
                setattr(self, f"{prefix}max_seq_len_cached", self.original_max_seq_len)
        return type(self).forward(self, *given, **named)


def rope_types(module: Any) -> dict[str, str]:
    """The rope type of each kind of layer, by the prefix of its attributes."""
    kinds = getattr(module, "rope_type", None)
    if isinstance(kinds, dict):
        return {f"{layer}_": str(kind) for layer, kind in kinds.items()}
    return {} if kinds is None else {"": str(kinds)}
