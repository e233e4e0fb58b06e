"""Move keys to other positions, for models that rotate them (RoPE).

Letters: B rows, H key/value heads, N tokens, E width of a head, R numbers of it that are rotated.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from memvec.lm import compat
from memvec.lm.frozen import FrozenLM

TRIED, SHIFT = 6, 37  # tokens, and positions by which they are moved, to see whether keys can be moved


class Rotation:
    """How one model turns its keys by position. Cosine and sine come from the model's own module."""

    def __init__(self, lm: FrozenLM) -> None:
        """Find the rotary module and the rotation of a model."""
        self.lm = lm
        base = lm.model.base_model
        found = [
            module
            for module in base.modules()
            if any(name.endswith("inv_freq") for name, _ in module.named_buffers(recurse=False))
        ]
        self._module = found[0] if found else None
        self._rotate = getattr(sys.modules[type(lm.model).__module__], "apply_rotary_pos_emb", None)
        self._by_layer = found and "layer_type" in inspect.signature(type(found[0]).forward).parameters
        self._kinds = list(getattr(lm.model.config.get_text_config(), "layer_types", None) or ())

    @cached_property
    def movable(self) -> bool:
        """Can keys be moved? No if positions are part of the input, as in GPT-2. It is tried on a few tokens."""
        if self._module is None or self._rotate is None:
            return False
        ids = torch.arange(1, TRIED + 1, device=self.lm.device)[None] % self.lm.vocabulary
        read = [self._keys(ids, first) for first in (0, SHIFT)]
        for layer, (at_0, moved) in enumerate(zip(*read, strict=True)):
            keys, moved = (part[0].transpose(0, 1).flatten(0, 1) for part in (at_0.float(), moved.float()))
            found = self.turned(layer, keys, torch.full((len(keys),), SHIFT, device=self.lm.device))
            if (found - moved).abs().max() > 0.02 * moved.abs().max() + 1e-3:
                return False
        return True

    @torch.inference_mode()
    def _keys(self, ids: Tensor, first: int) -> list[Tensor]:
        cache = compat.empty_cache()
        places = torch.arange(first, first + ids.shape[1], device=ids.device)[None]
        self.lm.model.base_model(input_ids=ids, position_ids=places, use_cache=True, **{self.lm.cache_name: cache})
        return [layer.keys for layer in cache.layers]

    def turned(self, layer: int, keys: Tensor, moves: Tensor) -> Tensor:
        """Keys (k, E) of a layer, each moved by so many positions (k,). Moves may be negative."""
        return self.turn(keys, self._angles(layer, moves))

    def angles(self, places: Tensor, layers: Sequence[slice]) -> tuple[Tensor, Tensor]:
        """Cosine and sine (K, R) of the places (K,) of keys that lie layer by layer."""
        if not self._by_layer:
            return self._angles(0, places)
        each = [self._angles(layer, places[part]) for layer, part in enumerate(layers)]
        return torch.cat([cosine for cosine, _ in each]), torch.cat([sine for _, sine in each])

    def turn(self, keys: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:
        """Keys (K, E) turned by angles (K, R). Differentiable."""
        if not len(keys):
            return keys
        cosine, sine = angles
        turning = keys[None, None, :, : cosine.shape[-1]]
        turned: Tensor = self._rotate(turning, turning, cosine[None], sine[None])[1][0, 0]
        return torch.cat([turned, keys[:, cosine.shape[-1] :]], -1)

    @torch.no_grad()
    def _angles(self, layer: int, moves: Tensor) -> tuple[Tensor, Tensor]:
        """Cosine and sine (k, R) of moves (k,), without the factor that some models scale both by."""
        kind: dict[str, Any] = {"layer_type": self._kinds[layer]} if self._by_layer else {}
        like = torch.zeros(1, dtype=torch.float32, device=self.lm.device)
        cosine, sine = self._module(like, moves[None], **kind)
        size = (cosine.square() + sine.square()).sqrt()
        return (cosine / size)[0], (sine / size)[0]
