"""CUDA graphs: work that is launched as a whole, where launching its kernels one by one takes longer than they do."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from memvec.causes import out_of_memory
from memvec.lm.numerics import drawing

if TYPE_CHECKING:
    from memvec.lm.frozen import FrozenLM


CAPTURE = "captur"  # in every message of CUDA and torch about what may not be done while a stream is captured


def captured(lm: FrozenLM, compute: Callable[[], None]) -> torch.cuda.CUDAGraph | None:
    """A graph of what `compute` launches on the device of `lm`; none of it is run now.

    None where `compute` may not be captured, for instance because the model asks what a tensor holds. Then `lm.graphs`
    is False from now on, and a warning says so. Any other error of `compute` is raised.
    """
    graph, side = torch.cuda.CUDAGraph(), torch.cuda.Stream(lm.device)  # type: ignore[no-untyped-call]
    # By itself torch captures on the current device, and stays on the capturing stream when a capture fails.
    staying = torch.cuda.stream(torch.cuda.current_stream(lm.device))
    first: Exception | None = None
    try:
        # One at a time, and beside nobody who draws random numbers; other threads may go on allocating memory.
        apart = torch.cuda.graph(graph, stream=side, capture_error_mode="thread_local")
        with drawing(), torch.cuda.device(lm.device), staying, apart:
            try:
                compute()
            except Exception as error:
                first = error  # torch raises another one when it ends a capture that failed
                raise
    except RuntimeError as error:
        cause = first or error
        if out_of_memory(cause) or CAPTURE not in str(cause).lower():
            raise cause  # noqa: B904  # it is the cause of `error`
        lm.graphs = False
        warnings.warn(f"no CUDA graph can be made of this model, so it runs more slowly: {_line(cause)}", stacklevel=2)
        return None
    return graph


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
