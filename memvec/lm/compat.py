"""What transformers calls what a model keeps of positions it has read.

It is `cache` from 5.24 on; before that it was `past_key_values`, and `cache_params` in state-space models.
"""

from __future__ import annotations

import inspect
from typing import Any

CACHE_NAMES = ("cache", "past_key_values", "cache_params")


def cache_argument(model: Any) -> str:
    """The name under which a model takes a cache."""
    taken = inspect.signature(model.forward).parameters
    return next((name for name in CACHE_NAMES if name in taken), CACHE_NAMES[0])


def cache_of(output: Any) -> Any:
    """The cache in a model's output."""
    return next(output[name] for name in CACHE_NAMES if name in output)


def recurrent(model: Any) -> bool:
    """Is it a state-space model: a state of one size instead of keys and values?"""
    return (
        bool(getattr(model, "_is_stateful", False))
        and "position_ids" not in inspect.signature(model.forward).parameters
    )


def sliding(cache: Any) -> bool:
    """Does a layer of a cache count positions in a window, padding among them?"""
    return any(getattr(layer, "is_sliding", False) for layer in cache.layers)
