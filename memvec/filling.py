"""How much one, two, … vectors can hold: for each text the longest beginning that comes out exactly.

The measurements of Kuratov et al. 2025, with a decoder that runs freely and is given what a pack would store beside the
vectors: corrections of at most 3 % of the tokens, rounded up to a whole one. A text's beginning is fitted, and goes on from the vectors it had: longer
once it is held, the same again where it is not, until the steps are spent. Letters: M vectors, D width, N tokens,
V vocabulary.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import torch

from memvec.allocator import keeping_memory
from memvec.decode import measure
from memvec.errors import UsageError
from memvec.fit import FitEngine, Fitted, Task
from memvec.lm import FrozenLM, in_float32, pick_device, pick_dtype
from memvec.model_cache import DEFAULT_MODEL, resolve
from memvec.objective import head_pass
from memvec.progress import Progress, Watch, enter, unwatched
from memvec.samples import passages
from memvec.samples import random_words as drawn_words
from memvec.settings import PackSettings

FLOAT_BITS = 16  # of an element of a vector, in the bound of Kuratov et al. 2025
PUBLISHED_ACCURACY = 0.99  # teacher-forced, that they call lossless
LEAST_GROWTH = 4  # tokens
FIRST = 1.5  # budgets of a pack that the first beginning asks for
COOLED = 0.6  # of a stage's steps in which the learning rate falls
LAST_RATE = 0.1  # to this share of it
MOST_TOKENS = 384  # of a text, for each vector
RANDOM = "random words"


@dataclass(frozen=True, slots=True)
class CapacitySettings:
    """How hard is tried. One vector's budget of steps is for a whole text, not for a stage of its growth."""

    steps: int = 1000  # most optimiser steps for a text
    stage: int = 400  # most optimiser steps for a beginning
    learning_rate: float = 5.0
    grow: float = 0.25  # by which share a beginning that is held grows
    corrected: float = 0.03  # share of a beginning's tokens that may be corrected, as in a pack [0..1]
    anchor: bool = True  # the vectors stand behind the embedding of the model's BOS token, as in a pack
    seed: int = 0

    def __post_init__(self) -> None:
        """UsageError when a value cannot be meant."""
        bounds = {
            "steps": (1, 10**6), "stage": (1, 10**6), "learning_rate": (1e-9, 1e9), "grow": (0.001, 4.0), "corrected": (0, 0.5),
        }  # fmt: skip
        for name, (low, high) in bounds.items():
            if not low <= getattr(self, name) <= high:
                raise UsageError(f"{name} is {getattr(self, name)}, expected {low:g} to {high:g}.")


@dataclass(frozen=True, slots=True)
class Held:
    """What M vectors held of one text."""

    source: str
    vectors: int  # that were trained
    tokens: int  # of the longest beginning that decodes exactly, free-running, its corrections put in
    corrected: int  # of these
    alone: int  # of the longest beginning that decodes exactly with no correction at all, its first token included
    published: int  # the same with the first token given, the true text fed back and 1 % of it wrong
    gain: int  # tokens that come right from the vectors, less those right without, the text fed back
    bits: float  # surprisal of the beginning that the vectors take away
    nats_before: float  # of the beginning, nothing in front [nats]
    nats_after: float  # the same with the vectors in front [nats]
    steps: int
    token_steps: int
    seconds: float
    exhausted: bool  # the whole text was held: there was no more of it, so more might fit


@dataclass(frozen=True, slots=True)
class Capacity:
    """The whole measurement; `held` has one entry for each text and number of vectors."""

    model: str
    anchored: bool  # behind the embedding of the model's BOS token, which is not trained
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
    alone: float
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
    groups: dict[tuple[str, int], list[Held]] = {}
    for held in found.held:
        groups.setdefault((held.source, held.vectors), []).append(held)
    means = {key: statistics.mean(h.tokens for h in rows) for key, rows in groups.items()}
    for (source, vectors), rows in groups.items():
        tokens, bits, gain = ([float(getattr(h, name)) for h in rows] for name in ("tokens", "bits", "gain"))
        mean, one = means[source, vectors], means.get((source, 1))
        out.append(
            Summary(
                source,
                vectors,
                len(rows),
                tokens=mean,
                tokens_spread=statistics.pstdev(tokens),
                alone=statistics.mean(h.alone for h in rows),
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
    if RANDOM in texts:
        raise UsageError(f"a text is named {RANDOM!r}, as drawn words are in the result. Rename it.")
    device = pick_device(device)
    folder, kind = resolve(model), pick_dtype(dtype, device)
    fast = FrozenLM(folder, kind, device)
    exact = in_float32(fast, folder)
    held: list[Held] = []
    with keeping_memory():
        for m in vectors:
            most = _most_tokens(exact, m)
            chosen = [(name, ids) for name, text in texts.items() for ids in passages(exact, text, count, most)]
            if random_words:
                chosen += [(RANDOM, ids) for ids in drawn_words(exact, count, most, settings.seed)]
            enter(f"filling {m} vector{'s' * (m > 1)}", progress, watch)
            held += _Filling(fast, exact, m, settings).run(chosen, progress, watch)
    bound = fast.width * FLOAT_BITS / math.log2(fast.vocabulary)
    anchored = settings.anchor and len(fast.anchor) > 0
    return Capacity(model, anchored, fast.width, fast.vocabulary, bound, tuple(held))


def _most_tokens(lm: FrozenLM, vectors: int) -> int:
    """Tokens of a text for M = `vectors`, all of which the model has positions for. UsageError."""
    room = getattr(lm.model.config, "max_position_embeddings", None) or math.inf
    most = min(vectors * MOST_TOKENS, room - vectors - len(lm.anchor))
    if most < LEAST_GROWTH:
        raise UsageError(f"{vectors} vectors leave no room for a text: the model has {room} positions. Ask for fewer.")
    return int(most)


@dataclass(slots=True)
class _Trial:
    """One text being filled in."""

    source: str
    ids: tuple[int, ...]
    best: Fitted | None = None  # of the longest beginning held, as the fit measured it
    last: Fitted | None = None  # of the beginning after it, which was too long
    steps: int = 0
    token_steps: int = 0
    seconds: float = 0.0


class _Filling:
    """Texts whose beginnings grow in the slots of one engine, all with M vectors."""

    def __init__(self, fast: FrozenLM, exact: FrozenLM, vectors: int, settings: CapacitySettings) -> None:
        self.fast, self.exact, self.vectors, self.settings = fast, exact, vectors, settings
        self.rows = vectors + len(fast.anchor) * settings.anchor
        stage = min(settings.stage, settings.steps)
        # No margin is asked for beyond the engine's own reserve: what counts is the argmax. A fit stops at half its cap.
        fit = PackSettings(
            max_corrections=2 * settings.corrected, margin=0, max_steps=stage, learning_rate=settings.learning_rate,
            cooling=max(1, int(COOLED * stage)), last_rate=LAST_RATE, seed=settings.seed, anchor=settings.anchor, patience=stage,
        )  # fmt: skip
        self.engine, self.budget = FitEngine(fast, fit), FIRST * fit.budget(fast.width) * vectors
        self.allowed = PackSettings(max_corrections=settings.corrected).allowed

    def run(self, chosen: Sequence[tuple[str, tuple[int, ...]]], progress: Progress, watch: Watch) -> list[Held]:
        """What is held of each (source, ids)."""
        trials = [_Trial(source, ids) for source, ids in chosen]
        progress.documents, progress.documents_done = len(trials), 0
        self.engine.add(
            Task(number, trial.ids[: self._first(trial.ids)], self.rows) for number, trial in enumerate(trials)
        )
        while self.engine.queue:
            for batch in self.engine.run(lambda _: watch(progress)):
                for fitted in batch:
                    progress.documents_done += not self._grow(trials[fitted.task.key], fitted)
        return [self._judge(trial) for trial in trials]

    def _first(self, ids: tuple[int, ...]) -> int:
        """Tokens of the first beginning: those of a few packs' budgets."""
        nats = accumulate(_plain(self.fast, ids[: 64 * self.vectors])[0])
        return max(min(len(ids), LEAST_GROWTH), sum(so_far <= self.budget for so_far in nats))

    def _grow(self, trial: _Trial, fitted: Fitted) -> bool:
        """Take note of a fit; whether there is another try: of a longer beginning where it was held, from its vectors."""
        task = fitted.task
        trial.steps, trial.token_steps, trial.seconds = task.steps, task.token_steps, task.seconds
        held = fitted.corrections <= self.engine.settings.enough(len(task.ids))
        if held:
            trial.best, trial.last = fitted, None
        elif trial.last is None or fitted.corrections < trial.last.corrections:
            trial.last = fitted
        if task.steps >= self.settings.steps or (held and len(task.ids) == len(trial.ids)):
            return False
        longer = len(task.ids) + max(LEAST_GROWTH, int(len(task.ids) * self.settings.grow)) * held
        # From the vectors it had even where it failed: another start would have to come as far first (docs/LOG.md).
        start = torch.from_numpy(fitted.vectors).float()
        most = min(self.settings.stage, self.settings.steps - task.steps)
        self.engine.add([replace(task, ids=trial.ids[:longer], start=start, most=most)])
        return True

    def _judge(self, trial: _Trial) -> Held:
        """The better of the vectors that held a beginning and those that failed at a longer one, in float32."""
        fits = [fitted for fitted in (trial.best, trial.last) if fitted]
        ids = trial.ids[: max(len(fitted.task.ids) for fitted in fits)]
        before, known = _plain(self.exact, ids)
        judged = measure(self.exact, [fitted.vectors for fitted in fits], [ids] * len(fits))
        leads, after = max(judged, key=lambda one: _longest([lead > 0 for lead in one[0]], self.allowed))
        right = [lead > 0 for lead in leads]
        tokens = _longest(right, self.allowed)
        return Held(
            trial.source,
            self.vectors,
            tokens=tokens,
            corrected=tokens - sum(right[:tokens]),
            alone=_longest(right, lambda _: 0),
            published=1 + _longest(right[1:], lambda n: (1 - PUBLISHED_ACCURACY) * n + 1e-9),
            gain=sum(right[:tokens]) - sum(known[:tokens]),
            bits=(sum(before[:tokens]) - sum(after[:tokens])) / math.log(2),
            nats_before=sum(before[:tokens]),
            nats_after=sum(after[:tokens]),
            steps=trial.steps,
            token_steps=trial.token_steps,
            seconds=trial.seconds,
            exhausted=tokens == len(trial.ids),
        )


def _longest(right: Sequence[bool], allowed: Callable[[int], float]) -> int:
    """Tokens of the longest beginning of which no more are wrong than are allowed for its length."""
    wrong = accumulate(not good for good in right)
    return max((n for n, missed in enumerate(wrong, 1) if missed <= allowed(n)), default=0)


@torch.inference_mode()
def _plain(lm: FrozenLM, ids: Sequence[int]) -> tuple[list[float], list[bool]]:
    """(surprisal [nats], is it the argmax) of every token with nothing in front; log V and False for the first."""
    row = torch.tensor(ids, device=lm.device)
    passed = head_pass(lm.hidden(lm.embed(row[None]))[0, :-1], lm.head, row[1:], gradient=False)
    return [math.log(lm.vocabulary), *passed.nats.tolist()], [False, *(passed.margin > 0).tolist()]
