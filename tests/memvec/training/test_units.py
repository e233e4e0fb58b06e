"""Rates and starts are measured in a model's own unit: a model whose hidden states are larger is fitted in the same steps."""

from __future__ import annotations

import copy
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from memvec.lm.frozen import FrozenLM
from memvec.settings import PackSettings
from memvec.training.fit import FitEngine, Fitted, Task
from memvec.training.units import DECAY, LARGEST, MAGNITUDES, RATE, unit_of, with_rates

TIMES = 32.0
TEXTS = (
    "It is a truth universally acknowledged, that a single man in possession of a good fortune",
    "Mr. Bennet was so odd a mixture of quick parts, sarcastic humour, reserve, and caprice",
)


def enlarged(lm: FrozenLM, times: float) -> FrozenLM:
    """A model that gives the same logits, and whose hidden states are so many times as large before the last norm."""
    model = copy.deepcopy(lm.model)
    model.config.tie_word_embeddings = False
    model.lm_head.weight = torch.nn.Parameter(lm.head.clone(), requires_grad=False)
    with torch.no_grad():
        model.model.embed_tokens.weight.mul_(times)
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.mul_(times)
            layer.mlp.down_proj.weight.mul_(times)
    return FrozenLM(model, lm.tokenizer, lm.splitter)


def fit(lm: FrozenLM, settings: PackSettings) -> dict[int, Fitted]:
    engine = FitEngine(lm, settings)
    engine.add(Task(key, tuple(lm.encode(text)[:24]), 6) for key, text in enumerate(TEXTS))
    return {done.task.key: done for batch in engine.run() for done in batch}


def test_a_model_with_larger_hidden_states_is_fitted_alike(
    tiny_lm: Any, tiny_settings: Callable[..., PackSettings]
) -> None:
    settings = tiny_settings(learning_rate=None, weight_decay=None, growth=0, max_steps=8)
    large = enlarged(tiny_lm, TIMES)
    ids = torch.tensor([tiny_lm.encode(TEXTS[0])])
    logits, same = (lm.hidden(lm.embed(ids)) @ lm.head.T for lm in (tiny_lm, large))
    assert torch.allclose(logits, same, atol=0.01)
    assert large.magnitude == pytest.approx(TIMES * tiny_lm.magnitude, rel=1e-3)
    here, there = fit(tiny_lm, settings), fit(large, settings)
    for key, one in here.items():
        expected, found = TIMES * one.vectors.astype(np.float32), there[key].vectors.astype(np.float32)
        assert there[key].corrections == one.corrections
        assert np.abs(found - expected).mean() < 0.02 * np.abs(expected).mean()


def test_rates_that_are_named_stay(tiny_lm: Any) -> None:
    found = with_rates(PackSettings(), tiny_lm)
    assert found.learning_rate == pytest.approx(RATE * MAGNITUDES * tiny_lm.magnitude)
    assert found.learning_rate * found.weight_decay == pytest.approx(DECAY)
    named = with_rates(PackSettings(learning_rate=2.0), tiny_lm)
    assert (named.learning_rate, named.weight_decay) == (2.0, DECAY / 2.0)
    both = PackSettings(learning_rate=2.0, weight_decay=0.01)
    assert with_rates(both, tiny_lm) == both


def test_starts_of_a_model_with_huge_hidden_states_fit_in_float16(tiny_lm: Any) -> None:
    huge = enlarged(tiny_lm, 2.0**17)
    assert huge.magnitude > LARGEST
    assert unit_of(huge) == LARGEST


def test_the_magnitude_is_that_of_tokens_late_in_the_model() -> None:
    """Neither that of the first position, nor that behind the last norm."""
    layers = [torch.full((1, 4, 8), float(number)) for number in range(11)]
    layers[9][:, 0] = 0.001
    layers[9][:, 1] = 4000.0  # a token that is far larger than the others

    def run(**given: Any) -> SimpleNamespace:
        assert given["inputs_embeds"].shape == (1, 4, 8) and given["output_hidden_states"]
        return SimpleNamespace(hidden_states=layers)

    stand_in = SimpleNamespace(
        model=SimpleNamespace(config=SimpleNamespace(max_position_embeddings=4), base_model=run),
        encode=lambda text: list(range(100)), anchor=torch.zeros(1, 8), dtype=torch.float32, device="cpu",
        embed=lambda ids: torch.zeros(*ids.shape, 8),
    )  # fmt: skip
    assert FrozenLM.magnitude.func(stand_in) == 9.0
