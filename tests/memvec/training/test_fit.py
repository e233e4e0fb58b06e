"""The fit engine: it finds vectors that decode, alone or in company, whatever M, and leaves the model as it was."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from memvec.decoding.greedy import certify, decode
from memvec.lm.load import load
from memvec.settings import PackSettings
from memvec.training.adam import SlotAdam
from memvec.training.batch import RaggedBatch, Score
from memvec.training.fit import FitEngine, Task, bytes_of_position, positions_for
from memvec.training.starts import TRIED, look_cost
from memvec.training.static_batch import StaticBatch

TEXTS = (
    "It is a truth universally acknowledged, that a single man",
    "Mr. Bennet was so odd a mixture of quick parts",
    "in possession of a good fortune, must be in want of a wife.",
    "She was a woman of mean understanding, little information, and uncertain temper.",
)


def fit(lm: Any, settings: PackSettings, tasks: list[Task]) -> dict[int, Any]:
    engine = FitEngine(lm, settings)
    engine.add(tasks)
    return {fitted.task.key: fitted for batch in engine.run() for fitted in batch}


def tasks(lm: Any, vectors: int = 5) -> list[Task]:
    return [Task(key, tuple(lm.encode(text)[:24]), vectors) for key, text in enumerate(TEXTS)]


def widths_of(engine: FitEngine) -> list[int]:
    """The token positions of every step that the engine will take."""
    widths: list[int] = []
    step = engine._step

    def noted() -> list[bool]:
        done = step()
        widths.append(sum(engine.batch.lengths))
        return done

    engine._step = noted  # type: ignore[method-assign]
    return widths


def test_fitted_vectors_decode_to_their_text(tiny_lm: Any, tiny_settings: Callable[..., PackSettings]) -> None:
    done = fit(tiny_lm, tiny_settings(), tasks(tiny_lm, 6))
    assert sorted(done) == [0, 1, 2, 3]
    ids = [done[k].task.ids for k in range(4)]
    vectors = [done[k].vectors for k in range(4)]
    assert all(v.dtype == np.float16 and v.shape == (6, tiny_lm.width) for v in vectors)
    proofs = certify(tiny_lm, vectors, ids, 0.1)
    assert sum(len(p.corrections) for p in proofs) <= 4
    assert decode(tiny_lm, vectors, [len(x) for x in ids], [p.corrections for p in proofs]) == [list(x) for x in ids]
    without = decode(tiny_lm, [np.zeros_like(v) for v in vectors], [len(x) for x in ids], [()] * 4)
    right = sum(a == b for x, y in zip(without, ids, strict=True) for a, b in zip(x, y, strict=True))
    assert right < 0.3 * sum(map(len, ids))  # it is the vectors that hold the text


@pytest.mark.parametrize("geometric", [False, True])
def test_rates_warm_up_and_cool_by_the_age_of_each_slot(
    geometric: bool, tiny_lm: Any, tiny_settings: Callable[..., PackSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    rates: list[list[float]] = []
    decays: set[float] = set()

    def noted(adam: SlotAdam, gradient: Any, rate: Any, weight_decay: float) -> None:
        rates.append(rate[:, 0].tolist())
        decays.add(weight_decay)

    monkeypatch.setattr(SlotAdam, "descend", noted)
    settings = tiny_settings(
        learning_rate=2.0, warmup=4, cooling=10, last_rate=0.5, geometric=geometric, weight_decay=0.03, max_steps=13,
        margin=100.0,
    )  # fmt: skip
    fit(tiny_lm, settings, [Task(0, tuple(tiny_lm.encode(TEXTS[0])[:24]), 3)])
    ways = [min(1, age / 10) for age in range(1, 14)]
    cooled = [0.5**way if geometric else 1 - 0.5 * way for way in ways]
    want = [2.0 * min(1, age / 4) * share for age, share in enumerate(cooled, 1)]
    assert rates == [pytest.approx([rate] * 3) for rate in want]
    assert decays == {0.03}


def test_slots_retire_and_refill(tiny_lm: Any, tiny_settings: Callable[..., PackSettings]) -> None:
    many = [Task(key, tuple(tiny_lm.encode(TEXTS[key % 4])[: 8 + key]), 1 + key % 6) for key in range(12)]
    settings = tiny_settings(
        max_steps=60, memory=next(m for m in range(10**5, 10**8, 10**4) if positions_for(tiny_lm, m) >= 75)
    )
    engine = FitEngine(tiny_lm, settings)
    engine.add(many)
    busiest, seen, widths = 0, [], widths_of(engine)
    for batch in engine.run():
        busiest = max(busiest, len(engine.slots) + len(batch))
        seen += batch
    assert sorted(f.task.key for f in seen) == list(range(12))
    assert 3 <= busiest < 12
    assert max(widths) <= 75  # the memory limit bounds every batch, whatever its rows
    assert all(f.vectors.shape[0] == f.task.vectors and 1 <= f.cost.steps <= 60 for f in seen)


@pytest.mark.parametrize(("count", "steps"), [(1, 1), (2, 21), (3, 40)])
def test_after_some_patience_the_whole_cap_of_corrections_is_enough(
    count: int, steps: int, tiny_lm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = PackSettings(max_corrections=0.05, patience=20, max_steps=40, growth=0)  # of 40 tokens 1, then 2
    monkeypatch.setattr(RaggedBatch, "_counts", lambda *_: torch.tensor([[0.0, count]]))
    (fitted,) = fit(tiny_lm, settings, [Task(0, tuple(range(10, 50)), 3)]).values()
    assert (fitted.cost.steps, fitted.corrections) == (steps, count)


def test_a_row_larger_than_the_limit_is_fitted_alone(
    tiny: str, tiny_lm: Any, tiny_settings: Callable[..., PackSettings]
) -> None:
    engine = FitEngine(load(Path(tiny)), tiny_settings(memory=1, max_steps=3, max_corrections=0.0))
    engine.add(tasks(tiny_lm))
    widths = widths_of(engine)
    assert sum(len(batch) for batch in engine.run()) == len(TEXTS)
    assert max(widths) == max(len(t.ids) + t.vectors - 1 for t in tasks(tiny_lm))


def test_company_does_not_change_a_fit(tiny_lm: Any, tiny_settings: Callable[..., PackSettings]) -> None:
    settings = tiny_settings(max_steps=3)  # before rounding differences between batch shapes can grow
    alone = fit(tiny_lm, settings, tasks(tiny_lm)[:1])[0]
    together = fit(tiny_lm, settings, tasks(tiny_lm))[0]
    np.testing.assert_allclose(alone.vectors, together.vectors, atol=0.02)


def test_one_seed_one_result(tiny_lm: Any, tiny_settings: Callable[..., PackSettings]) -> None:
    first, again, other = (fit(tiny_lm, tiny_settings(seed=s, max_steps=20), tasks(tiny_lm)) for s in (1, 1, 2))
    for key in first:
        assert first[key].vectors.tobytes() == again[key].vectors.tobytes()
        assert first[key].vectors.tobytes() != other[key].vectors.tobytes()


def test_steps_and_token_steps_are_counted(tiny_lm: Any, tiny_settings: Callable[..., PackSettings]) -> None:
    counted = []
    engine = FitEngine(tiny_lm, tiny_settings(max_steps=5, growth=0, max_corrections=0.0))
    pair = [Task(0, tuple(range(10, 30)), 2), Task(1, tuple(range(10, 18)), 3)]
    engine.add(pair)
    done = [fitted for batch in engine.run(counted.append) for fitted in batch]
    length = 2 + 20 - 1  # the longer row; the shorter is padded to it
    assert [f.cost.steps for f in done] == [5, 5]
    looks = look_cost(8, 2) + look_cost(8, 3)  # at the first 8 tokens of either
    assert looks == TRIED * (2 + 8 - 1) // 3 + TRIED * (3 + 8 - 1) // 3
    assert sum(counted) == sum(f.cost.token_steps for f in done) == 5 * 2 * length + looks


def test_a_fit_begins_with_a_part_of_its_text_and_ends_with_the_whole(
    tiny_lm: Any, tiny_settings: Callable[..., PackSettings]
) -> None:
    engine = FitEngine(tiny_lm, tiny_settings(max_steps=16, max_corrections=0.0, margin=50.0))
    counted = widths_of(engine)
    engine.add([Task(0, tuple(range(10, 50)), 3)])
    (fitted,) = (one for batch in engine.run() for one in batch)
    assert counted[:8] == [3 + 12 - 1] * 4 + [3 + 26 - 1] * 4  # .3 of 40 tokens, then .65
    assert set(counted[8:]) == {3 + 40 - 1} and len(counted) == fitted.cost.steps == 16
    assert fitted.corrections == 40  # as measured on the whole text, of which nothing has such a margin
    going_on = FitEngine(tiny_lm, tiny_settings(max_steps=16, max_corrections=0.0, margin=50.0))
    going_on.add([Task(0, tuple(range(10, 50)), 3, start=torch.zeros(3, tiny_lm.width))])
    counted = []
    assert [len(batch) for batch in going_on.run(counted.append)] and set(counted) == {3 + 40 - 1}


@pytest.mark.parametrize(
    ("hurry", "seen"),
    [(0.8, [12, 22, 32, 40, 40]), (0.0, [12, 13, 13, 13, 13]), (0.5, [12, 13, 13, 13, 13])],
)
def test_a_fit_sees_more_of_its_text_as_soon_as_it_has_learnt_some(
    hurry: float, seen: list[int], tiny_lm: Any, tiny_settings: Callable[..., PackSettings]
) -> None:
    """Every four steps a quarter more, where three of five tokens are wrong. Without that it would see all after 500."""
    engine = FitEngine(tiny_lm, tiny_settings(max_steps=1000, growth=500, hurry=hurry))
    asked, take = list[int](), engine.batch.step

    def step(shown: Any) -> list[Score]:
        asked.extend(shown)
        take(shown)
        if len(asked) == 20:
            raise KeyboardInterrupt
        return [Score(wrong=shown[0] * 3 // 5, thin=shown[0], whole=shown[0] == 40)]

    engine.batch.step = step  # type: ignore[method-assign]
    engine.add([Task(0, tuple(range(10, 50)), 3)])
    with pytest.raises(KeyboardInterrupt):
        list(engine.run())
    assert asked[::4] == seen and asked[:4] == [12] * 4


def test_vectors_stand_behind_the_anchor(
    tiny_lm: Any, tiny_settings: Callable[..., PackSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = tuple(range(10, 50))
    pair = [Task(0, ids, 3), Task(1, ids, 1), Task(2, ids, 3)]
    anchor = tiny_lm.embed(torch.tensor(tiny_lm.tokenizer.eos_token_id)).half().numpy()
    hard = {"max_steps": 200, "max_corrections": 0.0, "margin": 50.0}
    done = fit(tiny_lm, tiny_settings(**hard), pair)
    without = fit(tiny_lm, tiny_settings(**hard, anchor=False), pair)
    for key in (0, 2):
        assert np.array_equal(done[key].vectors[0], anchor)
        assert not (done[key].vectors[1:] == anchor).all(axis=1).any()
        assert not np.array_equal(without[key].vectors[0], anchor)
    assert not np.array_equal(done[1].vectors[0], anchor)  # the only one there is has to carry the text
    monkeypatch.setattr(tiny_lm, "anchor", tiny_lm.anchor[:0])  # a model with neither BOS nor EOS
    assert not np.array_equal(fit(tiny_lm, tiny_settings(max_steps=9), pair)[0].vectors[0], anchor)


def test_the_model_stays_frozen(tiny_lm: Any, tiny_settings: Callable[..., PackSettings]) -> None:
    def digest() -> str:
        state = tiny_lm.model.state_dict()
        return hashlib.sha256(b"".join(state[name].numpy().tobytes() for name in sorted(state))).hexdigest()

    before = digest()
    fit(tiny_lm, tiny_settings(max_steps=10), tasks(tiny_lm))
    assert digest() == before
    assert not tiny_lm.model.training
    assert all(p.grad is None and not p.requires_grad for p in tiny_lm.model.parameters())


def test_strict_fits_go_on_until_nothing_is_wrong(tiny_lm: Any, tiny_settings: Callable[..., PackSettings]) -> None:
    loose = fit(tiny_lm, tiny_settings(max_corrections=0.4), tasks(tiny_lm, 6))
    strict = fit(tiny_lm, tiny_settings(max_corrections=0.4, strict=True), tasks(tiny_lm, 6))
    assert all(strict[k].cost.steps >= loose[k].cost.steps for k in strict)
    proofs = certify(tiny_lm, [strict[k].vectors for k in range(4)], [strict[k].task.ids for k in range(4)], 0.1)
    assert sum(p.wrong for p in proofs) == 0
    loose_proofs = certify(tiny_lm, [loose[k].vectors for k in range(4)], [loose[k].task.ids for k in range(4)], 0.1)
    assert sum(p.wrong for p in loose_proofs) > 0


@pytest.mark.parametrize("kind", [RaggedBatch, StaticBatch])
def test_a_row_that_takes_too_much_memory(
    kind: Any, tiny: str, tiny_lm: Any, tiny_settings: Callable[..., PackSettings]
) -> None:
    """Its activations are computed again, and its vectors are the same."""
    lm = load(Path(tiny))
    some, stored = tasks(tiny_lm)[:1], bytes_of_position(tiny_lm)

    def fitted(lm: Any, memory: int) -> tuple[FitEngine, bytes]:
        settings = tiny_settings(max_steps=30, memory=memory)
        engine = FitEngine(lm, settings, kind(lm, settings))
        engine.add(some)
        ((one,),) = engine.run()
        return engine, one.vectors.tobytes()

    whole, expected = fitted(tiny_lm, 100 * stored)
    assert not tiny_lm.recomputes and whole.positions == 100
    assert fitted(lm, 100 * stored)[1] == expected and not lm.recomputes
    small, found = fitted(lm, 10 * stored)
    assert found == expected and lm.recomputes
    assert bytes_of_position(lm) < stored / 2 and small.positions == positions_for(lm, 10 * stored) > 20
