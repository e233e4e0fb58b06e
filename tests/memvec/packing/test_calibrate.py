"""Calibration on the tiny LM: a curve that was measured, presets that are points of it, and estimates that come true."""

from __future__ import annotations

import functools
import json
import math
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

import memvec
from memvec.checkpoints.resolve import DEFAULT_MODEL
from memvec.errors import NotFoundError, UsageError
from memvec.filesystem.sources import Source
from memvec.packing import calibrate as calibration
from memvec.packing.calibrate import Point, Profile, calibrate, profile_of, with_preset, with_profile
from memvec.progress import USUAL_TOKEN_STEPS
from memvec.settings import PackSettings


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A cache folder of its own."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("MEMVEC_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def settings() -> PackSettings:
    return PackSettings(segment_tokens=32, max_steps=120, learning_rate=1.0)


@pytest.fixture(scope="module")
def profile(cache: Any, tiny: str, disorder: str, settings: PackSettings) -> Profile:
    """The tiny LM's curve over three budgets around what its vectors carry."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(calibration, "RATES", (1.0, 0.01))
        patched.setattr(calibration, "STEP", 4.0)
        patched.setattr(calibration, "POINTS", 3)
        patched.setattr(calibration, "NATS_PER_DIMENSION", 9 / 64)
        return calibrate(tiny, {"book": disorder}, segments=4, settings=settings, dtype="float32")


def test_the_curve_is_measured_and_kept(profile: Profile) -> None:
    assert profile_of(profile.fingerprint) == profile
    assert profile.learning_rate == 1.0  # the other, a hundredth, solves nothing in 120 steps
    nats = [p.nats_per_vector for p in profile.points]
    assert nats == sorted(nats) and len(nats) == 3
    tokens = [p.tokens_per_vector for p in profile.points]
    assert tokens == sorted(tokens) and tokens[0] < tokens[-1]
    assert profile.points[-1].unsolved > 0  # four times what its vectors carry


@pytest.mark.parametrize(
    ("costs", "unsolved_over", "asked"),
    [
        (
            {0: 28, 1: 28, 2: 32, 3: 50, -1: 31},
            9,
            [1, 2, 3, -1],
        ),  # the default is the cheapest; the third costs too much
        (
            {0: 28, 1: 40, -1: 25, -2: 22, -3: 21},
            0,
            [1, -1, -2, -3],
        ),  # larger ones are not solved, smaller ones cheaper
        ({0: 200, -1: 90, -2: 60, -3: 50, -4: 49}, -2, [-1, -2, -3, -4]),  # the default is too much
        ({0: 30} | dict.fromkeys(range(1, 8), 30), 99, [1, 2, 3, 4, 5, 6, 7]),  # it ends at eight
    ],
)
def test_budgets_are_tried_where_they_may_be_better(
    tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    costs: dict[int, float], unsolved_over: int, asked: list[int],
) -> None:  # fmt: skip
    """Budgets are counted in steps from the default."""
    monkeypatch.setenv("MEMVEC_CACHE", str(tmp_path))
    tried: list[int] = []

    def fitted(fast: Any, exact: Any, sources: Any, settings: PackSettings, segments: int, tick: Any) -> Point:
        times = (settings.nats_per_vector or 0) / PackSettings().budget(128)
        tried.append(round(math.log(times, calibration.STEP)))
        return Point(times, times, costs[tried[-1]], 0, float(tried[-1] > unsolved_over), 40, 60)

    monkeypatch.setattr(calibration, "fitted_once", fitted)
    found = calibrate(tiny, {"a": "word " * 2000}, segments=1, dtype="float32")
    assert tried == [0] * 3 + asked
    assert len(found.points) == 1 + len(asked)


def test_the_default_model_brings_its_profile(cache: Any) -> None:
    found = profile_of("b774fc7952d6f201")
    assert found is not None and found.model == DEFAULT_MODEL
    assert [found.point(name).nats_per_vector for name in ("fast", "balanced", "dense")] == [76.0, 95.0, 114.0]
    assert with_profile(PackSettings(), found.fingerprint) == with_preset(
        PackSettings(), "balanced", found.fingerprint, "m"
    )


def points(*rows: tuple[float, float, float, float]) -> tuple[Point, ...]:
    return tuple(Point(nats, tokens, cost, 0.01, unsolved, 40, 60) for nats, tokens, cost, unsolved in rows)


def test_presets_are_the_densest_points_that_their_cost_allows() -> None:
    found = Profile("f", "m", 3.0, 64, points((20, 5, 50, 0), (30, 7, 54, 0), (40, 9, 75, 0), (50, 11, 60, 0.1)), "t")
    assert [found.point(name).nats_per_vector for name in ("fast", "balanced", "dense")] == [20, 30, 40]
    assert found.token_steps_at(25) == pytest.approx(52)
    assert found.token_steps_at(1) == 50
    assert found.token_steps_at(99) == 60


def test_a_preset_changes_what_a_pack_does(profile: Profile, tiny: str, settings: PackSettings, tmp_path: Path) -> None:
    given = with_preset(settings, "fast", profile.fingerprint, tiny)
    assert given == replace(settings, nats_per_vector=profile.point("fast").nats_per_vector, learning_rate=1.0)
    assert with_preset(settings, None, "unknown", "m") is settings
    with pytest.raises(UsageError, match="expected fast, balanced or dense"):
        with_preset(settings, "slow", profile.fingerprint, tiny)
    with pytest.raises(NotFoundError, match=r"memvec.calibrate\(model='m'\)"):
        with_preset(settings, "fast", "unknown", "m")
    text = Source("a.txt", b"It is a truth universally acknowledged, that a single man must be in want of a wife.")
    loose = replace(settings, nats_per_vector=90.0)
    report = memvec.pack([text], tmp_path / "s", model=tiny, settings=loose, preset="fast", dtype="float32", keys=())
    assert report.vectors > 4  # a budget of 90 nats would have asked for two


def test_a_damaged_profile_is_as_good_as_none(profile: Profile) -> None:
    file = calibration._folder() / "broken.json"
    empty = json.dumps(asdict(replace(profile, points=())))
    absurd = json.dumps(asdict(replace(profile, learning_rate=-1.0)))
    for text in (
        "{",
        "[]",
        json.dumps({"version": 99}),
        json.dumps({"version": calibration.VERSION, "points": [{}]}),
        empty,
        absurd,
    ):
        file.write_text(text)
        assert profile_of("broken") is None


def test_every_text_is_in_what_a_trial_fits(tiny_lm: Any, disorder: str) -> None:
    texts = dict.fromkeys(("a", "b", "c", "d", "e"), disorder)
    names = [source.name.split("-")[0] for source in calibration.sample(tiny_lm, texts, 12)]
    assert names == list("abcde") * 3  # of which a trial takes the first twelve


def test_an_estimate_comes_true_and_writes_nothing(
    profile: Profile, tiny: str, settings: PackSettings, sources: list[Source], tmp_path: Path
) -> None:
    store = tmp_path / "s.memvec"
    settings = replace(settings, nats_per_vector=profile.points[0].nats_per_vector)
    extra = [Source("noise.bin", b"\xff\xfe" * 300)]
    said = memvec.estimate([*sources, *extra], store, model=tiny, settings=settings, dtype="float32")
    assert not store.exists()
    report = memvec.pack([*sources, *extra], store, model=tiny, settings=settings, dtype="float32")
    assert (said.documents, said.unchanged, said.raw_records, said.profiled) == (4, 0, 1, True)
    assert (said.records, said.tokens) == (report.records, report.source_tokens)
    assert said.vectors <= report.vectors <= 1.3 * said.vectors  # refits take more
    assert said.token_steps == pytest.approx(report.token_steps, rel=0.5)
    assert said.store_bytes == pytest.approx(report.store_bytes, rel=0.3)
    assert said.seconds > 0 and said.token_steps_per_second > 0
    again = memvec.estimate([*sources, *extra], store, model=tiny, settings=settings, dtype="float32")
    assert (again.unchanged, again.records, again.vectors, again.seconds) == (4, 0, 0, 0)


def test_without_a_profile_an_estimate_says_so(
    cache: Any, tiny: str, sources: list[Source], tmp_path: Path, tiny_settings: Callable[..., PackSettings]
) -> None:
    shutil.rmtree(calibration._folder(), ignore_errors=True)  # in the cache folder of these tests
    said = memvec.estimate(sources[:1], tmp_path / "s", model=tiny, settings=tiny_settings(), dtype="float32")
    assert not said.profiled and said.token_steps == round(said.tokens * USUAL_TOKEN_STEPS)


def test_a_cache_that_cannot_be_written_costs_no_result(
    tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from memvec.packing import calibrate as calibration

    (tmp_path / "cache").write_text("a file")
    monkeypatch.setenv("MEMVEC_CACHE", str(tmp_path / "cache"))
    point = calibration.Point(76.0, 20.0, 40.0, 0.0, 0.0, 30, 60)
    monkeypatch.setattr(calibration, "fitted_once", lambda *_: point)
    stages: list[str] = []
    profile = memvec.calibrate(
        tiny, {"a": "word " * 2000}, segments=1, dtype="float32", watch=lambda progress: stages.append(progress.stage)
    )
    assert profile.points and "could not be kept" in stages[-1] and "MEMVEC_CACHE" in stages[-1]


class TestATrial:
    """A large pack with a model that has no profile."""

    @pytest.fixture
    def packed(
        self, tiny: str, disorder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> Callable[..., tuple[list[str], memvec.PackReport]]:
        """Pack a book of which a trial is worth while. Return the stages of the pack, and its report."""
        monkeypatch.setenv("MEMVEC_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(calibration, "TRIAL_BYTES", 500)
        monkeypatch.setattr(calibration, "TRIAL_SEGMENTS", 2)
        monkeypatch.setattr(calibration, "handbook", lambda: {"book": disorder})
        monkeypatch.setattr(calibration, "NATS_PER_DIMENSION", 9 / 64)
        short = functools.partial(PackSettings, segment_tokens=32, max_steps=120)
        monkeypatch.setattr(calibration, "PackSettings", short)
        text = Source("book.txt", disorder[:600].encode())

        def run(**given: Any) -> tuple[list[str], memvec.PackReport]:
            stages: list[str] = []
            settings = PackSettings(**{"segment_tokens": 32, "max_steps": 120} | given.pop("settings", {}))
            report = memvec.pack(
                text, tmp_path / f"s{len(list(tmp_path.iterdir()))}", model=tiny, settings=settings, dtype="float32",
                keys=(), watch=lambda progress: stages.append(progress.stage), **given,
            )  # fmt: skip
            return list(dict.fromkeys(stages)), report

        return run

    def test_its_profile_is_used_and_kept(self, packed: Any, tiny: str) -> None:
        stages, report = packed()
        assert any(stage.startswith("fit 1 of at most 7: 2 segments at 18 nats") for stage in stages)
        profile = profile_of(memvec.fingerprint(tiny).id)
        assert profile is not None and not profile.thorough and profile.sample == "book"
        again, second = packed()
        assert not any(stage.startswith("fit ") for stage in again)
        assert (second.vectors, second.token_steps) == (report.vectors, report.token_steps)
        budget = profile.point("balanced").nats_per_vector
        _, named = packed(settings={"nats_per_vector": budget, "learning_rate": profile.learning_rate}, trial=False)
        assert named.vectors == report.vectors

    @pytest.mark.parametrize(
        "given",
        [{"trial": False}, {"settings": {"nats_per_vector": 9.0}}, {"settings": {"learning_rate": 1.0}}, {"settings": {"vectors": 4}}],
    )  # fmt: skip
    def test_is_not_made_where_settings_say_enough(self, packed: Any, tiny: str, given: dict[str, Any]) -> None:
        stages, _ = packed(**given)
        assert not any(stage.startswith("fit ") for stage in stages) and profile_of(memvec.fingerprint(tiny).id) is None

    def test_does_not_depend_on_the_settings_of_the_pack(self, packed: Any, tiny: str, monkeypatch: Any) -> None:
        asked: list[PackSettings] = []

        def fitted(fast: Any, exact: Any, sources: Any, settings: PackSettings, segments: int, tick: Any) -> Point:
            tick(1), tick(1)
            asked.append(settings)
            return Point(18, 2, 40, 0, 0, 40, 60)

        monkeypatch.setattr(calibration, "fitted_once", fitted)
        packed(settings={"max_steps": 7, "max_corrections": 0.5})
        assert asked and all(each.max_corrections == PackSettings().max_corrections for each in asked)
        assert all(each.max_steps == 120 for each in asked[1:])  # the first one is timed

    def test_is_not_made_for_a_small_pack(self, packed: Any, tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(calibration, "TRIAL_BYTES", 601)
        stages, _ = packed()
        assert not any(stage.startswith("fit ") for stage in stages)

    def test_is_given_up_where_the_model_is_slow(self, packed: Any, tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(calibration, "TRIAL_SECONDS", 0.0)
        stages, report = packed()
        assert "trying the model" in stages and not any(stage.startswith("fit ") for stage in stages)
        assert report.exact and profile_of(memvec.fingerprint(tiny).id) is None

    @pytest.mark.parametrize(
        ("costs", "unsolved_over", "budgets", "best"),
        [
            ([40, 42, 60, 39], 99, [1, 4 / 3, 16 / 9, 3 / 4], 4 / 3),  # the third costs too much, the last saves little
            ([40] * 6, 99, [(4 / 3) ** step for step in range(6)], (4 / 3) ** 5),  # it ends at six
            ([40, 41, 45], 1.1, [1, 4 / 3, 3 / 4], 1),  # the second is not solved
            ([90, 70, 50, 48], 0.6, [1, 3 / 4, 9 / 16, 27 / 64], 9 / 16),  # the first two are not
        ],
    )
    def test_moves_towards_what_vectors_carry(
        self, packed: Any, tiny: str, monkeypatch: pytest.MonkeyPatch,
        costs: list[float], unsolved_over: float, budgets: list[float], best: float,
    ) -> None:  # fmt: skip
        asked: list[float] = []

        def fitted(fast: Any, exact: Any, sources: Any, settings: PackSettings, segments: int, tick: Any) -> Point:
            times = (settings.nats_per_vector or 0) / 18
            if settings.max_steps < 120 or times == 0:
                tick(1), tick(1)
                return Point(18, 1, 1, 0, 1, 1, 1)
            asked.append(times)
            cost = costs[len(asked) - 1] if len(asked) <= len(costs) else 1000
            return Point(18 * times, times, cost, 0, float(times > unsolved_over), 40, 60)

        monkeypatch.setattr(calibration, "fitted_once", fitted)
        packed()
        profile = profile_of(memvec.fingerprint(tiny).id)
        assert profile is not None
        assert asked == pytest.approx([*budgets, best])  # the last one at another learning rate
        assert profile.point("balanced").nats_per_vector == pytest.approx(18 * best)
