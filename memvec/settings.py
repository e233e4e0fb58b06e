"""Settings of a pack: one flat, validated value; every number says its unit."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from memvec.arguments import LARGEST_SEED, flag, number, whole
from memvec.errors import UsageError

# Measured on the default model (docs/LOG.md): behind an anchor three vectors take the 64 tokens that eight took without.
NATS_PER_DIMENSION = 76 / 576
DECODE_BATCH, DECODE_BATCH_GPU = 16, 1024  # records decoded at once
MOST_RATIO = 16  # tokens a context vector may stand for unless only the gist is wanted


Bounds = Mapping[str, tuple[float, float]]


def check_fields(settings: Any, bounds: Bounds) -> None:
    """UsageError unless every field of a settings object has its declared type and lies within its bounds."""
    for field in fields(settings):
        value, kind = getattr(settings, field.name), str(field.type)
        if value is None and kind.endswith(" | None"):
            continue
        if kind == "bool":
            flag(field.name, value)
            continue
        low, high = bounds[field.name]
        rule = whole(int(low), int(high)) if kind.startswith("int") else number(low, high)
        object.__setattr__(settings, field.name, rule(field.name, value))  # numpy's numbers become Python's


@dataclass(frozen=True, slots=True)
class PackSettings:
    """What may be chosen about a pack. The defaults are measured on the default model (docs/LOG.md)."""

    nats_per_vector: float | None = None  # surprisal one vector is asked to carry [nats]; None: 76 at width 576
    segment_tokens: int = 64  # most tokens in a segment
    vectors: int | None = None  # exactly this many vectors a segment, cut to suit; None: as many as its nats ask for
    anchor: bool = True  # a segment's first vector is the embedding of the model's BOS token, as it is
    margin: float = 0.1  # logit gap under which a token is stored as a correction [logits]
    max_corrections: float = 0.03  # corrected tokens a record may have, as a fraction of its tokens [0..1]
    strict: bool = False  # no corrections of wrong tokens, only of thin margins
    max_steps: int = 200  # optimiser steps of one attempt
    patience: int = 60  # steps for which a fit aims at half its cap of corrections; from then on the cap is enough
    refits: int = 2  # further attempts, each with half as many vectors again, before a segment goes raw
    growth: int = 24  # steps after which a fit, which begins with a text's first part, has the whole
    learning_rate: float = 5.0
    weight_decay: float = 0.01
    warmup: int = 2  # steps
    cooling: int = 60  # steps in which the learning rate falls to its last value
    last_rate: float = 0.2  # that, as a share of the learning rate [0..1]
    geometric: bool = False  # it falls by the same factor each step, instead of in a line
    seed: int = 0
    memory: int | None = None  # most that activations may take [bytes]; None: 2 GiB, on a GPU a share of what is free

    def __post_init__(self) -> None:
        """UsageError when a value is out of its range or of another type."""
        bounds: Bounds = {
            "nats_per_vector": (0.1, 1e6),
            "segment_tokens": (8, 4096),
            "vectors": (1, 4096),
            "margin": (0.0, 100.0),
            "max_corrections": (0.0, 1.0),
            "max_steps": (1, 1_000_000),
            "patience": (0, 1_000_000),
            "refits": (0, 10),
            "growth": (0, 1_000_000),
            "warmup": (0, 1_000_000),
            "learning_rate": (1e-9, 1e9),
            "weight_decay": (0.0, 1.0),
            "cooling": (1, 1_000_000),
            "last_rate": (0.0, 1.0),
            "seed": (0, LARGEST_SEED),
            "memory": (1, 2**63),
        }
        check_fields(self, bounds)

    @property
    def grown(self) -> int:
        """Steps until a fit has the whole of its text: half of few steps at most."""
        return min(self.growth, self.max_steps // 2)

    def budget(self, width: int) -> float:
        """Nats one vector of `width` elements is asked to carry."""
        return self.nats_per_vector or NATS_PER_DIMENSION * width

    def allowed(self, tokens: int) -> int:
        """Most corrections a record of N = `tokens` may have: the fraction, rounded up to a whole token."""
        return math.ceil(self.max_corrections * tokens - 1e-9)

    def enough(self, tokens: int, steps: int = 0) -> int:
        """Corrections at which a fit stops after `steps`: half the cap, so that float32 has room to differ; later the cap."""
        return self.allowed(tokens) if steps > self.patience else round(self.max_corrections * tokens / 2)


@dataclass(frozen=True, slots=True)
class ContextSettings:
    """What may be chosen about context vectors. The defaults are measured on the default model (docs/LOG.md)."""

    ratio: float = 4.0  # tokens of the text one vector stands for
    gist: bool = False  # allow ratios over 16, at which names and numbers are lost
    window_tokens: int = 512  # most tokens that share a record's vectors
    steps: int = 180  # optimiser steps
    learning_rate: float = 0.1
    warmup: int = 10  # steps
    question_rows: int = 4  # rows a step from questions about the text, for each 150 tokens or so of it
    truth: float = 0.9  # share of the right answer, beside what the teacher says, in what a question teaches [0..1]
    first_truth: float = 0.4  # the same of an answer's first token, which is more manner than matter [0..1]
    sentence_answers: float = 0.25  # share of questions that the whole sentence answers, as a chat model does [0..1]
    question_weight: float = 0.3  # of a question's own tokens in the loss, where those of answers have 1
    aside_rows: int = 1  # rows a step about something else, for each 150 tokens or so of the text
    aside_weight: float = 4.0  # of their tokens in the loss, where those of answers have 1
    company: float = 0.3  # share of steps in which another document's vectors stand beside [0..1]
    span: int = 0  # tokens of spans of the text asked for from their first words; 0: none
    stride: int = 4  # tokens between the phases in which spans cover the text
    span_share: float = 1.0  # of the spans of a phase that a step asks for [0..1]
    span_weight: float = 1.0  # of their tokens in the loss, where those of answers have 1
    seed: int = 0
    memory: int | None = None  # as in PackSettings

    def __post_init__(self) -> None:
        """UsageError when a value is out of its range or of another type."""
        check_fields(
            self,
            {
                "ratio": (1.0, 1024.0),
                "window_tokens": (32, 8192),
                "steps": (1, 1_000_000),
                "learning_rate": (1e-9, 1e9),
                "warmup": (0, 1_000_000),
                "span": (0, 512),
                "stride": (1, self.span or 512),
                "span_share": (0.0, 1.0),
                "span_weight": (0.0, 1000.0),
                "aside_rows": (0, 1024),
                "aside_weight": (0.0, 1000.0),
                "question_rows": (0, 1024),
                "truth": (0.0, 1.0),
                "first_truth": (0.0, 1.0),
                "sentence_answers": (0.0, 1.0),
                "question_weight": (0.0, 1000.0),
                "company": (0.0, 1.0),
                "seed": (0, LARGEST_SEED),
                "memory": (1, 2**63),
            },
        )
        if not self.question_rows and not self.span:
            raise UsageError("question_rows and span are both 0: there would be nothing to learn. Give one of them.")
        if self.ratio > MOST_RATIO and not self.gist:
            raise UsageError(
                f"ratio is {self.ratio:g}; above {MOST_RATIO} names and numbers are lost. Pass gist=True if the gist is enough."
            )

    def vectors_for(self, tokens: int) -> int:
        """M for a window of N = `tokens`."""
        return max(1, round(tokens / self.ratio))
