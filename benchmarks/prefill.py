"""Measure the time to the first token, and the cache, of a memory against its text, by kind, length and ratio.

    python benchmarks/prefill.py [--lengths 1000,4000] [--ratio 8] [--kinds context,head,even] [--score repeat|norm]
                                 [--model NAME] [--device NAME] [--dtype NAME] [--rounds 5]
                                 [--json FILE]

A query is BOS, the memory or the text, and a question of 20 tokens. Behind a kv memory only the question is prefilled.
`head` and `even` are the budgets of kv memories. The vectors of `context` are not trained, because time and cache depend
on their number only. Each pair runs in turn, five times and once more. The first time is left out, and the median of the
others counts.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from memvec.checkpoints.resolve import DEFAULT_MODEL, resolve
from memvec.evaluation.controls import Arm
from memvec.evaluation.costs import ROUNDS, Query, measure_costs
from memvec.kv.compact import compact
from memvec.lm.device import pick_device, pick_dtype
from memvec.lm.frozen import FrozenLM
from memvec.lm.load import load

NOVEL = Path(__file__).parents[1] / "tests/tiny/corpus.txt"
QUESTION = 20
BITS = 8  # of the numbers of stored kv memories
HEADINGS = (
    "kind", "tokens", "positions", "first token, text [ms]", "first token, memory [ms]", "times sooner",
    "put in place [ms]", "cache text [bytes]", "cache memory [bytes]", "stored [bytes]",
)  # fmt: skip


def memory(lm: FrozenLM, ids: Sequence[int], kind: str, ratio: float, score: Any) -> tuple[Arm, int]:
    """A memory of a text, and its size in a store [bytes]."""
    if kind == "context":
        vectors = torch.randn(round(len(ids) / ratio), lm.width) * lm.table.float().std().cpu()
        return vectors.to(lm.device), vectors.numel() * 2
    (kept,) = compact(lm, [ids], ratio, "head" if kind == "head" else "even", score)
    return kept, kept.stored(BITS).nbytes


def main(argv: Sequence[str] | None = None) -> None:
    """Time every length and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", default="1000,4000")
    parser.add_argument("--kinds", default="context,head,even")
    parser.add_argument("--ratio", type=float, default=8)
    parser.add_argument("--score", choices=["repeat", "norm"], default="repeat")
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--device")
    parser.add_argument("--dtype")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(argv)
    device = pick_device(args.device)
    dtype = pick_dtype(args.dtype or ("float32" if device == "cpu" else None), device)  # as `generate` does
    lm = load(resolve(args.model), dtype, device)
    ids = lm.encode(NOVEL.read_text("utf-8"))
    machine = (
        torch.cuda.get_device_name() if lm.device.type == "cuda" else f"{platform.machine()}, {os.cpu_count()} cores"
    )
    print(
        f"{machine}, torch {torch.__version__}, {args.model}, {lm.dtype}, ratio {args.ratio:g}, {args.score}, {BITS} bits"
    )
    print(f"| {' | '.join(HEADINGS)} |\n|{'---|' * len(HEADINGS)}")
    found = []
    for length in map(int, args.lengths.split(",")):
        for kind in args.kinds.split(","):
            arm, stored = memory(lm, ids[:length], kind, args.ratio, args.score)
            query = Query(ids[:1], ids[:length], arm, ids[-QUESTION:], len(lm.decode(ids[:length]).encode()), stored)
            c = measure_costs(lm, [query], rounds=args.rounds)
            placing = "" if c.place_memory is None else f"{c.place_memory * 1000:.1f}"
            print(f"| {kind} | {length} | {c.positions_memory:.0f} | {c.prefill_text * 1000:.1f} | {c.prefill_memory * 1000:.1f} "
                  f"| {c.speedup:.1f} | {placing} | {c.cache_text:,.0f} | {c.cache_memory:,.0f} | {stored:,} |", flush=True)  # fmt: skip
            found.append({"kind": kind, "tokens": length, **asdict(c)})
    if args.json:
        about = {"machine": machine, "torch": torch.__version__, "model": args.model, "dtype": str(lm.dtype)}
        args.json.write_text(
            json.dumps(about | {"ratio": args.ratio, "score": args.score, "found": found}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
