"""AdamW over the vectors of many slots at once. Each row has the step count of its own slot.

Both betas are .9, as with Kuratov et al. 2025; the first can be set. R = ΣM rows, in order of the slots; D width.
"""

from __future__ import annotations

import torch
from torch import Tensor

BETA = 0.9
EPSILON = 1e-8


class SlotAdam:
    """Vectors (R, D) float32 and their moments."""

    STATES = ("vectors", "first", "second", "age", "moves")

    def __init__(self, width: int, device: torch.device, momentum: float = BETA) -> None:
        self.momentum = momentum  # the first beta
        self.vectors = torch.zeros(0, width, device=device)
        self.first, self.second = self.vectors, self.vectors
        self.age = self.vectors[:, :1]  # (R, 1) steps taken
        self.moves = self.age  # (R, 1) 0 for rows that are not trained, else 1

    def extend(self, vectors: Tensor, fixed: int = 0) -> None:
        """Add a slot that starts from vectors (M, D). The first `fixed` of them are not trained."""
        fresh, moves = torch.zeros_like(vectors), torch.ones_like(vectors[:, :1])
        moves[:fixed] = 0
        self.moves = torch.cat([self.moves, moves])
        self.vectors = torch.cat([self.vectors, vectors])
        self.first, self.second = (torch.cat([moment, fresh]) for moment in (self.first, self.second))
        self.age = torch.cat([self.age, fresh[:, :1]])

    def restart(self, rows: slice, vectors: Tensor) -> None:
        """Set some rows to `vectors` (M, D) and forget their moments."""
        self.vectors[rows] = vectors
        for state in (self.first, self.second, self.age):
            state[rows] = 0

    def keep(self, rows: Tensor) -> None:
        """Drop every row that is not in the mask `rows` (R,)."""
        for name in self.STATES:
            setattr(self, name, getattr(self, name)[rows])

    def descend(self, gradient: Tensor, rate: Tensor, weight_decay: float = 0.0) -> None:
        """Take a step along gradient (R, D) at learning rates `rate` (R, 1). The caller has counted `age` up."""
        self.first.mul_(self.momentum).add_(gradient, alpha=1 - self.momentum)
        self.second.mul_(BETA).addcmul_(gradient, gradient, value=1 - BETA)
        mean = self.first / (1 - self.momentum**self.age)  # (R, D)
        update = mean / ((self.second / (1 - BETA**self.age)).sqrt() + EPSILON)
        rate = rate * self.moves
        self.vectors.mul_(1 - rate * weight_decay).sub_(rate * update)
