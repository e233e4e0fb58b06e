"""The attention that fits use says what the fused one says, gradient included, with heads that share keys and padding."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from loaded import load_model
from torch.nn import Module
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward as SDPA
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


class _Doubled:
    """A front that a test can recognise."""

    def attend(
        self, module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *given: Any, **named: Any
    ) -> Any:
        out, weights = SDPA(module, query, key.clone(), value, *given, **named)
        return 2 * out, weights


class TestSdpa:
    """transformers' own attention, which memvec wraps."""

    @pytest.fixture(autouse=True)
    def registered(self) -> Iterator[None]:
        """What is registered, is registered again."""
        before = AttentionInterface()["sdpa"]
        yield
        AttentionInterface.register("sdpa", before)

    def test_it_is_wrapped_once(self) -> None:
        AttentionInterface.register("sdpa", SDPA)
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda _: attention.wrap_sdpa(), range(64)))
        wrapped = AttentionInterface()["sdpa"]
        assert wrapped is not SDPA and wrapped.__wrapped__ is SDPA
        attention.wrap_sdpa()
        assert AttentionInterface()["sdpa"] is wrapped

    def test_calls_without_a_front_are_the_original_to_the_bit(self, tiny: str) -> None:
        model, ids = load_model(tiny), torch.arange(1, 41).view(2, 20)
        mask = torch.ones_like(ids)
        mask[0, :5] = 0
        found = []
        for wrap in (False, True):
            AttentionInterface.register("sdpa", SDPA)
            if wrap:
                attention.wrap_sdpa()
            out = model(input_ids=ids, attention_mask=mask).logits
            gradient = torch.autograd.grad(out.square().mean(), model.get_input_embeddings().weight)[0]
            said = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=5, do_sample=False)
            found.append((out, gradient, said))
        for first, second in zip(*found, strict=True):
            assert torch.equal(first, second)

    def test_a_front_gets_the_call(self) -> None:
        attention.wrap_sdpa()
        query, key, value = _parts(1, 9, torch.float32)
        call = AttentionInterface()["sdpa"]
        plain, _ = call(_Layer(), query, key, value, None, scaling=0.3)
        seen, _ = call(_Layer(), query, attention.mark(key, _Doubled()), value, None, scaling=0.3)
        torch.testing.assert_close(seen, 2 * plain)

    def test_it_compiles(self) -> None:
        attention.wrap_sdpa()
        query, key, value = (part.detach() for part in _parts(4, 4, torch.float32))
        call = AttentionInterface()["sdpa"]
        compiled = torch.compile(lambda *given: call(_Layer(), *given, None)[0], backend="eager", fullgraph=True)
        assert torch.equal(compiled(query, key, value), call(_Layer(), query, key, value, None)[0])
