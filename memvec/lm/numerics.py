"""Float32 arithmetic and random numbers that do not depend on settings of the host program or of other threads."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from memvec.guard import Held, Lock

drawing = Lock()  # held by whoever uses torch's generator of random numbers


def _highest() -> str:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    return before


def _restore(before: str) -> None:
    if torch.get_float32_matmul_precision() == "highest":  # else the host program chose another one meanwhile
        torch.set_float32_matmul_precision(before)


_precision = Held(_highest, _restore)


@contextlib.contextmanager
def declared_numerics(device: torch.device) -> Iterator[None]:
    """Within: float32 means float32, whatever autocast or TF32 setting the host program has. After: as it was.

    The precision is one setting of the process: it is restored when the last thread leaves.
    """
    with _precision.holding(), torch.autocast(device.type, enabled=False):
        yield


@contextlib.contextmanager
def sampling(device: torch.device, seed: int | None) -> Iterator[int]:
    """Within: torch's random numbers begin at `seed`, or at a new one, which is yielded. After: as they were.

    torch has one generator for the process, so one thread samples at a time.
    """
    with drawing(), torch.random.fork_rng([device] if device.type == "cuda" else []):
        # torch starts every process with the same seed. Without a given seed each call should sample differently.
        yield torch.seed() if seed is None else torch.manual_seed(seed).initial_seed()
