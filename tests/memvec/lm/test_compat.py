"""Caches by every name that transformers gives them. Rotary positions are in tests/memvec/identity/test_match.py."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from memvec.lm.compat import branched, cache_argument, cache_bytes, cache_of, empty_cache, repeated


@pytest.mark.parametrize("name", ["cache", "past_key_values", "cache_params"])
def test_a_cache_has_one_of_three_names(name: str) -> None:
    class Model:
        """A model of some version of transformers."""

    scope: dict[str, Any] = {}
    exec(f"def forward(self, input_ids, {name}=None): ...", scope)  # noqa: S102
    Model.forward = scope["forward"]  # type: ignore[attr-defined]
    assert cache_argument(Model()) == name
    assert cache_of({"logits": 1, name: 2}) == 2


class TestCaches:
    @pytest.fixture
    def cache(self) -> Any:
        """A cache of two rows of three positions, in two layers."""
        made = empty_cache()
        for layer in range(2):
            keys = torch.arange(2 * 4 * 3 * 8, dtype=torch.float32).view(2, 4, 3, 8) + layer
            made.update(keys, -keys, layer)
        return made

    def test_size(self, cache: Any) -> None:
        assert cache_bytes(cache) == 2 * 2 * (2 * 4 * 3 * 8) * 4 and cache_bytes(empty_cache()) == 0

    def test_branches(self, cache: Any) -> None:
        """Rows of a branch are those of their owner, with its gradient. The cache itself does not grow with them."""
        cache.layers[0].keys.requires_grad_(True)
        made = branched(cache, torch.tensor([1, 0, 1]))
        for mine, theirs in zip(made.layers, cache.layers, strict=True):
            assert torch.equal(mine.keys, theirs.keys[[1, 0, 1]]) and torch.equal(mine.values, theirs.values[[1, 0, 1]])
        assert made.layers[0].keys.requires_grad
        made.update(torch.zeros(3, 4, 1, 8), torch.zeros(3, 4, 1, 8), 0)
        assert made.get_seq_length() == 4 and cache.get_seq_length() == 3
        assert not branched(None, torch.tensor([0])).layers

    def test_copies(self, cache: Any) -> None:
        made = repeated(cache, 3)
        assert made.layers[1].keys.shape == (6, 4, 3, 8) and torch.equal(
            made.layers[1].keys[2], cache.layers[1].keys[0]
        )
        made.layers[1].keys.zero_()
        assert cache.layers[1].keys.any() and len(cache.layers[1].keys) == 2
