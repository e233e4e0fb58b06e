"""Measure how fast records are decoded: memvec's loop beside transformers' own batched greedy `generate`, in turn in one run.

    python benchmarks/decode.py [--records N] [--batch B] [--rounds 3] [--json FILE]

Records have 6 to 10 vectors and 40 to 64 tokens, a little more than those of a pack of prose. Their vectors are noise, because
the speed does not depend on the text. Both decode in float32 with the same batches, weights and threads. transformers gets
rows with one number of vectors together, longest first, as memvec does. It cannot end single rows, so it runs to the longest
row of each batch.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from memvec.checkpoints.resolve import DEFAULT_MODEL, resolve
from memvec.decoding.greedy import decode
from memvec.lm.device import pick_device
from memvec.lm.frozen import FrozenLM
from memvec.lm.load import load
from memvec.lm.numerics import declared_numerics
from memvec.types import Vectors


def records(lm: FrozenLM, count: int) -> tuple[list[Vectors], list[int]]:
    """(vectors, lengths [tokens]) of `count` records."""
    chance, noise = random.Random(0), np.random.default_rng(0)
    scale = float(lm.table.float().std())
    sizes = [chance.randint(6, 10) for _ in range(count)]
    vectors = [(noise.standard_normal((m, lm.width)) * scale).astype(np.float16) for m in sizes]
    return vectors, [chance.randint(40, 64) for _ in range(count)]


def by_transformers(lm: FrozenLM, vectors: Sequence[Vectors], lengths: Sequence[int], batch: int) -> None:
    """Decode the same records by `generate`."""
    order = sorted(range(len(vectors)), key=lambda row: (len(vectors[row]), -lengths[row]))
    at = 0
    while at < len(order):
        rows = [row for row in order[at : at + batch] if len(vectors[row]) == len(vectors[order[at]])]
        at += len(rows)
        embeds = torch.from_numpy(np.stack([vectors[row] for row in rows])).to(lm.device, lm.dtype)
        new = lengths[rows[0]]
        with declared_numerics(lm.device):
            lm.model.generate(
                inputs_embeds=embeds,
                attention_mask=torch.ones(embeds.shape[:2], dtype=torch.long, device=lm.device),
                max_new_tokens=new,
                min_new_tokens=new,
                do_sample=False,
                pad_token_id=0,
            )


def main() -> None:
    """Time both in turn and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, help="[default: 64, on a GPU 512]")
    parser.add_argument("--batch", type=int, help="[default: 16, on a GPU 512]")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    device = pick_device(None)
    lm = load(resolve(DEFAULT_MODEL), device=device)
    on_gpu = device.startswith("cuda")
    batch = options.batch or (512 if on_gpu else 16)
    vectors, lengths = records(lm, options.records or (512 if on_gpu else 64))
    none = [()] * len(vectors)
    rounds = []
    for _ in range(options.rounds + 1):
        begun = time.perf_counter()
        decode(lm, vectors, lengths, none, batch)
        middle = time.perf_counter()
        by_transformers(lm, vectors, lengths, batch)
        rounds.append((middle - begun, time.perf_counter() - middle))
    ours, theirs = (sum(lengths) / statistics.median(column) for column in zip(*rounds[1:], strict=True))
    name = torch.cuda.get_device_name() if on_gpu else "CPU"
    machine = f"{os.cpu_count()} cores, {platform.machine()}, {name}, torch {torch.__version__}, float32"
    head = f"{machine}; {len(lengths)} records, {sum(lengths)} tokens, batches of at most {batch}"
    table = f"| decoder | tokens/s |\n|---|---|\n| memvec | {ours:.0f} |\n| transformers generate | {theirs:.0f} |\n"
    print(f"{head}\n\n{table}\n{ours / theirs:.2f} times as fast")
    if options.json:
        value = {"command": sys.argv, "machine": machine, "memvec": ours, "transformers": theirs, "rounds": rounds}
        options.json.write_text(json.dumps(value, indent=1) + "\n")


if __name__ == "__main__":
    main()
