"""Capacity on the tiny LM: held texts decode, more vectors hold more, and the figures add up."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from families import make

import memvec
from memvec.decoding.greedy import decode
from memvec.errors import NotFoundError, UsageError
from memvec.evaluation import capacity as filling
from memvec.evaluation.capacity import RANDOM, CapacitySettings, _Filling, _Trial, capacity
from memvec.evaluation.capacity_report import Capacity, Held, summaries
from memvec.evaluation.samples import passages, random_words
from memvec.training.cost import Cost
from memvec.training.fit import Fitted, Task
from memvec.training.segments import surprisal

QUICK = CapacitySettings(steps=240, stage=80, learning_rate=1.0)


@pytest.fixture(scope="module")
def judged() -> list[tuple[list[Any], list[tuple[int, ...]]]]:
    """The vectors that were judged, and the texts they were judged by."""
    return []


@pytest.fixture(scope="module")
def found(tiny: str, disorder: str, judged: list[Any]) -> Capacity:
    """Two passages and two rows of random words in 1 and in 4 vectors."""
    measure = filling.measure

    def noted(lm: Any, vectors: list[Any], targets: list[tuple[int, ...]]) -> Any:
        judged.append((vectors, targets))
        return measure(lm, vectors, targets)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(filling, "measure", noted)
        return capacity(
            {"book": disorder}, [1, 4], count=2, random_words=True, model=tiny, settings=QUICK, dtype="float32"
        )


def test_held(found: Capacity, judged: list[Any], tiny_lm: Any) -> None:
    """The held beginning decodes free-running, and no longer one does."""
    assert len(found.held) == len(judged) == 8
    for held, (vectors, (ids, *_)) in zip(found.held, judged, strict=True):
        said = decode(tiny_lm, vectors, [len(ids)] * len(vectors), [()] * len(vectors))
        alone = [next((at for at, (a, b) in enumerate(zip(one, ids, strict=True)) if a != b), len(ids)) for one in said]
        assert held.alone in alone
        assert held.tokens >= max(alone) and held.tokens >= held.published >= held.alone
        assert held.corrected <= math.ceil(QUICK.corrected * held.tokens)
        ways = [_corrected(tiny_lm, one, ids) for one in vectors]
        assert (held.tokens, held.corrected) in ways
        assert held.tokens == max(tokens for tokens, _ in ways)
        before = sum(surprisal(tiny_lm, [ids[: held.tokens]])[0])
        assert held.nats_before == pytest.approx(before, rel=1e-4)
        assert held.bits == pytest.approx((held.nats_before - held.nats_after) / math.log(2))
        assert 0 <= held.nats_after < held.nats_before
        assert 0 < held.gain <= held.tokens - held.corrected
        assert held.token_steps > held.steps > 0
        assert (held.stages[-1].steps, held.stages[-1].token_steps) == (held.steps, held.token_steps)


def _corrected(lm: Any, vectors: Any, ids: tuple[int, ...]) -> tuple[int, int]:
    """(tokens, corrections) of the longest beginning with 3 % corrections, found by decoding again and again."""
    stored: list[tuple[int, int]] = []
    while True:
        (said,) = decode(lm, [vectors], [len(ids)], [tuple(stored)])
        wrong = next((at for at, (a, b) in enumerate(zip(said, ids, strict=True)) if a != b), None)
        if wrong is None:
            break
        stored.append((wrong, ids[wrong]))
    return max(
        (n, missed)
        for n in range(1, len(ids) + 1)
        if (missed := sum(at < n for at, _ in stored)) <= math.ceil(QUICK.corrected * n)
    )


def test_anchor(found: Capacity, judged: list[Any], tiny: str) -> None:
    """Vectors stand behind BOS unless `anchor` is False."""
    assert found.anchored
    for held, (vectors, _) in zip(found.held, judged, strict=True):
        assert all(len(rows) == held.vectors + 1 for rows in vectors)
    bare = CapacitySettings(steps=9, stage=9, anchor=False)
    assert not capacity({"book": "as they were " * 20}, [2], count=1, model=tiny, settings=bare).anchored


def test_more_vectors(found: Capacity) -> None:
    """Four vectors hold more than one."""
    rows = {(row.source, row.vectors): row for row in summaries(found)}
    assert set(rows) == {("book", 1), (RANDOM, 1), ("book", 4), (RANDOM, 4)}
    for source in ("book", RANDOM):
        one, four = rows[source, 1], rows[source, 4]
        assert four.tokens > 1.5 * one.tokens
        assert (one.scaling, four.scaling) == (1.0, pytest.approx(four.tokens / one.tokens / 4))
        assert one.utilisation == pytest.approx(one.gain / found.bound)
    assert found.bound == pytest.approx(found.width * 16 / math.log2(found.vocabulary))


def test_exhausted(tiny: str) -> None:
    """A short text is held whole and marked exhausted."""
    text = "It is a truth universally acknowledged, that a man must want."
    found = capacity({"short": text}, [8], count=1, model=tiny, settings=QUICK, dtype="float32")
    (held,) = found.held
    assert held.exhausted
    (row,) = summaries(found)
    assert (row.exhausted, row.scaling, row.tokens_spread) == (1, None, 0)


@pytest.mark.parametrize(("steps", "stage"), [(25, 10), (9, 400), (1, 1)])  # two stages and half of one; less than one
def test_steps(tiny: str, disorder: str, steps: int, stage: int) -> None:
    """No fit takes more steps than the settings allow."""
    settings = CapacitySettings(steps=steps, stage=stage, learning_rate=1.0)
    found = capacity({"book": disorder}, [1, 2], count=1, model=tiny, settings=settings, dtype="float32")
    assert [(held.steps, held.exhausted) for held in found.held] == [(steps, False)] * 2


def test_shortened(tiny_lm: Any) -> None:
    """A beginning that is too long is shortened. A failure is forgotten when a later beginning is held."""
    work, ids = _Filling(tiny_lm, tiny_lm, 1, QUICK), tuple(range(60))
    trial, vectors = _Trial("book", ids), np.zeros((2, tiny_lm.width), np.float16)
    ends = [work._grow(trial, Fitted(Task(0, ids[:n], 2), vectors, wrong, Cost(9))) for n, wrong in ((50, 7), (40, 3))]
    assert (
        trial.best is None and trial.last is not None and len(trial.last.task.ids) == 50
    )  # it promises 36, the other 34
    ends.append(work._grow(trial, Fitted(Task(0, ids[:40], 2), vectors, 0, Cost(9))))
    assert trial.best is not None and trial.last is None
    assert ends == [True] * 3 and [len(task.ids) for task in work.later.queue] == [36, 40, 50]
    assert [(stage.tokens, stage.wrong, stage.steps) for stage in trial.stages] == [(50, 7, 9), (40, 3, 9), (40, 0, 9)]


def test_positions(tmp_path: Path, disorder: str) -> None:
    """A text is cut to the positions of the model."""
    folder = str(make("gpt2", tmp_path / "gpt2"))
    settings = CapacitySettings(steps=1, stage=1)
    found = capacity({"book": disorder}, [17], count=1, model=folder, settings=settings)  # of 512 positions
    assert found.held[0].tokens < 512 - 17
    with pytest.raises(UsageError, match="the model has 512 positions"):
        capacity({"book": disorder}, [510], count=1, model=folder, settings=settings)


def test_scaling_order() -> None:
    """`scaling` does not depend on the order of the numbers of vectors."""
    held = [
        Held("book", m, tokens, 0, 9, 9, 9, 40.0, 30.0, 2.0, 5, 50, 0.1, exhausted=False)
        for m, tokens in ((2, 15), (1, 10))
    ]
    rows = summaries(Capacity("model", True, 64, 300, 124.0, tuple(held)))
    assert [(row.vectors, row.scaling) for row in rows] == [(2, 0.75), (1, 1.0)]


def test_passages(tiny_lm: Any) -> None:
    """Passages are spread over a text and begin at lines."""
    text = "".join(f"line {number} of the text, and no other\n" for number in range(300))
    found = [tiny_lm.decode(ids) for ids in passages(tiny_lm, text, 5, 40)]
    assert len({words.split()[1] for words in found}) == 5
    assert all(words.startswith("line ") and words in text for words in found)
    with pytest.raises(UsageError, match="too short for 5 passages"):
        passages(tiny_lm, "a few words", 5, 40)


def test_random_words(tiny_lm: Any) -> None:
    """Random words are words, and depend on the seed."""
    one, again, other = (random_words(tiny_lm, 2, 30, seed) for seed in (0, 0, 1))
    assert one == again != other
    assert all(len(ids) == 30 for ids in one)
    assert all(word.isalpha() for word in tiny_lm.decode(one[0]).split()[:-1])


def test_refused(tiny: str) -> None:
    """Arguments that leave no measurement are refused."""
    for call in (
        lambda: capacity({}, model=tiny),
        lambda: capacity({"a": "text"}, [0], model=tiny),
        lambda: capacity({RANDOM: "text"}, model=tiny),
        lambda: CapacitySettings(steps=0),
        lambda: CapacitySettings(learning_rate=0),
    ):
        with pytest.raises(UsageError):
            call()
    with pytest.raises(NotFoundError):
        memvec.capacity({"a": "text"}, model=str(Path("no") / "model"))


def test_starts(tiny: str, disorder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several starts the most promising goes on, and the work on all of them is counted."""
    fitted: list[Fitted] = []
    judged: list[int] = []
    begin, measure = filling._Filling._grow, filling.measure

    def noted(self: Any, trial: Any, made: Fitted) -> bool:
        fitted.extend((made, *trial.others))
        return begin(self, trial, made)

    def counted(lm: Any, vectors: list[Any], targets: list[tuple[int, ...]]) -> Any:
        judged.append(len(vectors))
        return measure(lm, vectors, targets)

    monkeypatch.setattr(filling._Filling, "_grow", noted)
    monkeypatch.setattr(filling, "measure", counted)
    settings = CapacitySettings(steps=40, stage=40, learning_rate=1.0, starts=3)
    (held,) = capacity({"book": disorder}, [2], count=1, model=tiny, settings=settings, dtype="float32").held
    assert len(fitted) == 3 and len({one.vectors.tobytes() for one in fitted}) == 3 and judged == [3]
    assert len({len(one.task.ids) for one in fitted}) == 3
    best, *others = (len(one.task.ids) - 2 * one.corrections for one in fitted)
    assert best >= max(others)
    assert [(one.tokens, one.wrong) for one in held.others] == [(len(f.task.ids), f.corrections) for f in fitted[1:]]
    assert held.token_steps == sum(one.cost.token_steps for one in fitted)


def test_ctrl_c(tiny: str, disorder: str) -> None:
    """Ctrl-C returns the figures so far."""

    def stop(progress: Any) -> None:
        if progress.stage == "filling 2 vectors":
            raise KeyboardInterrupt

    quick = {"count": 1, "model": tiny, "settings": CapacitySettings(steps=5, stage=5), "watch": stop}
    found = capacity({"book": disorder}, [1, 2, 3], **quick)
    assert not found.finished and [held.vectors for held in found.held] == [1]
    with pytest.raises(KeyboardInterrupt):
        capacity({"book": disorder}, [2, 3], **quick)


def test_ctrl_c_while_growing(tiny: str, disorder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C during the growth returns the part that each text holds by then."""
    grown: list[int] = []
    grow = filling._Filling._grow

    def noted(self: Any, trial: Any, made: Fitted) -> bool:
        grown.append(trial.steps)
        return grow(self, trial, made)

    def stop(progress: Any) -> None:
        if len(grown) == 2:  # both are at their second beginnings
            raise KeyboardInterrupt

    monkeypatch.setattr(filling._Filling, "_grow", noted)
    settings = CapacitySettings(steps=90, stage=30, learning_rate=1.0)
    found = capacity({"book": disorder}, [1, 2], count=2, model=tiny, settings=settings, watch=stop, dtype="float32")
    assert not found.finished
    assert [(held.vectors, held.steps, held.tokens > 0) for held in found.held] == [(1, 30, True)] * 2
