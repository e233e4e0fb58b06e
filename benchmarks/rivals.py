"""The published recipes for fitting [mem] vectors, written from the papers' descriptions, to run beside memvec's.

- `full`: Kuratov et al., ACL 2025. AdamW at a constant 0.01, betas (.9, .9), weight decay .01, at most 5,000 steps. It ends
  after 2,000 steps without a better accuracy. The first token is given, not predicted.
- `progressive`: Tarasov et al., ICML 2026. The vectors fit a prefix until every token of it is right, then the prefix grows
  by Δ. Moments are kept. A warm-up of 100 steps and a cosine down to 0.001 over 10,000, at most 1,000 steps a stage. The pass
  that shows a prefix to be right takes no step. It counts a third of its positions, as it runs forward only.

Both keep the vectors that they measured. The first paper's code keeps those of one step later, which is worse. Several texts
share a pass here, each with its own state and end, so that counting steps is quick. `alone` times a step as the papers' code
runs it, one text at a time. Letters: B texts, M vectors, D width, N tokens, L positions.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from memvec.lm.frozen import FrozenLM
from memvec.lm.head import head_pass
from memvec.training.adam import BETA, SlotAdam
from memvec.training.starts import TRIES_A_STEP

WEIGHT_DECAY = 0.01
MOST_STEPS, PATIENCE = 5000, 2000
FULL_RATE = 0.01
STAGE_STEPS, WARMUP, CYCLE, LEAST_RATE = 1000, 100, 10_000, 0.001


@dataclass(frozen=True, slots=True)
class Recipe:
    """A published recipe. It is progressive if its prefix grows."""

    name: str
    rate: float
    grow: int = 0  # tokens a stage; 0: the whole text at once, its first token given
    most: int = MOST_STEPS  # steps of a text, a budget

    def rate_at(self, step: int) -> float:
        """The learning rate of a step, counted from 1."""
        if not self.grow:
            return self.rate
        if step <= WARMUP:
            return self.rate * step / WARMUP
        along = min(1.0, (step - WARMUP) / (CYCLE - WARMUP))
        return LEAST_RATE + (self.rate - LEAST_RATE) * (1 + math.cos(math.pi * along)) / 2


@dataclass(slots=True)
class Run:
    """The state of one text."""

    ids: tuple[int, ...]
    prefix: int  # tokens asked for now
    vectors: Tensor  # (M, D) float32, the best there were
    steps: int = 0
    token_steps: int = 0
    best: float = -1.0  # accuracy, or tokens of the longest prefix that was whole
    since: int = 0  # steps since it was best, or since this stage began
    solved: bool = False
    over: bool = field(default=False)


def fit(lm: FrozenLM, texts: Sequence[tuple[int, ...]], vectors: int, recipe: Recipe, seed: int = 0) -> list[Run]:
    """Fit every text with M = `vectors` by a recipe, until it ends or its steps are used up."""
    runs, adam = [], SlotAdam(lm.width, lm.device)
    for number, ids in enumerate(texts):
        chance = torch.Generator().manual_seed(seed * 1000 + number)
        if recipe.grow:
            first = torch.rand(vectors, lm.width, generator=chance) * 0.02
        else:
            first = torch.randn(vectors, lm.width, generator=chance) * lm.table.float().std().cpu()
        adam.extend(first.to(lm.device))
        runs.append(Run(ids, min(recipe.grow, len(ids)) or len(ids), first))
    going = list(runs)
    while going:
        trained = adam.vectors.view(len(going), vectors, -1)
        gradient = _step(lm, going, trained, recipe)
        _descend(adam, gradient, going, vectors, recipe)
        adam.keep(torch.tensor([not run.over for run in going for _ in range(vectors)], device=lm.device))
        going = [run for run in going if not run.over]
    return runs


def _descend(adam: SlotAdam, gradient: Tensor, runs: Sequence[Run], vectors: int, recipe: Recipe) -> None:
    """Take a step for every text, except those whose stage ended in this pass."""
    steps = torch.tensor([not recipe.grow or run.since > 0 for run in runs for _ in range(vectors)])
    moved, before = steps[:, None].to(gradient.device), (adam.vectors, adam.first, adam.second)
    adam.age = adam.age + moved.float()
    adam.vectors, adam.first, adam.second = (kept.clone() for kept in before)
    rates = adam.vectors.new_tensor([recipe.rate_at(run.steps) for run in runs for _ in range(vectors)])
    adam.descend(gradient, rates[:, None], WEIGHT_DECAY)
    after = (adam.vectors, adam.first, adam.second)
    adam.vectors, adam.first, adam.second = (torch.where(moved, a, b) for a, b in zip(after, before, strict=True))


def _step(lm: FrozenLM, runs: Sequence[Run], trained: Tensor, recipe: Recipe) -> Tensor:
    """Measure vectors (B, M, D) in one pass, note the results of each run, and return the gradient (B·M, D)."""
    count, given = trained.shape[1], 0 if recipe.grow else 1
    length = count + max(run.prefix for run in runs) - 1
    vectors = trained.to(lm.dtype).detach().requires_grad_(True)
    rows = torch.zeros(len(runs), length - count, dtype=torch.long)
    for row, run in zip(rows, runs, strict=True):
        row[: run.prefix - 1] = torch.tensor(run.ids[: run.prefix - 1])
    hidden = lm.hidden(torch.cat([vectors, lm.embed(rows.to(lm.device))], dim=1))
    places = [slice(count - 1 + given, count - 1 + run.prefix) for run in runs]
    states = torch.cat([hidden[b, place] for b, place in enumerate(places)])
    targets = torch.tensor([token for run in runs for token in run.ids[given : run.prefix]], device=lm.device)
    passed = head_pass(states.detach(), lm.head, targets)
    sizes = [run.prefix - given for run in runs]
    weights = torch.tensor([1 / size for size in sizes for _ in range(size)], device=lm.device)  # a mean, as published
    (gradient,) = torch.autograd.grad(states, vectors, passed.gradient * weights[:, None].to(states.dtype))
    for b, (run, margin) in enumerate(zip(runs, torch.split(passed.margin, sizes), strict=True)):
        right = float((margin > 0).float().mean())
        shown, positions = right == 1.0 and recipe.grow > 0, count + run.prefix - 1
        run.steps, run.since = run.steps + (not shown), run.since + 1
        run.token_steps += positions // TRIES_A_STEP if shown else positions
        (_grown if recipe.grow else _whole)(run, right, trained[b], recipe)
    return gradient.float().flatten(0, 1)


def _whole(run: Run, right: float, vectors: Tensor, recipe: Recipe) -> None:
    if right > run.best:
        run.best, run.vectors, run.since = right, vectors.detach().clone(), 0
    run.solved = right == 1.0
    run.over = run.solved or run.since >= PATIENCE or run.steps >= recipe.most


def _grown(run: Run, right: float, vectors: Tensor, recipe: Recipe) -> None:
    if right == 1.0:
        run.best, run.vectors, run.since = run.prefix, vectors.detach().clone(), 0
        run.solved = run.prefix == len(run.ids)
        run.prefix = min(run.prefix + recipe.grow, len(run.ids))
    run.over = run.solved or run.since >= STAGE_STEPS or run.steps >= recipe.most


def alone(lm: FrozenLM, ids: tuple[int, ...], vectors: int, steps: int) -> list[float]:
    """Seconds of some steps on one text as published code takes them: whole logits, autograd, torch's AdamW."""
    memory = torch.nn.Parameter(torch.randn(1, vectors, lm.width, device=lm.device))
    optimiser = torch.optim.AdamW([memory], lr=FULL_RATE, betas=(BETA, BETA), weight_decay=WEIGHT_DECAY)
    text = lm.embed(torch.tensor([ids], device=lm.device))
    target = torch.tensor(ids, device=lm.device)
    out = []
    for _ in range(steps):
        begun = time.perf_counter()
        logits = lm.model(inputs_embeds=torch.cat([memory.to(lm.dtype), text], dim=1)).logits[0, vectors:-1].float()
        loss = torch.nn.functional.cross_entropy(logits, target[1:])
        loss.backward()  # type: ignore[no-untyped-call]
        float((logits.argmax(1) == target[1:]).float().mean())  # it looks at the accuracy of every step
        optimiser.step()
        optimiser.zero_grad()
        out.append(time.perf_counter() - begun)
    return out
