"""Settings of a pack: flat dataclasses that check their values. Every number has its unit."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any, Literal

from memvec.arguments import LARGEST_SEED, among, choice, flag, name, names, number, whole
from memvec.errors import UsageError

# Three real models carry this much or more (docs/LOG.md). The trial of a large pack finds what suits a weaker one.
NATS_PER_DIMENSION = 95 / 576
DECODE_BATCH, DECODE_BATCH_GPU = 16, 1024  # records decoded at once
MOST_RATIO = 16  # tokens for each context vector, unless only the gist is wanted


Bounds = Mapping[str, tuple[float, float]]
Choices = Mapping[str, tuple[str, ...] | tuple[int, ...]]


def check_fields(settings: Any, bounds: Bounds, choices: Choices = MappingProxyType({})) -> None:
    """Check that every field of a settings object has its declared type, and a value in its bounds or choices. UsageError."""
    for field in fields(settings):
        value, kind = getattr(settings, field.name), str(field.type)
        if value is None and kind.endswith(" | None"):
            continue
        if kind == "bool":
            flag(field.name, value)
            continue
        if accepted := choices.get(field.name):
            one_of = choice(*accepted) if isinstance(accepted[0], str) else among(*accepted)
            object.__setattr__(settings, field.name, one_of(field.name, value))
            continue
        low, high = bounds[field.name]
        rule = whole(int(low), int(high)) if kind.startswith("int") else number(low, high)
        object.__setattr__(settings, field.name, rule(field.name, value))  # numpy's numbers become Python's


@dataclass(frozen=True, slots=True)
class PackSettings:
    """Settings of exact vectors: how they are fitted and certified. The defaults are for the default model (docs/LOG.md).

    Attributes:
        nats_per_vector, segment_tokens, vectors, anchor: How text is cut into segments, and how many vectors each gets.
        margin, max_corrections, strict: The corrections that a record may have.
        max_steps, patience, refits, growth, hurry: How long a fit goes on, and how often it is tried again.
        learning_rate, weight_decay, warmup, cooling, last_rate, geometric: The optimiser.
        seed: The start of all random numbers. On one thread, the same seed gives the same vectors.
        memory: A limit on the machine's memory, or on the GPU's.

    Raises:
        UsageError: A value is out of its range or of another type.

    Example:
        >>> quick = memvec.PackSettings(max_steps=20, segment_tokens=32, learning_rate=1.0)
        >>> report = memvec.pack([text_folder], tmp / "s.memvec", model=model, settings=quick)
        >>> report.documents
        2
    """

    # Surprisal that one vector is asked to carry [nats]. None: as in the model's profile; without one, 95 at width 576, in
    # proportion at other widths.
    nats_per_vector: float | None = None
    segment_tokens: int = 64  # Most tokens in a segment.
    vectors: int | None = None  # Vectors of every segment. None: as many as its surprisal asks for.
    anchor: bool = True  # The first vector of a segment is the embedding of the model's BOS token; it is not trained.
    margin: float = 0.1  # A token whose margin is smaller is stored as a correction [logits].
    max_corrections: float = 0.03  # Most corrections in a record, as a share of its tokens [0..1].
    strict: bool = False  # Corrections may stand for thin margins only, not for wrong tokens.
    max_steps: int = 200  # Most optimiser steps of one fit.
    patience: int = 60  # Steps for which a fit aims at half of the allowed corrections; after them, all are allowed.
    refits: int = 2  # Most refits of a segment, each with half as many vectors again. After them it is stored raw.
    growth: int = 24  # A fit starts on the first 30 % of its segment and sees all of it after this many steps at most.
    # Every four steps it sees a quarter more, if less than this share of what it sees comes out wrong [0..1]. 0: never.
    hurry: float = 0.8
    # The learning rate of AdamW, after the warm-up. None: as in the model's profile; without one, the root mean
    # square of the model's late hidden states.
    learning_rate: float | None = None
    # The weight decay of AdamW. None: .05 / learning_rate, so that a vector loses 5 % in a step.
    weight_decay: float | None = None
    warmup: int = 2  # Steps in which the learning rate rises to its full value.
    cooling: int = 60  # Steps in which the learning rate falls to its last value.
    last_rate: float = 0.2  # The last learning rate, as a share of the full one [0..1].
    geometric: bool = False  # The learning rate falls by the same factor in each step, instead of linearly.
    seed: int = 0  # The seed of the random starts.
    memory: int | None = None  # Most bytes that activations may take. None: 2 GiB, or 40 % of a GPU's free memory.

    def __post_init__(self) -> None:
        """Check the values. UsageError."""
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
            "hurry": (0.0, 1.0),
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
        """Steps after which a fit sees all of its segment, at most half of all its steps."""
        return min(self.growth, self.max_steps // 2)

    def budget(self, width: int) -> float:
        """The nats of surprisal that one vector of `width` elements is asked to carry."""
        return self.nats_per_vector or NATS_PER_DIMENSION * width

    def allowed(self, tokens: int) -> int:
        """Most corrections of a record of N = `tokens`: the share, rounded up to a token."""
        return math.ceil(self.max_corrections * tokens - 1e-9)

    def enough(self, tokens: int, steps: int = 0) -> int:
        """Most corrections with which a fit is done after `steps`.

        At first half of those allowed, because certifying in float32 may find more. After `patience` steps all of them.
        """
        return self.allowed(tokens) if steps > self.patience else round(self.max_corrections * tokens / 2)


@dataclass(frozen=True, slots=True)
class ContextSettings:
    """Settings of context vectors: how memories are distilled. The defaults are for the default model (docs/LOG.md).

    Attributes:
        ratio, gist, window_tokens: How text is cut into windows, and how many vectors each gets.
        steps, learning_rate, warmup: The optimiser.
        question_rows, truth, first_truth, sentence_answers, question_weight: The questions about the text.
        aside_rows, aside_weight: Prompts that have nothing to do with the text. They keep a memory from doing harm.
        company: How often a memory is trained next to another one.
        span, stride, span_share, span_weight: Spans of the text, which a memory may be trained to continue.
        seed: The start of all random numbers. On one thread, the same seed gives the same vectors.
        memory: A limit on the machine's memory, or on the GPU's.

    Raises:
        UsageError: A value is out of its range or of another type, or there is nothing to learn from.

    Example:
        >>> short = memvec.ContextSettings(ratio=8, steps=60)  # for memvec.pack(…, kind="context", context=short)
        >>> short.vectors_for(256)
        32
    """

    ratio: float = 4.0  # Tokens of text for each vector.
    gist: bool = False  # Allow a ratio above 16. Such memories lose names and numbers.
    window_tokens: int = 512  # Most tokens in a window.
    steps: int = 180  # Optimiser steps of each window.
    learning_rate: float = 0.1  # The learning rate of AdamW, after the warm-up. From there it falls linearly to 2 %.
    warmup: int = 10  # Steps in which the learning rate rises to its full value.
    question_rows: int = 4  # Questions asked in a step, for each 150 tokens of the window.
    truth: float = 0.9  # Share of the right answer in a question's target. The rest is the teacher's answer [0..1].
    first_truth: float = 0.4  # The same share for an answer's first token, which is more style than fact [0..1].
    sentence_answers: float = 0.25  # Share of questions answered by a full sentence, as a chat model does [0..1].
    question_weight: float = 0.3  # Weight of a question's own tokens in the loss, where an answer's tokens weigh 1.
    aside_rows: int = 1  # Unrelated prompts asked in a step, for each 150 tokens of the window.
    aside_weight: float = 4.0  # Weight of their answers' tokens in the loss, where other answers' tokens weigh 1.
    company: float = 0.3  # Share of steps in which another document's memory stands next to each memory [0..1].
    span: int = 0  # Tokens in a span of the text, which is asked for by its first token. 0: none are asked for.
    stride: int = 4  # Tokens between the phases. The spans of one phase cover the text once.
    span_share: float = 1.0  # Share of a phase's spans that a step asks for [0..1].
    span_weight: float = 1.0  # Weight of their tokens in the loss, where an answer's tokens weigh 1.
    seed: int = 0  # The seed of all random choices.
    memory: int | None = None  # Most bytes that activations may take. None: 2 GiB, or 40 % of a GPU's free memory.

    def __post_init__(self) -> None:
        """Check the values. UsageError."""
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
            raise UsageError("question_rows and span are both 0, so there is nothing to learn from. Set one of them.")
        if self.ratio > MOST_RATIO and not self.gist:
            raise UsageError(
                f"ratio is {self.ratio:g}, expected {MOST_RATIO} or less: above it, memories lose names and numbers. "
                "Pass gist=True if the gist is enough."
            )

    def vectors_for(self, tokens: int) -> int:
        """The number of vectors for a window of N = `tokens`."""
        return max(1, round(tokens / self.ratio))


@dataclass(frozen=True, slots=True)
class CorpusSettings:
    """How the rows of JSON lines, Parquet files and datasets become documents.

    Attributes:
        text_field, id_field, meta_fields: The fields of a row that are a document's text, name and metadata.
        strict: What a row that is no document does.

    Raises:
        UsageError: A value is of another type, or a name is empty.

    Example:
        >>> rows = memvec.CorpusSettings(text_field="body", id_field="url")  # for memvec.pack(["pages.jsonl"], …, corpus=rows)
        >>> rows.strict
        False
    """

    text_field: str = "text"  # The field that is the document's text. Binary fields are taken as they are.
    # The field that names the document. None: FILE#LINE for JSON lines, FILE#ROW for the others.
    id_field: str | None = None
    meta_fields: tuple[str, ...] = ()  # Fields that become the document's metadata, to filter by.
    strict: bool = False  # True: a row that is no document stops the pack. False: it is skipped and named.

    def __post_init__(self) -> None:
        """Check the values. UsageError."""
        flag("strict", self.strict)
        object.__setattr__(self, "meta_fields", names("meta_fields", self.meta_fields))
        name("text_field", self.text_field)
        if self.id_field is not None:
            name("id_field", self.id_field)


@dataclass(frozen=True, slots=True)
class KVSettings:
    """Settings of kv memories: which keys and values are stored, and whether they are trained.

    Attributes:
        ratio, budget, score, window_tokens: How text is cut into windows, and which keys and values of it are stored.
        refine, question_rows, aside_rows, key_rate, value_rate: The training. By default there is none.
        bits: How the numbers are stored.
        measure: Which memories are measured.
        seed: The start of all random numbers.
        memory: A limit on a GPU's memory.

    Raises:
        UsageError: A value is out of its range or of another type.

    Example:
        >>> small = memvec.KVSettings(ratio=16, bits=4)  # for memvec.pack(…, kind="kv", kv=small)
        >>> small.budget
        'head'
    """

    # Tokens of text for each position. So many times fewer keys and values are stored. None: the model's safe ratio, at which
    # memories need no training.
    ratio: float | None = None
    # "head": heads keep different numbers of keys, by the model's profile. "even": all heads keep the same number.
    budget: Literal["head", "even"] = "head"
    # "repeat": keep what the model attends to when it says the text again. "norm": the longest values. One reading, not three.
    score: Literal["repeat", "norm"] = "repeat"
    # Most tokens in a window. None: as many as the model can read and repeat.
    window_tokens: int | None = None
    refine: int = 0  # Training steps. At a high ratio some 20 steps bring back most of what is lost.
    question_rows: int = 8  # Questions asked in a training step, for each 150 tokens of the window.
    # Unrelated prompts asked in a training step, for each 150 tokens of the window. None: 1, and 2 for even budgets, which do
    # more harm to such prompts.
    aside_rows: int | None = None
    key_rate: float = 0.1  # The learning rate of a head's keys, as a share of their spread around their mean.
    value_rate: float = 0.1  # The learning rate of values, likewise.
    bits: int = 8  # Bits of each stored number: 4, 8 or 16.
    # "all": measure every memory, which takes longer than making it. "sample": about 1 in 16, chosen by its text. "none": none.
    measure: Literal["all", "sample", "none"] = "sample"
    seed: int = 0  # The seed of all random choices.
    memory: int | None = None  # Most bytes that a batch may take on a GPU. None: 8 GiB.

    def __post_init__(self) -> None:
        """Check the values. UsageError."""
        check_fields(
            self,
            {
                "ratio": (1.0, 1024.0),
                "refine": (0, 100_000),
                "window_tokens": (32, 1 << 20),
                "question_rows": (0, 1024),
                "aside_rows": (0, 1024),
                "key_rate": (0.0, 100.0),
                "value_rate": (0.0, 100.0),
                "seed": (0, LARGEST_SEED),
                "memory": (1, 2**63),
            },
            {
                "budget": ("head", "even"),
                "score": ("repeat", "norm"),
                "bits": (4, 8, 16),
                "measure": ("all", "sample", "none"),
            },
        )
        if self.refine and not self.question_rows:
            raise UsageError("question_rows is 0, so there is nothing to learn from. Set it, or set refine to 0.")

    @property
    def asides(self) -> int:
        """Unrelated prompts asked in a training step, for each part of the window."""
        return (2 if self.budget == "even" else 1) if self.aside_rows is None else self.aside_rows

    @property
    def recipe(self) -> str:
        """The settings that decide the bytes of a memory, in words. Memories of another recipe are not reused."""
        ratio = "safe" if self.ratio is None else f"{self.ratio:g}"
        said = f"kv 1: ratio {ratio}, {self.budget}, {self.score}, {self.refine} steps, {self.bits} bits"
        if self.refine:
            rows = f"{self.question_rows} and {self.asides} rows"
            said += f", {rows}, rates {self.key_rate:g} and {self.value_rate:g}"
        return said
