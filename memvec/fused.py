"""A model's layers and its loss in few kernels, by torch.compile: on a GPU, once they have run for so long that it pays.

Elementwise work takes most of a step there, and compiling some ten seconds (docs/LOG.md).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from memvec.objective import Weigh, weigh

PAYS_AFTER = 1 << 21  # positions: some ten seconds of steps that are not compiled


class Fused:
    """Compiled layers of one model, which take the place of its own only where `layers` says so."""

    def __init__(self, layers: Sequence[Any], on: bool) -> None:
        """`layers` are modules of one kind; with `on` False they are left alone for good."""
        self._layers, self._on = layers, on and len(layers) > 0
        self._positions = 0
        self._forwards: list[Callable[..., Any]] = []
        self._weigh: Weigh = weigh

    @property
    def ready(self) -> bool:
        """Is it used from now on?"""
        return self._on and self._positions >= PAYS_AFTER

    def ran(self, positions: int) -> None:
        """So many positions were run in a step."""
        self._positions += positions
        if self.ready and not self._forwards:
            self._forwards = [torch.compile(layer.forward, dynamic=True) for layer in self._layers]
            self._weigh = torch.compile(weigh, dynamic=True)

    def give_up(self) -> None:
        """It does not work here: never again."""
        self._on = False

    @property
    def weigh(self) -> Weigh | None:
        """What `head_pass` weighs with; None: its own way."""
        return self._weigh if self.ready else None

    @contextlib.contextmanager
    def layers(self) -> Iterator[None]:
        """Within, the model runs its compiled layers if it is ready."""
        if not self.ready:
            yield
            return
        for layer, forward in zip(self._layers, self._forwards, strict=True):
            layer.forward = forward
        try:
            yield
        finally:
            for layer in self._layers:
                del layer.forward
