"""`calibrate`: measure how much text a vector of a model can carry, and the cost. `pack` uses the result.

A profile belongs to a fingerprint. For several numbers of nats per vector it has the tokens per vector and the token-steps
per token on a sample. The package brings the profile of the default model. A large pack with a model that has none makes
one first, in a trial: fewer segments, and fewer budgets.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import resources
from itertools import count, pairwise
from pathlib import Path
from typing import Literal, cast

from memvec.arguments import checked, instance, literal
from memvec.checkpoints.identify import fingerprint_folder
from memvec.checkpoints.resolve import DEFAULT_MODEL, resolve
from memvec.decoding.greedy import certify
from memvec.errors import NotFoundError, UsageError
from memvec.evaluation.samples import handbook, passages
from memvec.filesystem.cache_folder import cache_root
from memvec.filesystem.sources import Source
from memvec.formats import files
from memvec.lm.device import pick_device, pick_dtype
from memvec.lm.frozen import FrozenLM
from memvec.lm.load import in_float32, load
from memvec.packing.outstanding import described
from memvec.packing.plan import Reading, plan, tasks
from memvec.progress import USUAL_TOKEN_STEPS, Progress, Watch, enter, unwatched
from memvec.settings import NATS_PER_DIMENSION, PackSettings
from memvec.training.fit import FitEngine
from memvec.training.units import with_rates
from memvec.types import Fingerprint

Preset = Literal["fast", "balanced", "dense"]

VERSION = 2  # profiles of other versions are of fits with other starts and decay
SEGMENTS = 12  # fitted for each point
PASSAGE = 200  # tokens of a passage of the sample
RATES = (1.0, 1 / 3, 3.0)  # learning rates to try, as factors of the one in the settings
STEP = 1.25  # factor between two budgets
POINTS = 8  # most budgets
TRIAL_SEGMENTS = 6  # fitted for each point of a trial
TRIAL_SECONDS, TRIAL_SECONDS_GPU = 100.0, 9.0  # most that a trial takes
TRIAL_POINTS = 6
TRIAL_STEP = 4 / 3  # factor between two budgets of a trial
TRIAL_RATE = 3.0  # the other learning rate of a trial, as a factor
TIMED_STEPS = 3  # steps by which a trial's duration is foreseen
TRIAL_BYTES = 64 * 1024  # packs of fewer bytes make no trial: it would take longer than it saves
WORTH = {"fast": 1.0, "balanced": 1.1, "dense": 1.6}  # highest cost of a token, as a factor of the cheapest point's


@dataclass(frozen=True, slots=True)
class Point:
    """The results of one budget on the sample."""

    nats_per_vector: float
    tokens_per_vector: float
    token_steps: float  # for each token that the vectors give; padding and failed attempts included
    corrected: float  # share of tokens stored as corrections [0..1]
    unsolved: float  # share of segments that ran out of steps in their first attempt [0..1]
    steps: int  # median of a segment
    most_steps: int  # of any segment


@dataclass(frozen=True, slots=True)
class Profile:
    """The points of a model, in order of nats per vector: its curve."""

    fingerprint: str  # its id
    model: str
    learning_rate: float
    segment_tokens: int
    points: tuple[Point, ...]
    sample: str  # names of the texts
    version: int = VERSION
    thorough: bool = True  # False: found by the trial of a pack

    def point(self, preset: Preset) -> Point:
        """The densest point that solved all its segments at a cost that the preset allows."""
        literal(Preset)("preset", preset)
        solved = [p for p in self.points if not p.unsolved] or [min(self.points, key=lambda p: p.unsolved)]
        least = min(p.token_steps for p in solved)
        return max((p for p in solved if p.token_steps <= WORTH[preset] * least), key=lambda p: p.tokens_per_vector)

    def token_steps_at(self, nats_per_vector: float) -> float:
        """Token-steps per token on the curve: straight between points, level outside."""
        points = sorted(self.points, key=lambda p: p.nats_per_vector)
        for low, high in pairwise(points):
            if low.nats_per_vector <= nats_per_vector <= high.nats_per_vector:
                along = (nats_per_vector - low.nats_per_vector) / (high.nats_per_vector - low.nats_per_vector)
                return low.token_steps + along * (high.token_steps - low.token_steps)
        return points[0 if nats_per_vector < points[0].nats_per_vector else -1].token_steps


@checked(settings=instance(PackSettings))
def calibrate(
    model: str = DEFAULT_MODEL,
    texts: Mapping[str, str] | None = None,
    *,
    segments: int = SEGMENTS,
    settings: PackSettings | None = None,
    device: str | None = None,
    dtype: str | None = None,
    watch: Watch = unwatched,
) -> Profile:
    """Measure the curve of a model, and store it in the cache folder for the presets of `pack`.

    The learning rate is chosen at the default budget. Then larger budgets are tried until segments stay unsolved or tokens
    get expensive, and smaller ones while tokens get cheaper.

    Args:
        model: A known name, a checkpoint folder, a GGUF file or a hub id.
        texts: The texts to measure on, by name. Default: Python's handbook.
        segments: How many segments a trial fits.
        settings: Settings of the fits. Nats per vector and learning rate are varied.
        device: The torch device. Default: CUDA if there is one. "auto" also offloads layers that do not fit.
        dtype: The dtype that vectors are fitted in. Default: bfloat16 if the processor has it.
        watch: A function that is called with the progress.

    Returns:
        The profile of the model.

    Raises:
        UsageError: An argument is invalid, or the texts are too short.
        NotFoundError: The model does not exist.

    Example:
        >>> settings = memvec.PackSettings(segment_tokens=16, max_steps=2)
        >>> texts = {"harbour": (text_folder / "harbour.txt").read_text() * 9}
        >>> profile = memvec.calibrate(model, texts, segments=1, settings=settings)
        >>> profile.points[0].nats_per_vector < profile.points[1].nats_per_vector
        True
    """
    settings, progress = settings or PackSettings(), Progress(stage="loading the model")
    watch(progress)
    if segments < 1:
        raise UsageError(f"segments is {segments}, expected at least 1.")
    device = pick_device(device)
    folder, kind = resolve(model), pick_dtype(dtype, device)
    fast = load(folder, kind, device)
    exact = in_float32(fast, folder)
    texts = texts or handbook()
    bench = _Bench(fast, exact, texts, segments, settings, len(RATES) + POINTS - 1, progress, watch)
    usual, rates = NATS_PER_DIMENSION * fast.width, [bench.rate * times for times in RATES]
    found = {rate: bench.point(usual, rate) for rate in rates}
    best = min(found, key=lambda rate: (found[rate].unsolved, found[rate].token_steps))

    def at(times: float) -> Point:
        return found[best] if times == 1 else bench.point(usual * times, best)

    points = _around(at, STEP, "dense", lambda tried: tried < POINTS)
    return bench.profile(fingerprint_folder(folder).id, model, best, points)


def suited(
    settings: PackSettings,
    fast: FrozenLM,
    exact: FrozenLM,
    model: Fingerprint,
    size: int,
    progress: Progress,
    watch: Watch = unwatched,
) -> PackSettings:
    """The settings of a pack of `size` bytes, with the budget and learning rate that suit the model.

    They come from the model's profile, and a large pack makes one if there is none. Settings that name them stay as they are.
    """
    profile = None
    if size >= TRIAL_BYTES and not _named(settings) and profile_of(model.id) is None:
        # A profile is the model's: other settings of this pack do not enter it.
        profile = _tried(fast, exact, model, PackSettings(memory=settings.memory), progress, watch)
    return with_profile(settings, model.id) if profile is None else _at(settings, profile, "balanced")


def with_profile(settings: PackSettings, fingerprint: str) -> PackSettings:
    """The settings with the budget and learning rate of the model's profile, unless they name them or there is none."""
    profile = None if _named(settings) else profile_of(fingerprint)
    return settings if profile is None else _at(settings, profile, "balanced")


def _named(settings: PackSettings) -> bool:
    """Do settings say themselves how much a vector carries, or how fast it learns?"""
    return any(given is not None for given in (settings.nats_per_vector, settings.learning_rate, settings.vectors))


def _at(settings: PackSettings, profile: Profile, preset: Preset) -> PackSettings:
    nats = profile.point(preset).nats_per_vector
    return replace(settings, nats_per_vector=nats, learning_rate=profile.learning_rate)


def _tried(
    fast: FrozenLM, exact: FrozenLM, model: Fingerprint, settings: PackSettings, progress: Progress, watch: Watch
) -> Profile | None:
    """Make a profile in a trial. None if the model is so slow that a trial would take too long."""
    begun, limit = time.perf_counter(), TRIAL_SECONDS_GPU if fast.device.type == "cuda" else TRIAL_SECONDS
    bench = _Bench(fast, exact, handbook(), TRIAL_SEGMENTS, settings, TRIAL_POINTS + 1, progress, watch)
    took = bench.foreseen()

    def time_left() -> bool:
        return time.perf_counter() - begun + took <= limit

    if not time_left():
        return None
    usual = NATS_PER_DIMENSION * fast.width

    def at(times: float) -> Point:
        nonlocal took
        before = time.perf_counter()
        point = bench.point(usual * times, bench.rate)
        took = time.perf_counter() - before
        return point

    points = _around(at, TRIAL_STEP, "balanced", lambda tried: tried < TRIAL_POINTS and time_left())
    profile = bench.profile(model.id, model.source, bench.rate, points, thorough=False)
    best = profile.point("balanced")
    if time_left():
        faster = bench.point(best.nats_per_vector, bench.rate * TRIAL_RATE)
        if not faster.unsolved and faster.token_steps * WORTH["balanced"] < best.token_steps:
            return bench.profile(model.id, model.source, bench.rate * TRIAL_RATE, [faster], thorough=False)
    return profile


def _around(at: Callable[[float], Point], step: float, preset: Preset, more: Callable[[int], bool]) -> list[Point]:
    """The points of budgets around the default, of which `at` takes the factor. `more` says if there is time, after so many.

    Larger budgets come first, while their costs are what the preset allows, then smaller ones while those are worth it.
    """
    points = [at(1.0)]
    times, cheap = 1.0, WORTH[preset] * points[0].token_steps
    while more(len(points)) and not points[-1].unsolved and points[-1].token_steps <= cheap:
        times *= step
        points.append(at(times))
    times, before, last = 1.0, math.inf, points[0]
    while more(len(points)) and (last.unsolved or last.token_steps * WORTH["balanced"] < before):
        times, before = times / step, last.token_steps
        last = at(times)
        points.append(last)
    return points


class _Bench:
    """Fits a sample of segments with changing budgets and learning rates."""

    def __init__(
        self,
        fast: FrozenLM,
        exact: FrozenLM,
        texts: Mapping[str, str],
        segments: int,
        settings: PackSettings,
        most: int,
        progress: Progress,
        watch: Watch,
    ) -> None:
        """`most` points will be asked for at most."""
        self.fast, self.exact, self.texts, self.segments, self.most = fast, exact, texts, segments, most
        self.settings, self.progress, self.watch = settings, progress, watch
        self.rate = cast(float, with_rates(settings, fast).learning_rate)
        self.sources, self.number = sample(exact, texts, segments), count(1)

    def point(self, nats: float, rate: float) -> Point:
        """The results of a budget and a learning rate."""
        what = f"{self.segments} segments at {nats:.0f} nats a vector, learning rate {rate:.2g}"
        enter(f"fit {next(self.number)} of at most {self.most}: {what}", self.progress, self.watch)
        settings = replace(self.settings, nats_per_vector=nats, learning_rate=rate)
        return fitted_once(self.fast, self.exact, self.sources, settings, self.segments, self._tick)

    def foreseen(self) -> float:
        """How long a point takes, from its first steps [s]."""
        enter("trying the model", self.progress, self.watch)
        short = replace(self.settings, max_steps=TIMED_STEPS, growth=0)  # whole texts, as most steps have
        times: list[float] = []

        def tick(token_steps: int) -> None:
            times.append(time.perf_counter())

        fitted_once(self.fast, self.exact, self.sources, short, self.segments, tick)
        return (times[-1] - times[-2]) * USUAL_TOKEN_STEPS  # a fit takes about as many steps

    def profile(
        self, fingerprint: str, model: str, rate: float, points: Sequence[Point], thorough: bool = True
    ) -> Profile:
        """Make a profile of the points, and store it."""
        ordered = tuple(sorted(points, key=lambda point: point.nats_per_vector))
        length, sampled = self.settings.segment_tokens, ", ".join(self.texts)
        made = Profile(fingerprint, model, rate, length, ordered, sampled, thorough=thorough)
        try:
            _store(made)
        except OSError as error:  # the result took minutes, so it is used all the same
            why = f"the profile could not be kept: {error.strerror or error}. Set MEMVEC_CACHE"
            enter(why, self.progress, self.watch)
        return made

    def _tick(self, token_steps: int) -> None:
        self.watch(self.progress)


def sample(lm: FrozenLM, texts: Mapping[str, str], segments: int) -> list[Source]:
    """Passages of every text, evenly spaced, enough for `segments` segments."""
    each = max(1, -(-segments // len(texts)))
    rows = [
        (number, name, ids)
        for name, text in texts.items()
        for number, ids in enumerate(passages(lm, text, each, PASSAGE))
    ]
    # First one passage of each text, then the second of each: a trial that ends early has some of every text.
    return [Source(f"{name}-{number:03}", lm.decode(ids).encode()) for number, name, ids in sorted(rows)]


def fitted_once(
    fast: FrozenLM,
    exact: FrozenLM,
    sources: Sequence[Source],
    settings: PackSettings,
    segments: int,
    tick: Callable[[int], None] = lambda token_steps: None,
) -> Point:
    """Fit `segments` segments of the sources, once each with these settings. Certify them and count."""
    lot = [Reading(source, document) for source, document in zip(sources, described(sources), strict=True)]
    every = plan(lot, {}, fast, settings).waiting
    names = list(dict.fromkeys(w.document.name for w in every))
    if not names:
        raise UsageError("expected texts of at least one segment, found none that is long enough. Pass longer texts.")
    each = max(1, -(-segments // len(names)))
    waiting = [w for name in names for w in [x for x in every if x.document.name == name][:each]][:segments]
    engine = FitEngine(fast, settings)
    engine.add(tasks(waiting, fast.width, settings))
    done = [fitted for batch in engine.run(tick) for fitted in batch]
    proofs = certify(exact, [f.vectors for f in done], [f.task.ids for f in done], settings.margin)
    tokens = sum(len(f.task.ids) for f in done)
    corrected = sum(len(p.corrections) for p in proofs)
    unsolved = sum(
        len(proof.corrections) > settings.allowed(len(f.task.ids)) for f, proof in zip(done, proofs, strict=True)
    )
    steps = sorted(f.cost.steps for f in done)
    return Point(
        nats_per_vector=settings.budget(fast.width),
        tokens_per_vector=tokens / sum(f.task.vectors for f in done),
        token_steps=sum(f.cost.token_steps for f in done) / max(1, tokens - corrected),
        corrected=corrected / tokens,
        unsolved=unsolved / len(done),
        steps=steps[len(steps) // 2],
        most_steps=steps[-1],
    )


def profile_of(fingerprint: str) -> Profile | None:
    """The profile for the id of a fingerprint: from the cache folder, or else from the package."""
    for folder in (_folder(), resources.files("memvec") / "data" / "profiles"):
        file = folder / f"{fingerprint}.json"
        try:
            found = json.loads(file.read_text("utf-8"))
            if found.get("version") == VERSION and found["points"]:
                profile = Profile(**found | {"points": tuple(Point(**point) for point in found["points"])})
                _at(PackSettings(), profile, "balanced")  # every pack takes its settings from it
                return profile
        except (OSError, ValueError, TypeError, KeyError, AttributeError, UsageError):  # missing or damaged
            continue
    return None


def with_preset(settings: PackSettings, preset: str | None, fingerprint: str, model: str) -> PackSettings:
    """The settings at the preset's point of the model's curve. UsageError; NotFoundError if the model has no profile."""
    if preset is None:
        return settings
    literal(Preset)("preset", preset)
    profile = profile_of(fingerprint)
    if profile is None:
        raise NotFoundError(
            f"no profile of {model!r} to take {preset!r} from. Run memvec.calibrate(model={model!r}) once."
        )
    return _at(settings, profile, preset)  # type: ignore[arg-type]


def _folder() -> Path:
    return cache_root() / "profiles"


def _store(profile: Profile) -> None:
    file = _folder() / f"{profile.fingerprint}.json"
    files.make_folder(file.parent)
    files.write_atomically(file, (json.dumps(asdict(profile), indent=1) + "\n").encode())
