"""Rows that keep their shapes: they fit what ragged ones fit, also while rows come, go and become more, longer or fewer."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import make
from torch._dynamo.exc import BackendCompilerFailed

from memvec.decoding.greedy import certify
from memvec.lm.fused import PAYS_AFTER, Fused
from memvec.lm.load import load
from memvec.settings import PackSettings
from memvec.training.batch import RaggedBatch
from memvec.training.fit import FitEngine, Task
from memvec.training.static_batch import StaticBatch, roomy


def tasks(count: int) -> list[Task]:
    return [Task(k, tuple(range(10 + k, 30 + 2 * k)), 2 + k % 4) for k in range(count)]


def fit(lm: Any, settings: PackSettings, static: bool, count: int = 12, most: int = 5) -> dict[int, Any]:
    engine = FitEngine(lm, settings, StaticBatch(lm, settings) if static else None)
    engine.most, engine.ahead = most, 3
    engine.add(tasks(count))
    return {fitted.task.key: fitted for batch in engine.run() for fitted in batch}


@pytest.mark.parametrize("settings", [{"growth": 0}, {"growth": 4, "max_steps": 8}])
def test_static_rows_take_the_steps_of_ragged_ones(
    settings: dict[str, Any], tiny_lm: Any, tiny_settings: Callable[..., PackSettings]
) -> None:
    chosen = tiny_settings(**{"max_steps": 4, "max_corrections": 0.0} | settings)
    ragged, static = (fit(tiny_lm, chosen, kind) for kind in (False, True))
    assert sorted(static) == sorted(ragged) == list(range(12))
    for key, one in ragged.items():
        assert (static[key].cost.steps, static[key].vectors.shape) == (one.cost.steps, one.vectors.shape)
        np.testing.assert_allclose(static[key].vectors, one.vectors, atol=0.02)
        assert abs(static[key].corrections - one.corrections) <= 1


def test_static_rows_that_are_fitted_decode(tiny_lm: Any, tiny_settings: Callable[..., PackSettings]) -> None:
    words = "It is a truth universally acknowledged, that a single man in possession of a good fortune must want."
    ids = tiny_lm.encode(words)
    settings = tiny_settings(max_steps=300)
    engine = FitEngine(tiny_lm, settings, StaticBatch(tiny_lm, settings))
    engine.add([Task(k, tuple(ids[k : k + 16]), 4 + k % 2) for k in range(4)])
    done = [fitted for batch in engine.run() for fitted in batch]
    proofs = certify(tiny_lm, [f.vectors for f in done], [f.task.ids for f in done], settings.margin)
    assert all(len(proof.corrections) <= settings.allowed(16) for proof in proofs)
    anchor = tiny_lm.anchor.half().numpy()
    assert all(np.array_equal(f.vectors[:1], anchor) for f in done)


TEXTS = [(20, 1), (21, 3), (22, 2)]  # tokens and vectors of three slots


def filled(lm: Any, settings: PackSettings) -> StaticBatch:
    """Three slots that took two steps, in as little room as there can be."""
    batch = StaticBatch(lm, settings)
    batch.reserve(TEXTS)
    assert batch.shape == (3, 24, 3)
    for k, m in enumerate((1, 3, 2)):
        batch.add(tuple(range(10, 30 + k)), torch.full((m, lm.width), 0.1 * (k + 1)), fixed=0)
    for _ in range(2):
        batch.step([20, 21, 22])
    return batch


def states(batch: StaticBatch, slot: int, m: int) -> list[Any]:
    """Everything that a slot's next step depends on, and its best."""
    row, vectors = batch._rows[slot], batch.shape[2]
    own = slice(row * vectors, row * vectors + m)
    kept = [getattr(batch._adam, name)[own] for name in batch._adam.STATES]
    best = batch._best[row, :m], batch._fewest[row], batch._measured[row]
    return [t.clone() for t in (*kept, *best, batch._base[row, m : m + 19])]


@pytest.mark.parametrize(
    ("more", "shape"),
    [([(5, 1)] * 6, (10, 24, 3)), ([(60, 1)], (4, 64, 3)), ([(5, 7)], (4, 24, 7)), ([(40, 5)] * 9, (12, 48, 5))],
)
def test_room_that_comes_and_goes_changes_no_slot(
    more: list[tuple[int, int]],
    shape: tuple[int, int, int],
    tiny_lm: Any,
    tiny_settings: Callable[..., PackSettings],
) -> None:
    batch = filled(tiny_lm, tiny_settings())
    before = [states(batch, slot, m) for slot, m in enumerate((1, 3, 2))]
    batch.reserve(TEXTS + more)
    assert batch.shape == shape and batch.room(len(TEXTS + more), shape[1]) == shape[0] * shape[1]
    for back in (TEXTS + more, TEXTS) if shape[0] > 5 else (TEXTS + more,):
        batch.reserve(back)
    assert batch.shape == ((3, 24, 3) if shape[0] > 5 else shape)  # a little less room is not given back
    after = [states(batch, slot, m) for slot, m in enumerate((1, 3, 2))]
    for old, new in zip(before, after, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(old, new, strict=True))
    untouched = filled(tiny_lm, tiny_settings())
    assert batch.step([20, 21, 22]) == untouched.step([20, 21, 22])
    for slot, m in enumerate((1, 3, 2)):
        torch.testing.assert_close(states(batch, slot, m)[0], states(untouched, slot, m)[0], atol=1e-3, rtol=1e-3)


def test_slots_that_are_over_leave_room_and_others_stay(
    tiny_lm: Any, tiny_settings: Callable[..., PackSettings]
) -> None:
    batch = filled(tiny_lm, tiny_settings())
    kept, best = states(batch, 1, 3), batch._best[batch._rows[2], :2].clone()
    (first, _), (last, score) = batch.take([True, False, True])
    assert first.shape == (1, tiny_lm.width) and np.array_equal(last, best.numpy()) and 0 < score.thin <= 22
    batch.reserve([TEXTS[1], (10, 2)])
    batch.add(tuple(range(50, 60)), torch.ones(2, tiny_lm.width), fixed=1)
    assert all(torch.equal(a, b) for a, b in zip(kept, states(batch, 0, 3), strict=True))
    batch.step([21, 10])
    assert len(batch.lengths) == 2
    new = states(batch, 1, 2)[0]
    assert torch.equal(new[0], torch.ones(tiny_lm.width)) and not torch.equal(new[1], new[0])  # only one of them moves
    batch.take([False, True])
    batch.reserve([TEXTS[1]])
    assert batch.shape[0] == 1  # given back
    assert batch._count[0] == 3


def test_room_comes_by_the_eighth() -> None:
    assert [roomy(n) for n in (1, 2, 3, 5, 7, 9, 17, 100, 437, 512)] == [1, 2, 3, 5, 7, 10, 20, 112, 448, 512]
    assert all(n <= roomy(n) <= 1.25 * n for n in range(1, 3000))


def stand_in(calls: list[str], fails: bool) -> Callable[..., Any]:
    """torch.compile, by which every compiled function notes that it was called."""

    def compiled(function: Any, dynamic: bool) -> Any:
        assert dynamic

        def called(*args: Any, **named: Any) -> Any:
            calls.append(function.__name__)
            if fails:
                raise RuntimeError("no compiler")
            return function(*args, **named)

        return called

    return compiled


@pytest.mark.parametrize("fails", [False, True])
def test_what_has_run_for_long_is_compiled_or_goes_on_as_before(
    fails: bool, tiny_lm: Any, tiny_settings: Callable[..., PackSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    monkeypatch.setattr(torch, "compile", stand_in(calls, fails))
    layers = tiny_lm.model.base_model.layers
    plain = fit(tiny_lm, tiny_settings(max_steps=4), static=True)
    monkeypatch.setattr(tiny_lm, "fused", Fused(tiny_lm.model.base_model, on=True))
    assert not calls
    tiny_lm.fused.ran(PAYS_AFTER - 150)  # within the first step
    with pytest.warns(UserWarning, match="torch.compile failed.*no compiler") if fails else contextlib.nullcontext():
        again = fit(tiny_lm, tiny_settings(max_steps=4), static=True)
    assert calls.count("forward") >= len(layers) if not fails else calls == ["forward"]
    assert ("weigh" in calls) is not fails and tiny_lm.fused.ready is not fails
    for key, one in plain.items():
        np.testing.assert_allclose(again[key].vectors, one.vectors, atol=0.02)
    calls.clear()
    tiny_lm.hidden(torch.zeros(1, 4, tiny_lm.width))  # outside of a fit's step
    assert not calls and not any("forward" in vars(layer) for layer in layers)


def out_of_memory(self: StaticBatch, capturing: bool = False) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def compiled_out_of_memory(self: StaticBatch, capturing: bool = False) -> None:
    raise BackendCompilerFailed("inductor", torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), None)


def mistaken(self: StaticBatch, capturing: bool = False) -> None:
    raise RuntimeError("mat1 and mat2 shapes cannot be multiplied (3x4 and 5x6)")


@pytest.mark.parametrize(
    ("step", "expected", "on"),
    [
        (out_of_memory, "CUDA out of memory", True),
        (compiled_out_of_memory, "CUDA out of memory", True),
        (mistaken, "cannot be multiplied", False),
    ],
)
def test_a_step_that_fails_compiled_and_not_compiled_raises(
    step: Any,
    expected: str,
    on: bool,
    tiny_lm: Any,
    tiny_settings: Callable[..., PackSettings],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Out of memory is never taken for a compiler that fails, and neither is a mistake in the step."""
    monkeypatch.setattr(torch, "compile", stand_in([], False))
    monkeypatch.setattr(tiny_lm, "fused", Fused(tiny_lm.model.base_model, on=True))
    tiny_lm.fused.ran(PAYS_AFTER)
    monkeypatch.setattr(StaticBatch, "_compute", step)
    with pytest.raises(RuntimeError, match=expected), contextlib.nullcontext() if on else pytest.warns(UserWarning):
        fit(tiny_lm, tiny_settings(max_steps=4), static=True)
    assert tiny_lm.fused.ready is on


def test_on_a_cpu_rows_are_ragged_and_nothing_is_compiled(
    tiny_lm: Any, tiny_settings: Callable[..., PackSettings]
) -> None:
    assert isinstance(FitEngine(tiny_lm, tiny_settings()).batch, RaggedBatch)
    tiny_lm.fused.ran(PAYS_AFTER * 10)
    assert not tiny_lm.fused.ready and tiny_lm.fused.weigh is None


class Recorded:
    """A CUDA graph on a CPU: nothing runs while it is captured, all of it when it is replayed."""

    capturing = False
    made: list[Recorded]

    def __init__(self) -> None:
        self.replays = 0
        self.batch: Any = None
        Recorded.made.append(self)

    def replay(self) -> None:
        self.replays += 1
        self.batch._compute()


def capture(lm: Any, compute: Callable[[], None]) -> Recorded:
    """`captured`, for such graphs."""
    graph = Recorded()
    Recorded.capturing = True
    compute()
    Recorded.capturing = False
    return graph


def refused(lm: Any, compute: Callable[[], None]) -> None:
    """The same, where something in a step may not be captured."""
    lm.graphs = False


@pytest.mark.parametrize("way", [capture, refused])
def test_steps_after_a_shapes_first_are_its_graph_if_there_can_be_one(
    way: Any, tiny_lm: Any, tiny_settings: Callable[..., PackSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, compute = tiny_settings(max_steps=6, max_corrections=0.0), StaticBatch._compute
    plain = fit(tiny_lm, settings, static=True)
    Recorded.made = []
    monkeypatch.setattr("memvec.training.static_batch.captured", way)
    monkeypatch.setattr(tiny_lm, "graphs", True)
    steps: list[int] = []

    def computed(batch: StaticBatch, capturing: bool = False) -> None:
        assert capturing is Recorded.capturing
        if capturing:
            Recorded.made[-1].batch = batch
        else:
            steps.append(batch.shape[0])
            compute(batch)

    monkeypatch.setattr(StaticBatch, "_compute", computed)
    engine = FitEngine(tiny_lm, settings, batch := StaticBatch(tiny_lm, settings))
    engine.most, engine.ahead = 5, 3
    engine.add(tasks(12))
    done = {fitted.task.key: fitted for some in engine.run() for fitted in some}
    for key, one in plain.items():
        assert done[key].cost.steps == one.cost.steps
        np.testing.assert_array_equal(done[key].vectors, one.vectors)
    if way is refused:
        assert not tiny_lm.graphs and not Recorded.made and batch._graph is None
    else:
        replays = sum(graph.replays for graph in Recorded.made)
        assert len(Recorded.made) > 1  # one for each shape
        assert len(steps) - replays == len(Recorded.made) and replays > len(steps) / 2


def test_a_batch_takes_no_more_positions_than_it_may(tiny_lm: Any, tiny_settings: Callable[..., PackSettings]) -> None:
    settings = tiny_settings(max_steps=2, growth=0)
    engine = FitEngine(tiny_lm, settings, batch := StaticBatch(tiny_lm, settings))
    engine.positions, engine.most = 200, 100
    engine.add([*(Task(k, tuple(range(10, 20 + k % 5)), 3) for k in range(40)), Task(40, tuple(range(10, 90)), 3)])
    shapes, step = [], batch.step

    def noted(shown: Any) -> Any:
        shapes.append((*batch.shape[:2], len(shown)))
        return step(shown)

    batch.step = noted  # type: ignore[method-assign]
    assert sum(len(done) for done in engine.run()) == 41
    assert all(rows * length <= 200 for rows, length, _ in shapes)
    assert max(slots for *_, slots in shapes) >= 8  # the longest, far behind, makes no other row longer


@pytest.mark.parametrize("family", ["mistral", "gemma3", "gpt2", "opt"])
def test_families_take_the_same_steps_in_static_rows(
    family: str, tmp_path: Path, tiny_settings: Callable[..., PackSettings]
) -> None:
    lm = load(make(family, tmp_path))
    chosen = tiny_settings(max_steps=3, max_corrections=0.0, growth=0)
    ragged, static = (fit(lm, chosen, kind, count=4) for kind in (False, True))
    for key, one in ragged.items():
        np.testing.assert_allclose(static[key].vectors, one.vectors, atol=0.02)
