"""The attention that models are loaded with. It has a backward pass of its own for short rows on a CPU.

PyTorch's fused kernels are slow there in bfloat16: their backward pass took a quarter of a step of the default model.
With this one a step runs 1.37 times as many positions a second (docs/LOG.md). Without gradient, for long rows and on
other devices, the fused kernels are used.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from memvec.guard import Lock

NAME = "memvec"
COMPARED = "memvec-compared"  # the same, which compares what it gives with the model's own attention
EAGER = "eager"  # transformers' name of the attention that every model brings along
SDPA = "sdpa"  # transformers' name of its attention by PyTorch's fused kernels
SHORT = 192  # most positions at which this attention is faster
FRONT = "_memvec_front"  # attribute of keys: what else the queries see

_WRAPPING = Lock()


class SeesMore(Protocol):
    """Attention to keys that are not in the tensors a layer is given."""

    def attend(
        self, module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **rest: Any
    ) -> Any:
        """As `attend` below."""


def mark(keys: Tensor, front: SeesMore) -> Tensor:
    """A view of keys whose attention `front` computes. Caches return it, so it reaches only the layer that asked them."""
    view = keys.view_as(keys)
    setattr(view, FRONT, front)
    return view


def attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **rest: Any,
) -> tuple[Tensor, None]:
    """Attention of queries (B, H, L, E) to keys and values (B, K, S, E), in float32: ((B, L, H, E), None).

    H is a multiple of K.
    """
    front: SeesMore | None = getattr(key, FRONT, None)
    if front is not None:
        more: tuple[Tensor, None] = front.attend(module, query, key, value, attention_mask, scaling=scaling, **rest)
        return more
    if not torch.is_grad_enabled() or query.device.type != "cpu" or key.shape[2] > SHORT:
        fused: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **rest
        )
        return fused
    rows, heads, length, width = query.shape
    groups, past = key.shape[1], key.shape[2]
    scale = width**-0.5 if scaling is None else scaling
    # Heads that share keys are rows of one product, so that no key is copied.
    asked = (query * scale).reshape(rows * groups, -1, width).float()
    scores = torch.bmm(asked, key.reshape(rows * groups, past, width).float().transpose(1, 2))
    scores = scores.view(rows, groups, heads // groups, length, past)
    if attention_mask is None:
        seen = torch.ones(length, past, dtype=torch.bool).tril(past - length)
        scores = scores.masked_fill(~seen, -torch.inf)
    elif attention_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attention_mask[:, :, None], torch.finfo(scores.dtype).min)
    else:
        scores = scores + attention_mask[:, :, None].float()
    weights = scores.softmax(-1).view(rows * groups, -1, past)
    found = torch.bmm(weights, value.reshape(rows * groups, past, width).float())
    return found.to(query.dtype).view(rows, heads, length, width).transpose(1, 2).contiguous(), None


def wrap_sdpa() -> None:
    """Let transformers' own "sdpa" attention hand keys with a front to it, for models that memvec did not load.

    The function that is registered is wrapped, once. Calls without a front go to it as they are.
    """
    with _WRAPPING():
        original = AttentionInterface()[SDPA]
        if not hasattr(original, FRONT):
            AttentionInterface.register(SDPA, _wrapped(original))


def _wrapped(original: Any) -> Any:
    @functools.wraps(original)
    def sdpa(module: Any, query: Tensor, key: Tensor, *given: Any, **named: Any) -> Any:
        front: SeesMore | None = getattr(key, FRONT, None)
        return (original if front is None else front.attend)(module, query, key, *given, **named)

    setattr(sdpa, FRONT, True)
    return sdpa


def attention_of(model: Any) -> Any:
    """The attention function of a transformers model, or the name of one that is not registered. Wraps "sdpa"."""
    wrap_sdpa()
    name = model.config.get_text_config()._attn_implementation
    return AttentionInterface().get(name, name)


_differences: ContextVar[list[float]] = ContextVar("differences")


@contextlib.contextmanager
def comparing() -> Iterator[list[float]]:
    """Within: each layer of a pass with `COMPARED` notes how far `attend` is from the model's own attention [0..1 of it]."""
    found: list[float] = []
    token = _differences.set(found)
    try:
        yield found
    finally:
        _differences.reset(token)


def _compared(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **rest: Any
) -> tuple[Tensor, None]:
    """`attend`. Models have their own attention in the file of their layers, under the same name.

    Both are compared in float32: where keys are large, as Qwen2's are, rounding in bfloat16 alone takes them far apart.
    """
    own = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
    off = 0.0
    if own is not None:
        wide, seen = (query.float(), key.float(), value.float()), attention_mask
        if seen is None:
            asked, past = query.shape[2], key.shape[2]
            seen = torch.ones(1, 1, asked, past, dtype=torch.bool, device=key.device).tril(past - asked)
        if seen.dtype == torch.bool:
            seen = torch.zeros_like(seen, dtype=torch.float32).masked_fill(~seen, torch.finfo(torch.float32).min)
        made, expected = (attention(module, *wide, seen.float(), **rest)[0] for attention in (attend, own))
        off = float((made - expected).norm() / expected.norm().clamp(min=1e-6))
    _differences.get().append(off)
    return attend(module, query, key, value, attention_mask, **rest)


# (was each mask of a forward pass None, in order?, does this pass repeat the list instead of writing it?)
_plain: ContextVar[tuple[list[bool], bool] | None] = ContextVar("plain", default=None)


@contextlib.contextmanager
def plain_masks(seen: list[bool], capturing: bool) -> Iterator[None]:
    """Let a forward pass note in `seen` which of its masks are None. None stands for a causal mask.

    transformers decides that by the values of a batch, which it cannot read while a CUDA graph is captured. A capturing
    pass therefore repeats the masks of the pass before it, over a batch of the same shape.
    """
    if not capturing:
        seen.clear()
    token = _plain.set((list(seen) if capturing else seen, capturing))
    try:
        yield
    finally:
        _plain.reset(token)


def mask(*given: Any, **named: Any) -> Any:
    """The mask of transformers' SDPA. None stands for a causal one."""
    noted = _plain.get()
    if noted is None:
        return sdpa_mask(*given, **named)
    seen, capturing = noted
    if capturing and seen and seen.pop(0):
        return None
    made = sdpa_mask(*given, **named)
    if not capturing:
        seen.append(made is None)
    return made


def register() -> str:
    """Make `attend` known to transformers. Return the name to load models with."""
    for name, function in ((NAME, attend), (COMPARED, _compared)):
        AttentionInterface.register(name, function)
        AttentionMaskInterface.register(name, mask)
    return NAME
