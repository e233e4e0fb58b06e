"""Measure prefill and cache of a memory against its text, by length and ratio.

    python benchmarks/prefill.py [--lengths 256,1000,4000] [--ratio 8]

The vectors are not trained, because time and cache depend on their number only. A query is BOS, the memory or the text, and a
question of 20 tokens. Each pair runs in turn six times, and the first time is left out.
"""

from __future__ import annotations

import argparse
import os
import platform
from pathlib import Path

import torch

from memvec.checkpoints.resolve import DEFAULT_MODEL, resolve
from memvec.evaluation.costs import measure_costs
from memvec.lm.load import load
from memvec.lm.scoring import embedded

NOVEL = Path(__file__).parents[1] / "tests/tiny/corpus.txt"
QUESTION = 20


def main() -> None:
    """Time every length and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", default="256,1000,4000")
    parser.add_argument("--ratio", type=float, default=8)
    parser.add_argument("--model", default=DEFAULT_MODEL)
    args = parser.parse_args()
    lm = load(resolve(args.model))
    ids = lm.encode(NOVEL.read_text("utf-8"))
    print(f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, float32, ratio {args.ratio:g}")
    print(
        "| tokens | vectors | prefill text [ms] | prefill memory [ms] | times faster | cache text [bytes] | cache memory [bytes] |"
    )
    print("|---|---|---|---|---|---|---|")
    before, question = embedded(lm, ids[:1]), embedded(lm, ids[-QUESTION:])
    for length in map(int, args.lengths.split(",")):
        memory = torch.randn(round(length / args.ratio), lm.width) * lm.table.std()
        c = measure_costs(lm, [(before, embedded(lm, ids[:length]), memory, question)])
        print(f"| {length} | {len(memory)} | {c.prefill_text * 1000:.0f} | {c.prefill_memory * 1000:.0f} | {c.speedup:.1f} "
              f"| {c.cache_text:,.0f} | {c.cache_memory:,.0f} |", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
