"""The work spent on a task."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Cost:
    """Work spent on one task. Costs of attempts add up."""

    steps: int = 0  # optimiser steps
    token_steps: int = 0  # token positions that were run, padding included, summed over the steps
    seconds: float = 0.0  # the task's share of the time that its batches took

    def __add__(self, other: Cost) -> Cost:
        """The cost of both."""
        return Cost(self.steps + other.steps, self.token_steps + other.token_steps, self.seconds + other.seconds)


NOTHING = Cost()
