"""The progress of a long call, for the caller to show. The library itself never prints."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

USUAL_TOKEN_STEPS = 30.0  # token-steps of a fitted token on the default model, for the first estimates


@dataclass(slots=True)
class Progress:
    """The progress of a call. Every call of `watch` gets the same object."""

    stage: str = "starting"
    documents: int = 0
    documents_done: int = 0
    segments: int = 0
    segments_done: int = 0
    exact: int = 0  # segments certified so far
    tokens: int = 0  # to be fitted or decoded
    tokens_done: int = 0
    token_steps: int = 0  # positions run forward and backward so far
    seconds: float = 0.0  # spent so far
    usual: float = USUAL_TOKEN_STEPS  # token-steps that a token is expected to take

    @property
    def tokens_per_second(self) -> float:
        """Finished tokens a second so far."""
        return self.tokens_done / self.seconds if self.seconds else 0.0

    @property
    def seconds_left(self) -> float | None:
        """The estimated seconds left. None before any work is done."""
        if not self.seconds or not (self.token_steps or self.tokens_done):
            return None
        if not self.token_steps:  # decoding: every token costs the same
            return (self.tokens - self.tokens_done) / self.tokens_per_second
        known = self.tokens_done > self.tokens / 4
        per_token = self.token_steps / self.tokens_done if known else self.usual
        left = max(0.0, self.tokens * per_token - self.token_steps)
        return left / (self.token_steps / self.seconds)


Watch = Callable[[Progress], None]


def unwatched(progress: Progress) -> None:
    """Ignore the progress."""


def enter(stage: str, progress: Progress, watch: Watch) -> None:
    """Begin a new stage."""
    progress.stage = stage
    watch(progress)
