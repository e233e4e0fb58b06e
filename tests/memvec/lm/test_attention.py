"""The attention that fits use says what the fused one says, gradient included, with heads that share keys and padding."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import Module
from transformers.masking_utils import sliding_window_causal_mask_function

from memvec.lm import attention
from memvec.lm.frozen import FrozenLM


class _Layer(Module):
    """What transformers' own attention reads of a layer."""

    is_causal = True
    num_key_value_groups = 3


def _parts(length: int, past: int, dtype: torch.dtype) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    sizes = ((2, 6, length, 8), (2, 2, past, 8), (2, 2, past, 8))
    return [torch.randn(size, generator=generator).to(dtype).requires_grad_(True) for size in sizes]


def _both(
    monkeypatch: pytest.MonkeyPatch, length: int, past: int, mask: torch.Tensor | None, dtype: torch.dtype
) -> list[list[torch.Tensor]]:
    found = []
    for short in (attention.SHORT, 0):
        monkeypatch.setattr(attention, "SHORT", short)
        parts = _parts(length, past, dtype)
        out, _ = attention.attend(_Layer(), *parts, mask)
        found.append([out, *torch.autograd.grad(out.square().sum(), parts)])
    return found


@pytest.mark.parametrize(("dtype", "near"), [(torch.float32, 1e-5), (torch.bfloat16, 0.05)])
@pytest.mark.parametrize("kind", ["none", "bool", "float"])
def test_it_agrees_with_the_fused_kernels(
    kind: str, dtype: torch.dtype, near: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    length, past = (5, 5) if kind == "none" else (5, 9)
    seen = torch.ones(length, past, dtype=torch.bool).tril(past - length).repeat(2, 1, 1, 1)
    seen[0, :, :, :3] = False  # the first row is padded on the left
    mask = {"none": None, "bool": seen, "float": torch.zeros(seen.shape).masked_fill(~seen, -1e9).to(dtype)}[kind]
    for mine, fused in zip(*_both(monkeypatch, length, past, mask, dtype), strict=True):
        torch.testing.assert_close(mine, fused, atol=near, rtol=near)


def test_a_model_is_loaded_with_it_and_a_fit_uses_it(tiny_lm: FrozenLM, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    real = torch.bmm
    monkeypatch.setattr(torch, "bmm", lambda *args: calls.append(args) or real(*args))
    vectors = torch.zeros(1, 4, tiny_lm.width, requires_grad=True)
    tiny_lm.hidden(vectors)
    assert calls
    calls.clear()
    with torch.inference_mode():
        tiny_lm.hidden(vectors)
    assert not calls


def windowed(capturing: bool, seen: list[bool]) -> list[Any]:
    """The masks of a pass over 24 positions: a full layer's, and one's with a window of 16."""
    ask = {"batch_size": 1, "q_length": 24, "kv_length": 24, "q_offset": 0, "kv_offset": 0, "device": "cpu"}
    with attention.plain_masks(seen, capturing):
        return [
            attention.mask(**ask, allow_is_causal_skip=not capturing),  # while it is captured transformers cannot know
            attention.mask(**ask, mask_function=sliding_window_causal_mask_function(16), local_size=16),
        ]


def test_masks_while_capturing_are_plain_where_they_were() -> None:
    seen: list[bool] = []
    full, window = windowed(False, seen)
    assert full is None and seen == [True, False]
    again, same = windowed(True, seen)
    assert again is None and torch.equal(same, window) and seen == [True, False]
    unknown, _ = windowed(True, [])  # what was not seen is not taken for plain
    assert unknown is not None and unknown.shape == (1, 1, 24, 24)
