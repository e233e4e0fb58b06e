"""`capacity`: measure how long a text one, two, … vectors can hold.

These are the measurements of Kuratov et al. 2025, with a decoder that runs freely and gets the corrections that a pack
would store: at most 3 % of the tokens. The beginning of a text is fitted. The next fit goes on from its vectors. If they
hold this beginning, it takes a longer one, else the same or a shorter one. The last fit ends when the steps are used up. Fits
are chaotic, so several may start from other noise, with shorter and longer beginnings. The most promising one goes on.
Letters: M vectors, D width, N tokens, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, chain

import torch

from memvec.arguments import LARGEST_SEED, checked, instance
from memvec.checkpoints.resolve import DEFAULT_MODEL, resolve
from memvec.decoding.greedy import measure
from memvec.errors import UsageError, counted
from memvec.evaluation.capacity_report import Capacity, Held, Stage
from memvec.evaluation.samples import passages
from memvec.evaluation.samples import random_words as drawn_words
from memvec.lm.device import pick_device, pick_dtype
from memvec.lm.frozen import FrozenLM
from memvec.lm.head import head_pass
from memvec.lm.load import in_float32, load
from memvec.progress import Progress, Watch, enter, unwatched
from memvec.settings import PackSettings, check_fields
from memvec.training.fit import FitEngine, Fitted, Task
from memvec.training.units import unit_of, with_rates

FLOAT_BITS = 16  # of an element of a vector, in the bound of Kuratov et al. 2025
PUBLISHED_ACCURACY = 0.99  # teacher-forced accuracy that the paper calls lossless
LEAST_GROWTH = 4  # tokens
FAR_OFF = 0.08  # with a larger share of wrong tokens, fitting the same beginning again helps little (docs/LOG.md)
A_WRONG_ONE = 2  # tokens to shorten a beginning by, for each wrong token
SPREAD = 0.2  # first beginnings of several starts are shorter and longer by up to this share
FIRST = 4.4  # nats of the first beginning, in budgets of a pack: some 420 nats for a vector of width 576
GROWTH = 0.5  # share of the first stage's steps in which the shown part grows to the complete beginning
SLOWER = 0.1  # the first learning rate of a text's first stage, as a share of the model's unit
LAST_RATE = 0.04  # the last learning rate of a stage, as a share of the first stage's first
GOING_ON = 0.24  # the first learning rate of later stages, as a share of the same
MOST_TOKENS = 384  # most tokens of a text for each vector
RANDOM = "random words"


@dataclass(frozen=True, slots=True)
class CapacitySettings:
    """Settings of `memvec.capacity`: how much work goes into each text.

    Attributes:
        steps, stage, learning_rate: The work on a text.
        starts: The number of fits that begin for a text.
        grow: The growth of its beginnings.
        corrected, anchor: The corrections and the anchor, as in a pack.
        seed: The seed of all random numbers.

    Raises:
        UsageError: A value is out of its range or of another type.

    Example:
        >>> memvec.CapacitySettings(steps=500).steps
        500
    """

    steps: int = 1000  # Most optimiser steps for one text.
    stage: int = 400  # Most optimiser steps for one beginning of it.
    learning_rate: float | None = None  # Learning rate of the first stage. None: a tenth of that of a pack.
    starts: int = 1  # Fits of a text's first beginning, each from other noise. The most promising one goes on.
    grow: float = 0.25  # Share by which a beginning grows when the vectors hold it.
    corrected: float = 0.03  # Share of tokens that may be corrected, as in a pack [0..1].
    anchor: bool = True  # Put the vectors behind the model's BOS token, as a pack does.
    seed: int = 0  # Seed of the noise and of the random words.

    def __post_init__(self) -> None:
        """UsageError if a value is out of its range or of another type."""
        bounds = {
            "steps": (1, 10**6), "stage": (1, 10**6), "starts": (1, 10**4), "learning_rate": (1e-9, 1e9), "grow": (0.001, 4.0), "corrected": (0, 0.5), "seed": (0, LARGEST_SEED),
        }  # fmt: skip
        check_fields(self, bounds)


@checked(settings=instance(CapacitySettings))
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
    """Measure how many tokens each number of vectors can hold.

    Each text gives `count` passages. Each passage is fitted into each number of vectors, as long a beginning of it as
    possible. Ctrl-C ends the measurement and returns the figures so far, once the first beginnings are fitted.

    Args:
        texts: Texts by name, long enough to take passages from. A passage that the vectors hold completely is marked `exhausted`.
        vectors: The numbers of vectors to measure.
        count: Passages of each text.
        random_words: Measure also texts of random words, which the model cannot predict.
        model: A known name, a checkpoint folder, a GGUF file or a hub id.
        settings: How much work goes into each text.
        device: Torch device. By default CUDA if there is one. "auto" also offloads layers that do not fit.
        dtype: The dtype that vectors are fitted in. By default bfloat16 if the processor has it. Results are judged in float32.
        watch: Called with the progress.

    Returns:
        The figures of every passage. `finished` is False after Ctrl-C.

    Raises:
        UsageError: An argument is invalid, a text is too short, or the model has too few positions.
        NotFoundError: The model does not exist.

    Example:
        >>> text = (text_folder / "harbour.txt").read_text()
        >>> settings = memvec.CapacitySettings(steps=4, stage=2)
        >>> found = memvec.capacity({"harbour": text}, [1], count=1, model=model, settings=settings)
        >>> found.held[0].vectors
        1
    """
    settings, progress = settings or CapacitySettings(), Progress(stage="loading the model")
    watch(progress)
    if not texts and not random_words:
        raise UsageError("expected a text or random_words=True, found neither. Pass a text.")
    if count < 1 or not vectors or min(vectors) < 1:
        raise UsageError("expected at least one text and one vector.")
    if RANDOM in texts:
        raise UsageError(f"a text is named {RANDOM!r}, as drawn words are in the result. Rename it.")
    device = pick_device(device)
    folder, kind = resolve(model), pick_dtype(dtype, device)
    fast = load(folder, kind, device)
    exact = in_float32(fast, folder)
    held: list[Held] = []
    finished = True
    for m in vectors:
        most = _most_tokens(exact, m)
        chosen = [(name, ids) for name, text in texts.items() for ids in passages(exact, text, count, most)]
        if random_words:
            chosen += [(RANDOM, ids) for ids in drawn_words(exact, count, most, settings.seed)]
        try:
            enter(f"filling {counted(m, 'vector')}", progress, watch)
            filling = _Filling(fast, exact, m, settings)
            held += filling.run(chosen, progress, watch)
            finished = not filling.stopped
        except KeyboardInterrupt:  # the results of hours are not lost
            if not held:
                raise
            finished = False
        if not finished:
            break
    bound = fast.width * FLOAT_BITS / math.log2(fast.vocabulary)
    anchored = settings.anchor and len(fast.anchor) > 0
    return Capacity(model, anchored, fast.width, fast.vocabulary, bound, tuple(held), finished)


def _most_tokens(lm: FrozenLM, vectors: int) -> int:
    """The most tokens of a text for M = `vectors` that the model has positions for. UsageError."""
    room = getattr(lm.model.config, "max_position_embeddings", None) or math.inf
    most = min(vectors * MOST_TOKENS, room - vectors - len(lm.anchor))
    if most < LEAST_GROWTH:
        raise UsageError(f"{vectors} vectors leave no room for a text: the model has {room} positions. Ask for fewer.")
    return int(most)


@dataclass(slots=True)
class _Trial:
    """One text, and the fits of its beginnings so far."""

    source: str
    ids: tuple[int, ...]
    best: Fitted | None = None  # the fit of the longest beginning that is held
    last: Fitted | None = None  # the fit of the next beginning, which was too long
    others: tuple[Fitted, ...] = ()  # fits of other starts, which do not go on
    stages: tuple[Stage, ...] = ()
    steps: int = 0
    token_steps: int = 0
    seconds: float = 0.0


class _Filling:
    """Grow the beginnings of texts, all with M vectors, in the slots of one engine."""

    def __init__(self, fast: FrozenLM, exact: FrozenLM, vectors: int, settings: CapacitySettings) -> None:
        self.fast, self.exact, self.vectors, self.settings = fast, exact, vectors, settings
        self.stopped = False  # by Ctrl-C
        self.rows = vectors + len(fast.anchor) * settings.anchor
        # So that the stages are of equal length.
        stage = math.ceil(settings.steps / math.ceil(settings.steps / settings.stage))
        # Only the argmax decides, so no margin is needed beyond the engine's own reserve. A fit stops at half its cap.
        rate = settings.learning_rate or SLOWER * unit_of(fast)
        fit = PackSettings(
            max_corrections=2 * settings.corrected, margin=0, max_steps=stage, learning_rate=rate,
            growth=int(GROWTH * stage), hurry=0,
            cooling=stage, last_rate=LAST_RATE, geometric=True, seed=settings.seed, anchor=settings.anchor, patience=stage,
        )  # fmt: skip
        self.first = FitEngine(fast, fit)
        decay = with_rates(fit, fast).weight_decay
        going_on = replace(fit, learning_rate=GOING_ON * rate, weight_decay=decay, last_rate=LAST_RATE / GOING_ON)
        self.later = FitEngine(fast, going_on)  # a higher rate would lose the tokens that are held
        self.budget = FIRST * fit.budget(fast.width) * vectors
        self.allowed = PackSettings(max_corrections=settings.corrected).allowed

    def run(self, chosen: Sequence[tuple[str, tuple[int, ...]]], progress: Progress, watch: Watch) -> list[Held]:
        """Fit each (source, ids). Return the part of each that the vectors hold."""
        trials = [_Trial(source, ids) for source, ids in chosen]
        progress.documents, progress.documents_done = len(trials), 0
        for number, trial in enumerate(trials):
            lengths = self._beginnings(trial.ids)
            self.first.add(Task(number, trial.ids[:n], self.rows, attempt=start) for start, n in enumerate(lengths))
        begun: list[list[Fitted]] = [[] for _ in trials]
        for fitted in chain.from_iterable(self.first.run(lambda _: watch(progress))):
            begun[fitted.task.key].append(fitted)
        for trial, fits in zip(trials, begun, strict=True):
            best, *others = sorted(fits, key=_promised, reverse=True)
            trial.others = tuple(others)
            progress.documents_done += not self._grow(trial, best)
        try:
            for fitted in chain.from_iterable(self.later.run(lambda _: watch(progress))):
                progress.documents_done += not self._grow(trials[fitted.task.key], fitted)
        except KeyboardInterrupt:
            self.stopped = True
        return [self._judge(trial) for trial in trials]

    def _beginnings(self, ids: tuple[int, ...]) -> list[int]:
        """The tokens of each start's first beginning, from its share of the budget."""
        nats, starts = list(accumulate(_plain(self.fast, ids)[0])), self.settings.starts
        budgets = [self.budget * (1 + SPREAD * ((2 * start + 1) / starts - 1)) for start in range(starts)]
        return [max(min(len(ids), LEAST_GROWTH), sum(so_far <= budget for so_far in nats)) for budget in budgets]

    def _grow(self, trial: _Trial, fitted: Fitted) -> bool:
        """Note the result of a fit. Add a task for the next beginning, from the same vectors. Return False if there is none."""
        task, cost = fitted.task, fitted.cost
        trial.steps, trial.token_steps, trial.seconds = cost.steps, cost.token_steps, cost.seconds
        trial.stages += (_stage(fitted),)
        held = fitted.corrections <= self.first.settings.enough(len(task.ids))
        if held:
            trial.best, trial.last = fitted, None
        elif trial.last is None or _promised(fitted) > _promised(trial.last):
            trial.last = fitted
        if cost.steps >= self.settings.steps or (held and len(task.ids) == len(trial.ids)):
            return False
        length = len(task.ids)
        if held:
            length += max(LEAST_GROWTH, int(length * self.settings.grow))
        elif fitted.corrections > FAR_OFF * length:
            length = max(LEAST_GROWTH, _promised(fitted))
        # Go on from its vectors even after a failure: a new start would have to get as far first (docs/LOG.md).
        start = torch.from_numpy(fitted.vectors).float()
        most = min(self.first.settings.max_steps, self.settings.steps - cost.steps)
        self.later.add([replace(task, ids=trial.ids[:length], start=start, most=most, spent=cost)])
        return True

    def _judge(self, trial: _Trial) -> Held:
        """Judge in float32 the best fit, the last failed one and those of other starts. Return the best of them."""
        fits = [fitted for fitted in (trial.best, trial.last, *trial.others) if fitted]
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
            token_steps=trial.token_steps + sum(fitted.cost.token_steps for fitted in trial.others),
            seconds=trial.seconds + sum(fitted.cost.seconds for fitted in trial.others),
            exhausted=tokens == len(trial.ids),
            stages=trial.stages,
            others=tuple(_stage(fitted) for fitted in trial.others),
        )


def _stage(fitted: Fitted) -> Stage:
    cost = fitted.cost
    return Stage(len(fitted.task.ids), fitted.corrections, cost.steps, cost.token_steps)


def _promised(fitted: Fitted) -> int:
    """The tokens that the vectors of a fit can probably be made to hold."""
    return len(fitted.task.ids) - A_WRONG_ONE * fitted.corrections


def _longest(right: Sequence[bool], allowed: Callable[[int], float]) -> int:
    """The length of the longest beginning with no more wrong tokens than are allowed for its length."""
    wrong = accumulate(not good for good in right)
    return max((n for n, missed in enumerate(wrong, 1) if missed <= allowed(n)), default=0)


@torch.inference_mode()
def _plain(lm: FrozenLM, ids: Sequence[int]) -> tuple[list[float], list[bool]]:
    """The surprisal [nats] of every token with nothing in front, and whether it is the argmax. log V and False for the first."""
    row = torch.tensor(ids, device=lm.device)
    passed = head_pass(lm.hidden(lm.embed(row[None]))[0, :-1], lm.head, row[1:], gradient=False)
    return [math.log(lm.vocabulary), *passed.nats.tolist()], [False, *(passed.margin > 0).tolist()]
