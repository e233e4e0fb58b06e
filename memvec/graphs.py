"""CUDA graphs: work that is launched as a whole, where launching its kernels one by one takes longer than they do."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from memvec.numerics import drawing

if TYPE_CHECKING:
    from memvec.lm import FrozenLM


def captured(lm: FrozenLM, compute: Callable[[], None]) -> torch.cuda.CUDAGraph | None:
    """A graph of what `compute` launches on the device of `lm`; none of it is run now.

    None where `compute` may not be captured, because the model asks what a tensor holds; then `lm.graphs` is False from
    now on. OutOfMemoryError.
    """
    graph, side = torch.cuda.CUDAGraph(), torch.cuda.Stream(lm.device)  # type: ignore[no-untyped-call]
    # By itself torch captures on the current device, and stays on the capturing stream when a capture fails.
    staying = torch.cuda.stream(torch.cuda.current_stream(lm.device))
    try:
        # One at a time, and beside nobody who draws random numbers; other threads may go on allocating memory.
        apart = torch.cuda.graph(graph, stream=side, capture_error_mode="thread_local")
        with drawing(), torch.cuda.device(lm.device), staying, apart:
            compute()
    except torch.OutOfMemoryError:
        raise
    except RuntimeError:
        lm.graphs = False
        return None
    return graph
