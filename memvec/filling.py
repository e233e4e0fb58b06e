"""How much one, two, … vectors can hold: for each text the longest beginning that comes out exactly.

The measurements of Kuratov et al. 2025, with a decoder that runs freely: a text's beginning is fitted, and once all of it
is right it grows, starting from the vectors it had, until no step of the budget makes the longer one right. Letters:
M vectors, D width, N tokens, V vocabulary.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import torch

from memvec.allocator import keeping_memory
from memvec.decode import measure
from memvec.errors import UsageError
from memvec.fit import FitEngine, Fitted, Task
from memvec.lm import FrozenLM, pick_device, pick_dtype
from memvec.model_cache import DEFAULT_MODEL, resolve
from memvec.objective import head_pass
from memvec.progress import Progress, Watch, enter, unwatched
from memvec.samples import passages
from memvec.samples import random_words as drawn_words
from memvec.settings import PackSettings

FLOAT_BITS = 16  # of an element of a vector, in the bound of Kuratov et al. 2025
PUBLISHED_ACCURACY = 0.99  # teacher-forced, that they call lossless
LEAST_GROWTH = 4  # tokens
MOST_TOKENS = 384  # of a text, for each vector
RANDOM = "random words"


@dataclass(frozen=True, slots=True)
class CapacitySettings:
    """How hard is tried. One vector's budget of steps is for a whole text, not for a stage of its growth."""

    steps: int = 1000  # optimiser steps for a text
    stage: int = 400  # optimiser steps without a longer beginning before a text ends
    learning_rate: float = 3.0
    grow: float = 0.125  # by which share a beginning that is held grows
    seed: int = 0

    def __post_init__(self) -> None:
        """UsageError when a value cannot be meant."""
        for name, (low, high) in {"steps": (1, 10**6), "stage": (1, 10**6), "grow": (0.001, 4.0)}.items():
            if not low <= getattr(self, name) <= high:
                raise UsageError(f"{name} is {getattr(self, name)}, expected {low:g} to {high:g}.")


@dataclass(frozen=True, slots=True)
class Held:
    """What M vectors held of one text."""

    source: str
    vectors: int
    tokens: int  # of the longest beginning that decodes exactly, free-running, its first token included
    published: int  # of the longest beginning tried of which 99 % are right when the true text is fed back
    gain: int  # tokens of `tokens` that the model would not have got right without vectors, the text fed back
    bits: float  # surprisal of those tokens that the vectors take away
    nats_before: float  # of the exact beginning, nothing in front [nats]
    nats_after: float  # the same with the vectors in front [nats]
    steps: int
    token_steps: int
    seconds: float
    exhausted: bool  # the whole text was held: there was no more of it, so more might fit


@dataclass(frozen=True, slots=True)
class Capacity:
    """The whole measurement; `held` has one entry for each text and number of vectors."""

    model: str
    width: int
    vocabulary: int
    bound: float  # tokens that one vector's bits could tell apart: D·16 / log2 V
    held: tuple[Held, ...]


@dataclass(frozen=True, slots=True)
class Summary:
    """Means over the texts of one source for one number of vectors."""

    source: str
    vectors: int
    texts: int
    tokens: float
    tokens_spread: float  # standard deviation over texts
    published: float
    gain: float
    bits: float
    bits_spread: float
    utilisation: float  # gain as a share of the bound [0..1]
    scaling: float | None  # tokens, as a share of M times what one vector holds; None where that was not measured
    exhausted: int  # texts that were held whole


def summaries(found: Capacity) -> list[Summary]:
    """The table of a measurement, in its order."""
    out: list[Summary] = []
    single: dict[str, float] = {}
    for source, vectors in dict.fromkeys((h.source, h.vectors) for h in found.held):
        rows = [h for h in found.held if (h.source, h.vectors) == (source, vectors)]
        tokens, bits, gain = ([float(getattr(h, name)) for h in rows] for name in ("tokens", "bits", "gain"))
        mean = statistics.mean(tokens)
        if vectors == 1:
            single[source] = mean
        one = single.get(source)
        out.append(
            Summary(
                source,
                vectors,
                len(rows),
                tokens=mean,
                tokens_spread=statistics.pstdev(tokens),
                published=statistics.mean(h.published for h in rows),
                gain=statistics.mean(gain),
                bits=statistics.mean(bits),
                bits_spread=statistics.pstdev(bits),
                utilisation=statistics.mean(gain) / (found.bound * vectors),
                scaling=mean / (one * vectors) if one else None,
                exhausted=sum(h.exhausted for h in rows),
            )
        )
    return out


def capacity(
    texts: Mapping[str, str],
    vectors: Sequence[int] = (1,),
    *,
    count: int = 10,
    random_words: bool = False,
    model: str = DEFAULT_MODEL,
    settings: CapacitySettings | None = None,
    device: str | None = None,
    dtype: str | None = None,
    watch: Watch = unwatched,
) -> Capacity:
    """Measure what each number in `vectors` holds of `count` passages of every text, and of random words if asked.

    `texts` are named texts, long enough to take passages from. A passage that is too short is held whole and counts as
    `exhausted`. Fits run in `dtype` (default: bfloat16 where the processor has it), judging in float32. Raises UsageError,
    NotFoundError.
    """
    settings, progress = settings or CapacitySettings(), Progress(stage="loading the model")
    watch(progress)
    if not texts and not random_words:
        raise UsageError("there is no text. Pass one, or ask for random words.")
    if count < 1 or not vectors or min(vectors) < 1:
        raise UsageError("expected at least one text and one vector.")
    device = pick_device(device)
    folder, kind = resolve(model), pick_dtype(dtype, device)
    fast = FrozenLM(folder, kind, device)
    exact = fast if kind == torch.float32 else FrozenLM(folder, torch.float32, device)
    held: list[Held] = []
    with keeping_memory():
        for m in vectors:
            chosen = [
                (name, ids) for name, text in texts.items() for ids in passages(exact, text, count, m * MOST_TOKENS)
            ]
            if random_words:
                chosen += [(RANDOM, ids) for ids in drawn_words(exact, count, m * MOST_TOKENS, settings.seed)]
            enter(f"filling {m} vector{'s' * (m > 1)}", progress, watch)
            held += _Filling(fast, exact, m, settings).run(chosen, progress, watch)
    bound = fast.width * FLOAT_BITS / math.log2(fast.vocabulary)
    return Capacity(model, fast.width, fast.vocabulary, bound, tuple(held))


@dataclass(slots=True)
class _Trial:
    """One text being filled in."""

    source: str
    ids: tuple[int, ...]
    best: Fitted | None = None  # of the longest beginning held, as the fit measured it
    last: Fitted | None = None  # of the beginning that was too long


class _Filling:
    """Texts whose beginnings grow in the slots of one engine, all with M vectors."""

    def __init__(self, fast: FrozenLM, exact: FrozenLM, vectors: int, settings: CapacitySettings) -> None:
        self.fast, self.exact, self.vectors, self.settings = fast, exact, vectors, settings
        # No margin is asked for beyond the engine's own reserve: what counts is the argmax.
        fit = PackSettings(
            max_corrections=0, margin=0, strict=True, max_steps=settings.stage, learning_rate=settings.learning_rate,
            seed=settings.seed,
        )  # fmt: skip
        self.engine, self.budget = FitEngine(fast, fit), fit.budget(fast.width) * vectors

    def run(self, chosen: Sequence[tuple[str, tuple[int, ...]]], progress: Progress, watch: Watch) -> list[Held]:
        """What is held of each (source, ids)."""
        trials = [_Trial(source, ids) for source, ids in chosen]
        progress.documents, progress.documents_done = len(trials), 0
        self.engine.add(
            Task(number, trial.ids[: self._first(trial.ids)], self.vectors) for number, trial in enumerate(trials)
        )
        while self.engine.queue:
            for batch in self.engine.run(lambda _: watch(progress)):
                for fitted in batch:
                    progress.documents_done += not self._grow(trials[fitted.task.key], fitted)
        return [self._judge(trial) for trial in trials]

    def _first(self, ids: tuple[int, ...]) -> int:
        """Tokens that are surely held: those that a pack would ask of so many vectors."""
        nats = accumulate(_plain(self.fast, ids[: 64 * self.vectors])[0])
        return max(min(len(ids), LEAST_GROWTH), sum(so_far <= self.budget for so_far in nats))

    def _grow(self, trial: _Trial, fitted: Fitted) -> bool:
        """Take note of a fit; whether a longer beginning is tried, which starts from its vectors."""
        task, settings = fitted.task, self.settings
        if fitted.corrections:
            trial.last = fitted
            return False
        trial.best = fitted
        longer = len(task.ids) + max(LEAST_GROWTH, int(len(task.ids) * settings.grow))
        if len(task.ids) == len(trial.ids) or task.steps >= settings.steps:
            return False
        start = torch.from_numpy(fitted.vectors).float()
        self.engine.add([replace(task, ids=trial.ids[:longer], start=start)])
        return True

    def _judge(self, trial: _Trial) -> Held:
        """The better of the vectors that held a beginning and those that failed at a longer one, in float32."""
        fits = [fitted for fitted in (trial.best, trial.last) if fitted]
        tried = max((fitted.task for fitted in fits), key=lambda task: task.steps)
        ids = trial.ids[: max(len(fitted.task.ids) for fitted in fits)]
        before, known = _plain(self.exact, ids)
        made = [fitted.vectors for fitted in fits]
        judged = measure(self.exact, made, [ids] * len(made))
        leads, after = max(judged, key=lambda one: _whole([lead > 0 for lead in one[0]]))
        right = [lead > 0 for lead in leads]
        tokens = _whole(right)
        hits = list(accumulate(right))
        published = max((at + 1 for at, hit in enumerate(hits) if hit >= PUBLISHED_ACCURACY * (at + 1)), default=0)
        return Held(
            trial.source,
            self.vectors,
            tokens=tokens,
            published=published,
            gain=tokens - sum(known[:tokens]),
            bits=(sum(before[:tokens]) - sum(after[:tokens])) / math.log(2),
            nats_before=sum(before[:tokens]),
            nats_after=sum(after[:tokens]),
            steps=tried.steps,
            token_steps=tried.token_steps,
            seconds=tried.seconds,
            exhausted=tokens == len(trial.ids),
        )


def _whole(right: Sequence[bool]) -> int:
    """Tokens before the first that is not right; behind it a decoder that runs freely is lost."""
    return next((at for at, good in enumerate(right) if not good), len(right))


@torch.inference_mode()
def _plain(lm: FrozenLM, ids: Sequence[int]) -> tuple[list[float], list[bool]]:
    """(surprisal [nats], is it the argmax) of every token with nothing in front; log V and False for the first."""
    row = torch.tensor(ids, device=lm.device)
    passed = head_pass(lm.hidden(lm.embed(row[None]))[0, :-1], lm.head, row[1:], gradient=False)
    return [math.log(lm.vocabulary), *passed.nats.tolist()], [False, *(passed.margin > 0).tolist()]
