"""Measure what fitting costs: memvec's recipe beside two published ones, on the same segments, model and dtype.

    python benchmarks/fit.py [--quick] [--part report|tune] [--texts N] [--vectors 8,4] [--json FILE]

Segments of 64 tokens are prose (a novel of 1813), technical (Python's own handbook) or code (the standard library). Settings
were chosen on those of `tune`, never on those of `report`. Every recipe gets the same number of vectors. All are judged alike:
vectors rounded to float16 are decoded free-running in float32, once to the first wrong token and once with corrections.
A recipe that does not finish counts with its whole budget. Steps are counted with several texts in a pass. The seconds of the
published recipes are their token-steps times the time of a step on one text alone, measured in turn with memvec's.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import rivals
import torch

from memvec.checkpoints.resolve import DEFAULT_MODEL, resolve
from memvec.cli.allocator import keep_memory
from memvec.decoding.greedy import certify, decode
from memvec.lm.device import fast_dtype, pick_device
from memvec.lm.frozen import FrozenLM
from memvec.lm.load import load
from memvec.settings import PackSettings
from memvec.training.fit import FitEngine, Task

HERE = Path(__file__).parent
TOKENS = 64
TOPICS = {"tune": "assignment", "report": "function"}
MODULES = {"tune": ("difflib", "calendar"), "report": ("shlex", "textwrap")}
NOVEL = {"tune": 40_000, "report": 130_000}  # characters into it
TIMED = 4  # steps of each recipe timed at a time
FULL, MEMVEC = "full (Kuratov et al. 2025)", "memvec"


@dataclass(frozen=True, slots=True)
class Text:
    """A segment to be fitted."""

    sort: str
    ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Result:
    """The result of a recipe on one text."""

    recipe: str
    sort: str
    vectors: int
    tokens: int
    steps: int
    token_steps: int
    seconds: float
    solved: bool  # by the recipe's own criterion
    corrected: int  # tokens that certifying has to correct
    free: int  # tokens before the first wrong one, decoded from the vectors alone
    free_behind_first: int  # the same with the first token given

    @property
    def exact(self) -> int:
        """Tokens that come from vectors, when the others are corrected."""
        return self.tokens - self.corrected


def texts(lm: FrozenLM, part: str, count: int) -> list[Text]:
    """`count` segments of each kind, each from another passage."""
    novel = (HERE.parent / "tests/tiny/corpus.txt").read_text(encoding="utf-8")[NOVEL[part] :]
    handbook = "\n".join(topics[name] for name in sorted(topics) if name >= TOPICS[part])
    code = "\n".join(inspect.getsource(importlib.import_module(name)) for name in MODULES[part])
    found = []
    for sort, whole in (("prose", novel), ("technical", handbook), ("code", code)):
        size = min(3_000, len(whole) // count)
        for number in range(count):
            passage = whole[number * size : (number + 1) * size]
            passage = passage[passage.index("\n") + 1 :]  # from a line's start
            found.append(Text(sort, tuple(lm.encode(passage)[:TOKENS])))
    return found


def recipes(budget: int | None, grow: int) -> list[rivals.Recipe]:
    """The published recipes, each with its budget of steps."""
    made = [rivals.Recipe(FULL, rivals.FULL_RATE)]
    made += [rivals.Recipe(f"progressive (Tarasov et al. 2026), rate {rate:g}", rate, grow) for rate in (0.1, 1.0)]
    return [replace(recipe, most=budget or recipe.most) for recipe in made]


def published(lm: FrozenLM, chosen: Sequence[Text], vectors: int, recipe: rivals.Recipe) -> Iterator[tuple[Text, Any]]:
    """(text, run) of a published recipe, batch by batch."""
    for begin in range(0, len(chosen), 12):
        lot = chosen[begin : begin + 12]
        yield from zip(lot, rivals.fit(lm, [text.ids for text in lot], vectors, recipe), strict=True)


def ours(lm: FrozenLM, chosen: Sequence[Text], vectors: int, settings: PackSettings) -> list[tuple[Text, Any]]:
    """(text, Fitted) by memvec's engine, all texts in its queue."""
    engine = FitEngine(lm, settings)
    engine.add(Task(number, text.ids, vectors) for number, text in enumerate(chosen))
    done = {fitted.task.key: fitted for batch in engine.run() for fitted in batch}
    return [(text, done[number]) for number, text in enumerate(chosen)]


def judge(exact: FrozenLM, rows: Sequence[tuple[Text, Any]], margin: float) -> list[tuple[int, int, int]]:
    """(corrected, free, free behind the first token) of (text, vectors (M, D) float16)."""
    vectors, ids = [made for _, made in rows], [text.ids for text, _ in rows]
    proofs = certify(exact, vectors, ids, margin)
    alone = decode(exact, vectors, [len(row) for row in ids], [()] * len(ids))
    behind = decode(exact, vectors, [len(row) for row in ids], [((0, row[0]),) for row in ids])
    return [
        (len(proof.corrections), _prefix(said, row), _prefix(then, row))
        for proof, said, then, row in zip(proofs, alone, behind, ids, strict=True)
    ]


def _prefix(said: Sequence[int], row: Sequence[int]) -> int:
    return next((at for at, (a, b) in enumerate(zip(said, row, strict=True)) if a != b), len(row))


def run(fast: FrozenLM, exact: FrozenLM, chosen: Sequence[Text], vectors: int, options: Any) -> Iterator[list[Result]]:
    """Fit every text with every recipe and M = `vectors`. Yields the results of a recipe when it is done."""
    settings = PackSettings(max_steps=options.most or PackSettings().max_steps * 5)

    def judged(name: str, made: Sequence[tuple[Text, Any, int, int, float, bool]], begun: float) -> list[Result]:
        _say(name, vectors, begun)
        found = judge(exact, [(text, half) for text, half, *_ in made], settings.margin)
        return [
            Result(name, text.sort, vectors, len(text.ids), *spent, *counts)
            for (text, _, *spent), counts in zip(made, found, strict=True)
        ]

    begun, made = time.perf_counter(), []
    for text, fitted in ours(fast, chosen, vectors, settings):
        task, cost = fitted.task, fitted.cost
        solved = fitted.corrections <= settings.enough(len(task.ids), cost.steps)
        made.append((text, fitted.vectors, cost.steps, cost.token_steps, cost.seconds, solved))
    yield judged(MEMVEC, made, begun)
    a_step = statistics.median(rivals.alone(fast, chosen[0].ids, vectors, TIMED + 1)[1:])
    for recipe in [] if options.alone else recipes(options.budget, options.grow):
        begun, made = time.perf_counter(), []
        for text, one in published(fast, chosen, vectors, recipe):
            half = one.vectors.half().cpu().numpy()
            # A step of a prefix takes its share: that of as many positions.
            seconds = a_step * one.token_steps / (vectors + TOKENS)
            made.append((text, half, one.steps, one.token_steps, seconds, one.solved))
        yield judged(recipe.name, made, begun)
        a_step = statistics.median([a_step, *rivals.alone(fast, chosen[0].ids, vectors, TIMED)])


def _say(name: str, vectors: int, begun: float) -> None:
    print(f"{name}, {vectors} vectors: {time.perf_counter() - begun:.0f} s", file=sys.stderr, flush=True)


def table(results: Sequence[Result]) -> str:
    """A row for each recipe and number of vectors: medians and quartiles over texts."""
    lines = [
        (
            "| recipe | vectors | tokens/vector | finished | steps | token-steps per exact token | seconds per exact token | corrected "
            "| exact prefix, free-running | the same, first token given |"
        ),
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for key in dict.fromkeys((r.vectors, r.recipe) for r in results):
        rows = [r for r in results if (r.vectors, r.recipe) == key]
        tokens = sum(r.tokens for r in rows)
        per_token = [r.token_steps / max(1, r.exact) for r in rows]
        lines.append(
            f"| {key[1]} | {key[0]} | {tokens / sum(r.vectors for r in rows):.1f} | {sum(r.solved for r in rows)} of {len(rows)} "
            f"| {_spread([r.steps for r in rows])} | {_spread(per_token)} "
            f"| {sum(r.seconds for r in rows) / sum(r.exact for r in rows):.2f} | {sum(r.corrected for r in rows) / tokens:.1%} "
            f"| {_spread([r.free for r in rows])} | {_spread([r.free_behind_first for r in rows])} |"
        )
    return "\n".join(lines)


def _spread(values: Sequence[float]) -> str:
    low, middle, high = statistics.quantiles(values, n=4) if len(values) > 1 else [values[0]] * 3
    return f"{middle:.0f} ({low:.0f}–{high:.0f})"


def main() -> None:
    """Run, print the table, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="one text of each sort, 8 vectors, short budgets: some minutes"
    )
    parser.add_argument("--part", choices=["report", "tune"], default="report")
    parser.add_argument("--texts", type=int, default=8, help="of each sort")
    parser.add_argument("--vectors", default="8,4", help="numbers of vectors for 64 tokens")
    parser.add_argument("--grow", type=int, default=1, help="Δ of the progressive recipe [tokens]")
    parser.add_argument("--alone", action="store_true", help="memvec's recipe only")
    parser.add_argument("--budget", type=int, help="most steps of a published recipe")
    parser.add_argument("--most", type=int, help="most steps of memvec's")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.quick:
        options.texts, options.vectors, options.grow, options.budget = 1, "8", 8, options.budget or 400
    folder, device = resolve(DEFAULT_MODEL), pick_device(None)
    fast, exact = load(folder, fast_dtype(device), device), load(folder, device=device)
    chosen = texts(fast, options.part, options.texts)
    machine = (
        f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, {platform.machine()}, "
        f"Python {platform.python_version()}, torch {torch.__version__}, {fast.dtype}, {device}"
    )
    print(f"{machine}; {DEFAULT_MODEL}; {len(chosen)} texts of {TOKENS} tokens, part {options.part}\n")
    results: list[Result] = []
    keep_memory()  # as the program does
    for vectors in map(int, options.vectors.split(",")):
        for found in run(fast, exact, chosen, vectors, options):
            results += found  # kept recipe by recipe: the whole takes hours on some machines
            if options.json:
                value = {"command": sys.argv, "machine": machine, "results": [asdict(r) for r in results]}
                options.json.write_text(json.dumps(value, indent=1) + "\n")
    print(table(results))


if __name__ == "__main__":
    main()
