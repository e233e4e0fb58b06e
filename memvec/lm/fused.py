"""Make steps on a GPU faster: compile a model's layers and its loss, and launch all kernels of a step at once.

Elementwise work takes most of a step on a GPU. Compiling with torch.compile takes some ten seconds, so it is for long packs
only (docs/LOG.md). Kernels are launched at once by a CUDA graph, where launching them one by one takes longer than running
them.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
from torch import nn

from memvec.causes import first_line, out_of_memory
from memvec.lm.head import Weigh, weigh
from memvec.lm.layers import decoder_layers
from memvec.lm.numerics import drawing

PAYS_AFTER = 1 << 21  # positions run before compiling; some ten seconds of steps that are not compiled
COMPILING, GAIN = 10.0, 2.5  # seconds that compiling takes, and the speed-up of steps, both on an H100 (docs/LOG.md)
CAPTURE = "captur"  # in every message of CUDA and torch about an operation that a stream capture does not allow


class Graphed(Protocol):
    """A model on a device. CUDA graphs of it are made while `graphs` is True."""

    device: torch.device
    graphs: bool


class Fused:
    """Compiled layers of one model. They take the place of its own within `layers` only."""

    def __init__(self, model: nn.Module, on: bool) -> None:
        """Prepare to compile the layers of `model`. With `on` False nothing is ever compiled."""
        self._layers = decoder_layers(model)
        self._on = on
        self._positions = 0
        self._forwards: list[Callable[..., Any]] = []
        self._weigh: Weigh = weigh

    @property
    def ready(self) -> bool:
        """Are the compiled layers used from now on?"""
        return self._on and self._positions >= PAYS_AFTER

    def ran(self, positions: int) -> None:
        """Note that a step ran `positions`. Compile when enough were run."""
        self._positions += positions
        if self.ready and self._weigh is weigh:
            try:
                self._weigh = torch.compile(weigh, dynamic=True)
                self._forwards = [torch.compile(layer.forward, dynamic=True) for layer in self._layers]
            except RuntimeError as error:  # torch.compile does not support this Python; no code of memvec runs here
                self.give_up(error)

    def seconds(self, positions: float, speed: float) -> float:
        """Estimate the seconds of a fit of `positions`, where `speed` positions a second run without compiling."""
        compiled = max(0.0, positions - PAYS_AFTER) if self._on else 0.0
        return (positions - compiled + compiled / GAIN) / speed + COMPILING * (compiled > 0)

    def give_up(self, error: RuntimeError) -> None:
        """Stop compiling for good, because it failed."""
        self._on = False
        warnings.warn(f"torch.compile failed, so fits go on without it, more slowly: {first_line(error)}", stacklevel=2)

    @property
    def weigh(self) -> Weigh | None:
        """The compiled function for `head_pass`. None: it uses its own."""
        return self._weigh if self.ready else None

    @contextlib.contextmanager
    def layers(self) -> Iterator[None]:
        """Within: the model runs its compiled layers, if they are ready."""
        if not self.ready:
            yield
            return
        try:
            for layer, forward in zip(self._layers, self._forwards, strict=True):
                layer.forward = forward
            yield
        finally:
            for layer in self._layers:
                vars(layer).pop("forward", None)


def captured(lm: Graphed, compute: Callable[[], None]) -> torch.cuda.CUDAGraph | None:
    """Capture the kernels that `compute` launches on the device of `lm`, without running them.

    Return None if `compute` cannot be captured, for instance because the model reads a tensor's values. Then `lm.graphs`
    is set to False, with a warning. Any other error of `compute` is raised.
    """
    graph, side = torch.cuda.CUDAGraph(), torch.cuda.Stream(lm.device)  # type: ignore[no-untyped-call]
    # By itself torch captures on the current device, and stays on the capturing stream when a capture fails.
    staying = torch.cuda.stream(torch.cuda.current_stream(lm.device))
    first: Exception | None = None
    try:
        # Only one capture at a time, and no other thread may draw random numbers. Other threads may allocate memory.
        apart = torch.cuda.graph(graph, stream=side, capture_error_mode="thread_local")
        with drawing(), torch.cuda.device(lm.device), staying, apart:
            try:
                compute()
            except Exception as error:
                first = error  # torch raises another error when it ends a failed capture
                raise
    except RuntimeError as error:
        cause = first or error
        if out_of_memory(cause) or CAPTURE not in str(cause).lower():
            raise cause  # noqa: B904  # it is the cause of `error`
        lm.graphs = False
        warnings.warn(
            f"no CUDA graph can be made of this model, so it runs more slowly: {first_line(cause)}", stacklevel=2
        )
        return None
    return graph
