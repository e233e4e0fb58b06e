"""What is done when a step cannot be captured as a CUDA graph, with a stand-in for CUDA."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from memvec.lm.fused import captured

REFUSED = "CUDA error: operation not permitted when stream is capturing\nCompile with TORCH_USE_CUDA_DSA"
ENDED = "CUDA error: operation failed due to a previous error during capture"


@pytest.fixture
def lm(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A model on a device whose captures fail as CUDA's do: ending one after an error raises another error."""

    @contextlib.contextmanager
    def graph(graph: Any, **options: Any) -> Iterator[None]:
        try:
            yield
        except Exception:
            if lm.spoils:
                raise RuntimeError(ENDED)  # noqa: B904  # as torch does
            raise

    lm = SimpleNamespace(device=torch.device("cpu"), graphs=True, spoils=True)
    for name in ("CUDAGraph", "current_stream"):
        monkeypatch.setattr(torch.cuda, name, lambda *args: None)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: None)
    for name in ("device", "stream"):
        monkeypatch.setattr(torch.cuda, name, lambda *args: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "graph", graph)
    return lm


def failing(error: Exception) -> Any:
    def compute() -> None:
        raise error

    return compute


@pytest.mark.parametrize("spoils", [True, False])
def test_a_refused_capture_is_said(lm: Any, spoils: bool) -> None:
    lm.spoils = spoils
    with pytest.warns(UserWarning, match="no CUDA graph can be made.*not permitted when stream is capturing$"):
        assert captured(lm, failing(torch.AcceleratorError(REFUSED))) is None
    assert not lm.graphs


@pytest.mark.parametrize("spoils", [True, False])
@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("CUDA error: out of memory while capturing"),
        RuntimeError("mat1 and mat2 shapes cannot be multiplied (3x4 and 5x6)"),
        torch.AcceleratorError("CUDA error: device-side assert triggered"),
        TypeError("advance() takes 2 arguments"),
        MemoryError(),
    ],
    ids=lambda error: f"{type(error).__name__}-{str(error)[-12:]}",
)
def test_other_errors_are_raised(lm: Any, error: Exception, spoils: bool) -> None:
    """Running out of memory and mistakes keep their type, and graphs stay on."""
    lm.spoils = spoils
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(type(error)) as caught:
            captured(lm, failing(error))
    assert caught.value is error and lm.graphs


def test_a_capture_that_works_is_a_graph(lm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made, ran = object(), []
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: made)
    assert captured(lm, lambda: ran.append(1)) is made
    assert ran and lm.graphs
