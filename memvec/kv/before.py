"""Keys and values of the tokens before a memory. They are kept, because most prompts begin with the same tokens.

They are used again only while nothing that they depend on has changed, as far as memvec can see it: the weights as
`identity.weights.Mark` sees them, adapters, hooks, dtype, device, attention and arithmetic.

Letters: L layers, B memories, H key/value heads, P tokens before a memory, E width of a head.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.nn.modules import module as all_modules

from memvec.identity.weights import Mark
from memvec.kv.rotation import rotation_of
from memvec.lm import compat
from memvec.lm.adapters import active_adapters, modules
from memvec.lm.attention import attention_of
from memvec.lm.device import device_of

MOST = 256  # tokens whose keys and values are kept for a model
HOOKS = ("_forward_hooks", "_forward_pre_hooks")

KeysAndValues = tuple[Tensor, Tensor]  # (L, B, H, P, E) each


@dataclass(frozen=True, slots=True)
class _Kept:
    """Keys and values of a model in one state. Threads share it, so it never changes."""

    mark: Mark
    state: list[Any]
    runs: dict[tuple[int, ...], KeysAndValues]  # (L, 1, H, P, E), by token ids


_KEPT: weakref.WeakKeyDictionary[Any, _Kept] = weakref.WeakKeyDictionary()


def run_before(model: Any, before: Sequence[Sequence[int]]) -> tuple[KeysAndValues | None, Tensor]:
    """Keys and values (L, B, H, P, E) of the tokens before each memory, and their mask (B, P), padded on the left.

    None if there are no tokens. Every row is run alone, so its numbers do not depend on the others.
    """
    rows = [tuple(ids) for ids in before]
    longest = max(map(len, rows))
    device = device_of(model.get_input_embeddings())
    held = torch.tensor([[0] * (longest - len(ids)) + [1] * len(ids) for ids in rows], dtype=torch.long, device=device)
    if not longest:
        return None, held
    found = _found(model, {ids for ids in rows if ids})
    some = next(iter(found.values()))
    found[()] = some[0][:, :, :, :0], some[1][:, :, :, :0]
    keys, values = (
        torch.cat([pad(found[ids][side], (0, 0, longest - len(ids), 0)) for ids in rows], 1) for side in (0, 1)
    )
    return (keys, values), held


def _found(model: Any, wanted: set[tuple[int, ...]]) -> dict[tuple[int, ...], KeysAndValues]:
    """Keys and values of rows of tokens: those that are kept, or new ones."""
    state = _state(model)
    if state is None:
        return {ids: _run(model, ids) for ids in wanted}
    kept = _KEPT.get(model)
    if kept is None or kept.state != state or not kept.mark.fits(model):
        kept = _Kept(Mark(model), state, {})
    new = {ids: _run(model, ids) for ids in wanted - kept.runs.keys()}
    runs = kept.runs | new
    # Not if the model was changed meanwhile: it may have been in the middle of a run.
    if new and _state(model) == state and kept.mark.fits(model):
        every = runs if sum(map(len, runs)) <= MOST else new
        _KEPT[model] = _Kept(kept.mark, state, every if sum(map(len, every)) <= MOST else {})
    return dict(runs)


def _state(model: Any) -> list[Any] | None:
    """What keys and values depend on, beside weights and tokens. None if they cannot be kept, as the model may change unseen.

    So it is with adapters or hooks, with code in place of a module's own, as accelerate puts it, in training mode, and
    with rotations that depend on the inputs so far.
    """
    every = modules(model)
    if (
        active_adapters(model)
        or rotation_of(model).bound
        or any(getattr(all_modules, f"_global{h}", None) for h in HOOKS)
    ):
        return None
    if any(m.training or "forward" in vars(m) or any(vars(m).get(hooks) for hooks in HOOKS) for m in every):
        return None
    kinds: list[Any] = list(map(type, every))
    code = {kind: kind.forward for kind in kinds}
    buffers = [value for module in every for value in module._buffers.values() if value is not None]
    places = [(value.data_ptr(), 0 if value.is_inference() else value._version) for value in buffers]
    device = device_of(model.get_input_embeddings())
    autocast = torch.is_autocast_enabled(device.type) and torch.get_autocast_dtype(device.type)
    arithmetic = model.dtype, device, attention_of(model), autocast, torch.get_float32_matmul_precision()
    return [kinds, code, places, arithmetic]


@torch.inference_mode(False)  # tensors of that mode could not be used in training later
@torch.no_grad()
def _run(model: Any, ids: tuple[int, ...]) -> KeysAndValues:
    row = torch.tensor([ids], device=device_of(model.get_input_embeddings()))
    mask = torch.ones_like(row)
    where = {
        "position_ids": mask.cumsum(1) - 1,
        "attention_mask": mask,
        compat.cache_argument(model): compat.empty_cache(),
    }
    output = model.base_model(input_ids=row, use_cache=True, **where)
    layers = compat.cache_of(output).layers
    return torch.stack([layer.keys for layer in layers]), torch.stack([layer.values for layer in layers])
