"""Make float32 arithmetic and random numbers independent of the host program's settings and of other threads."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from memvec.guard import Held, Lock

drawing = Lock()  # held while a thread uses torch's generator of random numbers


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
    """Within: products of float32 are in float32, even if the host program turned autocast or TF32 on. After: as before.

    The precision is one setting of the process. It is restored when the last thread leaves.
    """
    with _precision.holding(), torch.autocast(device.type, enabled=False):
        yield


@contextlib.contextmanager
def sampling(device: torch.device, seed: int | None) -> Iterator[int]:
    """Within: torch's random numbers start from `seed`, or from a new seed. Yield the seed. After: as before.

    torch has one generator for the process, so one thread samples at a time.
    """
    with drawing(), torch.random.fork_rng([device] if device.type == "cuda" else []):
        # torch starts every process with the same seed, but without a given seed every call should sample differently.
        yield torch.seed() if seed is None else torch.manual_seed(seed).initial_seed()
