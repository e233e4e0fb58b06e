"""benchmarks/rivals.py takes the steps that torch's own AdamW takes on one text alone."""

from __future__ import annotations

import math
from typing import Any

import pytest
import rivals
import torch
from rivals import Recipe, fit

FULL = Recipe("full", 0.5, most=25)
PROGRESSIVE = Recipe("progressive", 0.5, grow=2, most=200)
TEXTS = ("It is a truth universally acknowledged", "Mr. Bennet was so odd a mixture of quick parts")


def by_hand(lm: Any, ids: tuple[int, ...], vectors: torch.Tensor, recipe: Recipe) -> tuple[int, int, bool]:
    """(steps, best prefix or right tokens, solved) of one text, written from the papers' descriptions with autograd."""
    memory = torch.nn.Parameter(vectors.clone())
    optimiser = torch.optim.AdamW([memory], lr=recipe.rate, betas=(0.9, 0.9), weight_decay=0.01)
    given = 0 if recipe.grow else 1
    prefix, best, taken, text = recipe.grow or len(ids), -1.0, 0, torch.tensor(ids)
    for step in range(1, recipe.most + 1):
        while True:
            embeds = torch.cat([memory, lm.embed(text[: prefix - 1])])[None]
            logits = lm.model(inputs_embeds=embeds).logits[0, len(memory) - 1 + given :]
            right = (logits.argmax(1) == text[given:prefix]).float().mean()
            if not recipe.grow:
                best = max(best, float(right))
            if right < 1 or not recipe.grow:
                break
            best = prefix
            if prefix == len(ids):
                return taken, prefix, True
            prefix = min(prefix + recipe.grow, len(ids))
        if not recipe.grow and right == 1:
            return taken, len(ids), True
        for group in optimiser.param_groups:
            group["lr"] = recipe.rate_at(taken + 1)
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(logits, text[given:prefix]).backward()
        optimiser.step()
        taken = step
    return taken, round(best * (len(ids) - 1)) if not recipe.grow else int(best), False


def test_full(tiny_lm: Any) -> None:
    texts = [tuple(tiny_lm.encode(text)) for text in TEXTS]
    for number, (run, ids) in enumerate(zip(fit(tiny_lm, texts, 4, FULL), texts, strict=True)):
        noise = torch.randn(4, tiny_lm.width, generator=torch.Generator().manual_seed(number))
        steps, right, solved = by_hand(tiny_lm, ids, noise * tiny_lm.table.std(), FULL)
        assert run.solved == solved
        assert round(run.best * (len(ids) - 1)) == pytest.approx(right, abs=1)
        assert run.steps == pytest.approx(steps, abs=2)
        assert run.token_steps == run.steps * (4 + len(ids) - 1)


def test_progressive(tiny_lm: Any) -> None:
    texts = [tuple(tiny_lm.encode(text)) for text in TEXTS]
    runs = fit(tiny_lm, texts, 4, PROGRESSIVE)
    for number, (run, ids) in enumerate(zip(runs, texts, strict=True)):
        noise = torch.rand(4, tiny_lm.width, generator=torch.Generator().manual_seed(number)) * 0.02
        steps, prefix, solved = by_hand(tiny_lm, ids, noise, PROGRESSIVE)
        assert (run.best, run.solved) == (prefix, solved)
        assert run.steps == pytest.approx(steps, abs=2)
        assert prefix > 8 * PROGRESSIVE.grow  # most of them are of later stages
        assert run.token_steps < run.steps * (4 + prefix - 1) * 0.8


@pytest.mark.parametrize(("limit", "grow", "steps"), [("PATIENCE", 0, 1 + 6), ("STAGE_STEPS", 4, 6)])
def test_given_up(tiny_lm: Any, monkeypatch: pytest.MonkeyPatch, limit: str, grow: int, steps: int) -> None:
    monkeypatch.setattr(rivals, limit, 6)
    (run,) = fit(tiny_lm, [tuple(tiny_lm.encode(TEXTS[1]))], 2, Recipe("idle", 1e-9, grow, most=50))
    assert (run.steps, run.solved) == (steps, False)


def test_kept_vectors(tiny_lm: Any) -> None:
    ids = tuple(tiny_lm.encode(TEXTS[0]))
    (run,) = fit(tiny_lm, [ids], 8, Recipe("full", 0.5, most=400))
    assert run.solved and run.best == 1.0
    logits = tiny_lm.model(inputs_embeds=torch.cat([run.vectors, tiny_lm.embed(torch.tensor(ids))])[None]).logits
    assert logits[0, 8:-1].argmax(1).tolist() == list(ids[1:])  # the first token is given, all others come


def test_rates() -> None:
    assert [FULL.rate_at(step) for step in (1, 4000)] == [0.5, 0.5]
    wave = Recipe("progressive", 0.1, grow=1)
    assert wave.rate_at(50) == pytest.approx(0.05)
    assert wave.rate_at(100) == pytest.approx(0.1)
    assert wave.rate_at(5050) == pytest.approx(0.001 + 0.099 * (1 + math.cos(math.pi / 2)) / 2)
    assert wave.rate_at(20_000) == pytest.approx(0.001)
