"""Models that kv memories do not work with are found by trying. The families are in `scenarios/test_families.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from memvec.errors import ReadError, UnsupportedModelError, UsageError
from memvec.kv import suitable
from memvec.kv.fronts import Front
from memvec.kv.suitable import check, most_tokens
from memvec.lm import attention
from memvec.lm.frozen import FrozenLM
from memvec.lm.load import load


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_suitable_model(tiny: str, dtype: torch.dtype) -> None:
    """It is taken in every dtype, with documents of any length."""
    lm = load(Path(tiny), dtype)
    check(lm)
    check(lm, 10**6)
    assert most_tokens(lm) is None


def test_it_is_tried_once(tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second check of a model runs nothing."""
    lm = load(Path(tiny))
    check(lm)
    monkeypatch.setattr(suitable, "_fault", lambda lm: "were tried again")
    check(lm)


def ignored(self: Front, module: Any, query: Any, key: Any, value: Any, mask: Any, **rest: Any) -> Any:
    """The attention of a model that does not see a front: the tokens are there, the memory is not."""
    return attention.attend(module, query, key.view_as(key), value, self._own(mask), **rest)


def turned_away(self: Front, *given: Any, **named: Any) -> Any:
    """The attention of a model that changes weights in a way of its own."""
    raise UnsupportedModelError("this model has sinks")


def raising(error: BaseException) -> Any:
    """An attention that fails."""

    def attend(self: Front, *given: Any, **named: Any) -> Any:
        raise error

    return attend


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("attend", "why"),
    [
        (ignored, "answer otherwise"),
        (turned_away, r"\(this model has sinks\)"),
        (raising(IndexError("no such layer\nand more")), r"\(IndexError: no such layer\)"),
        (raising(AssertionError()), r"\(AssertionError\)"),
    ],
)
def test_an_unsuitable_model(
    tiny: str, monkeypatch: pytest.MonkeyPatch, attend: Any, why: str, dtype: torch.dtype
) -> None:
    """The error names the model and the kind of memory that works with it."""
    monkeypatch.setattr(Front, "attend", attend)
    with pytest.raises(UnsupportedModelError, match=f"llama models .*{why}.*kind='context'"):
        check(load(Path(tiny), dtype))


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"),
        KeyboardInterrupt(),
        UsageError("the model is on several devices."),
        ReadError("model.safetensors", "Input/output error"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_that_say_nothing_about_the_model(
    tiny: str, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    """They are raised as they are, and the model is tried again."""
    lm = load(Path(tiny))
    with monkeypatch.context() as patch, pytest.raises(type(error)) as caught:
        patch.setattr(Front, "attend", raising(error))
        check(lm)
    assert caught.value is error
    check(lm)


def test_a_model_whose_positions_are_wrong_by_one(tiny_lm: FrozenLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """A memory that ends one position too early is noticed."""
    right = suitable.gathered

    def late(*given: Any) -> Any:
        memories = right(*given)
        for memory in memories:
            memory.distances.add_(1)
        return memories

    monkeypatch.setattr(suitable, "gathered", late)
    assert "answer otherwise" in suitable._fault(tiny_lm)
