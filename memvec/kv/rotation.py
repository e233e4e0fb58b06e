"""Move keys to other positions, for models that rotate them (RoPE).

Letters: B rows, H key/value heads, N tokens, E width of a head, R numbers of it that are rotated.
"""

from __future__ import annotations

import inspect
import sys
import weakref
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from memvec.lm import compat
from memvec.lm.device import device_of

TRIED, SHIFT = 6, 37  # tokens, and positions by which they are moved, to see whether keys can be moved
# Most error of moved keys in float32 and in fewer bits: a share of the way that a rotation moves them, and a share of their
# size for rounding. A way is short where few numbers are rotated: a wrong rotation is small there, beside the keys.
OFF, OFF_HALF = (0.01, 0.001), (0.25, 0.02)


class Rotation:
    """How one model turns its keys by position. Cosine and sine come from the model's own module. It does not keep the model."""

    def __init__(self, model: Any) -> None:
        """Find the rotary module and the rotation of a transformers model."""
        self.model = weakref.proxy(model)  # `_KNOWN` must not keep models
        buffers = ((module, [name for name, _ in module.named_buffers(recurse=False)]) for module in model.modules())
        self._module = next((module for module, names in buffers if any(n.endswith("inv_freq") for n in names)), None)
        # Its own file has the rotation that belongs to it. A model's class may be a subclass from elsewhere.
        self._rotate = getattr(sys.modules[type(self._module).__module__], "apply_rotary_pos_emb", None)
        taken = inspect.signature(type(self._module).forward).parameters if self._module is not None else ()
        self._halves = False  # is there one angle for two numbers, as in gpt-oss, and not one for each?
        self._by_layer = "layer_type" in taken
        self._kinds = list(getattr(model.config.get_text_config(), "layer_types", None) or ())

    @cached_property
    def context(self) -> int | None:
        """Positions that the model was made for. Of rotations that depend on the length of the input, those before they do."""
        config = self.model.config.get_text_config()
        limits = [getattr(config, "max_position_embeddings", None)]
        if self._module is not None and "longrope" in compat.rope_types(self._module).values():
            parameters = config.rope_parameters
            each = [parameters, *(part for part in parameters.values() if isinstance(part, dict))]
            limits += [part.get("original_max_position_embeddings") for part in each]
        known = [int(limit) for limit in limits if limit]
        return min(known) if known else None

    @cached_property
    def bound(self) -> bool:
        """Is `context` a wall? It is for learned positions, and where a longer input rotates all keys otherwise."""
        if self._module is None:
            return self.context is not None
        return any("dynamic" in kind or kind == "longrope" for kind in compat.rope_types(self._module).values())

    @cached_property
    def movable(self) -> bool:
        """Can keys be moved? No if positions are part of the input, as in GPT-2. It is tried on a few tokens."""
        return self._still is not None

    @cached_property
    def _still(self) -> frozenset[int] | None:
        """The layers without rotation, as some models have them. None if keys cannot be moved."""
        if self._module is None or self._rotate is None:
            return None
        self._halves = _takes_halves(self._rotate)
        device = device_of(self.model.get_input_embeddings())
        # Each token is alone, so what a layer is given does not depend on the place, not even by rounding.
        ids = torch.arange(1, TRIED + 1, device=device)[:, None] % self.model.config.get_text_config().vocab_size
        of_way, of_size = OFF if self.model.dtype == torch.float32 else OFF_HALF
        still = set()
        for layer, (at_0, moved) in enumerate(zip(*(self._keys(ids, first) for first in (0, SHIFT)), strict=True)):
            keys, wanted = (part.float().flatten(0, 2) for part in (at_0, moved))  # (N·H, E)
            turned = self.turn(keys, self._angles(layer, torch.full((len(keys),), SHIFT, device=device)))
            off, off_still = float((turned - wanted).norm()), float((keys - wanted).norm())
            if off_still < off:
                still.add(layer)
            if min(off, off_still) > of_way * max(off, off_still) + of_size * float(wanted.norm()):
                return None
        return frozenset(still)

    @torch.inference_mode()
    def _keys(self, ids: Tensor, first: int) -> list[Tensor]:
        cache = compat.empty_cache()
        places = torch.full_like(ids, first)
        where = {"position_ids": places, compat.cache_argument(self.model): cache}
        self.model.base_model(input_ids=ids, use_cache=True, **where)
        return [layer.keys for layer in cache.layers]

    def turned(self, layer: int, keys: Tensor, moves: Tensor) -> Tensor:
        """Keys (k, E) of a layer, each moved by so many positions (k,). Moves may be negative."""
        return keys if layer in (self._still or ()) else self.turn(keys, self._angles(layer, moves))

    def angles(self, places: Tensor, layers: Sequence[slice]) -> tuple[Tensor, Tensor]:
        """Cosine and sine (K, R) of the places (K,) of keys that lie layer by layer."""
        if not self._by_layer and not self._still:
            return self._angles(0, places)
        still = self._still or ()
        each = [self._angles(n, places[part] * (n not in still)) for n, part in enumerate(layers)]
        return torch.cat([cosine for cosine, _ in each]), torch.cat([sine for _, sine in each])

    def turn(self, keys: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:
        """Keys (K, E) float32 turned by angles (K, R). Differentiable."""
        if not len(keys):
            return keys
        cosine, sine = angles
        width = cosine.shape[-1] * (2 if self._halves else 1)
        turning = keys[None, None, :, :width]
        assert self._rotate is not None
        turned: Tensor = self._rotate(turning, turning, cosine[None], sine[None])[1][0, 0]
        return torch.cat([turned, keys[:, width:]], -1)

    @torch.no_grad()
    def _angles(self, layer: int, moves: Tensor) -> tuple[Tensor, Tensor]:
        """Cosine and sine (k, R) of moves (k,), without the factor that some models scale both by."""
        kind: dict[str, Any] = {"layer_type": self._kinds[layer]} if self._by_layer else {}
        like = torch.zeros(1, dtype=torch.float32, device=moves.device)
        assert self._module is not None
        cosine, sine = self._module(like, moves[None], **kind)
        size = (cosine.square() + sine.square()).sqrt()
        return (cosine / size)[0], (sine / size)[0]


def _takes_halves(rotate: Any) -> bool:
    """Does a model's rotation of four numbers want two cosines?"""
    key, angle = torch.zeros(1, 1, 1, 4), torch.zeros(1, 1, 4)
    try:
        rotate(key, key, angle, angle)
    except RuntimeError:
        return True
    return False


_KNOWN: weakref.WeakKeyDictionary[Any, Rotation] = weakref.WeakKeyDictionary()


def rotation_of(model: Any) -> Rotation:
    """The rotation of a model. It is found once."""
    if model not in _KNOWN:
        _KNOWN[model] = Rotation(model)
    return _KNOWN[model]
