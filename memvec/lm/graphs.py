"""CUDA graphs: launch all kernels of a step at once, where launching them one by one takes longer than running them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from memvec.causes import first_line, out_of_memory
from memvec.lm.numerics import drawing

if TYPE_CHECKING:
    from memvec.lm.frozen import FrozenLM

CAPTURE = "captur"  # in every message of CUDA and torch about an operation that a stream capture does not allow


def captured(lm: FrozenLM, compute: Callable[[], None]) -> torch.cuda.CUDAGraph | None:
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
