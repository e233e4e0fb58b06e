"""Compare a fit's step with its own matrix products, timed in turn in one run, and show where the rest of the time goes.

    python benchmarks/speed.py [--model NAME] [--rounds 7] [--threads N] [--dtype bfloat16] [--json FILE]

The step is that of a full batch of segments of 64 tokens behind 8 vectors; on a GPU it is compiled. Its matrix products are:
every linear layer, forward and backward to its input (weights are frozen); the four products of attention, forward and
backward; and the two of the LM head. The goal is 0.8 of the token positions a second that these products alone allow.
Floating-point operations are those of the products for real positions. A large square product shows the speed of the
machine. The profile sorts the step's operations, on a GPU its kernels, by their purpose.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from memvec.checkpoints.resolve import DEFAULT_MODEL, resolve
from memvec.cli.allocator import keep_memory
from memvec.lm.device import pick_device, pick_dtype
from memvec.lm.frozen import FrozenLM
from memvec.lm.fused import PAYS_AFTER
from memvec.lm.head import chunk_rows
from memvec.lm.load import load
from memvec.settings import PackSettings
from memvec.training.fit import FitEngine, Task
from memvec.training.layout import row_length

NOVEL = Path(__file__).parents[1] / "tests/tiny/corpus.txt"
TOKENS, VECTORS = 64, 8
WARM_UP = 2  # rounds: on a GPU the second makes the graph
KINDS = {
    "matrix products": ("mm", "bmm", "addmm"),
    "copies and changes of dtype": ("copy_", "cat", "clone", "index_select", "index_copy"),
    "exponentials and sums": ("exp_", "sum", "amax", "_softmax", "_softmax_backward_data", "logsumexp", "mean"),
}
KERNELS = {
    "attention": ("sdpa", "fmha", "flash", "cudnn"),
    "matrix products": ("nvjet", "gemm", "cutlass", "splitK"),
    "compiled elementwise work": ("triton_",),
}
REST = "everything else"


def step_of(lm: FrozenLM) -> tuple[Callable[[], Any], int, int]:
    """(a step of a full batch, its token positions, its rows)."""
    ids = lm.encode(NOVEL.read_text("utf-8"))
    engine = FitEngine(lm, PackSettings(growth=0))  # whole texts, as most steps have
    lm.fused.ran(PAYS_AFTER)
    engine.add(Task(k, tuple(ids[k * TOKENS :][:TOKENS]), VECTORS) for k in range(engine.most))
    engine._refill()  # the step alone is of interest, not the queue
    for slot in engine.slots:
        slot.left = 1 << 30
    return engine._step, len(engine.slots) * row_length(TOKENS, VECTORS), len(engine.slots)


def products_of(lm: FrozenLM, positions: int, rows: int) -> Callable[[], None]:
    """The matrix products of such a step, on random numbers."""

    def noise(*shape: int) -> Tensor:
        return torch.randn(shape, device=lm.device).to(lm.dtype)

    weights = [module.weight for module in lm.model.base_model.modules() if isinstance(module, nn.Linear)]
    sides = {size: noise(positions, size) for weight in weights for size in weight.shape}
    config, length, targets = lm.model.config, positions // rows, rows * TOKENS
    groups, heads = config.num_key_value_heads, config.num_attention_heads
    width = getattr(config, "head_dim", None) or lm.width // heads
    asked, keys = noise(rows * groups, heads // groups * length, width), noise(rows * groups, length, width)
    scores, hidden = noise(rows * groups, heads // groups * length, length), noise(targets, lm.head.shape[1])

    def run() -> None:
        for weight in weights:
            out, into = weight.shape
            torch.mm(sides[into], weight.T), torch.mm(sides[out], weight)
        for _ in range(config.num_hidden_layers):
            for _ in range(2):  # scores, and the gradient of the weights; found, and the gradient of queries
                torch.bmm(asked, keys.transpose(1, 2)), torch.bmm(scores, keys)
            for _ in range(2):  # the gradients of keys and of values
                torch.bmm(scores.transpose(1, 2), asked)
        for at in range(0, targets, chunk_rows(lm.head)):
            torch.mm(torch.mm(hidden[at : at + chunk_rows(lm.head)], lm.head.T), lm.head)

    return run


def operations(lm: FrozenLM, positions: int, rows: int) -> float:
    """Floating-point operations of these products: two for each weight or element, forward and backward."""
    weights = sum(m.weight.numel() for m in lm.model.base_model.modules() if isinstance(m, nn.Linear))
    config, length = lm.model.config, positions // rows
    heads = config.num_attention_heads * (getattr(config, "head_dim", None) or lm.width // config.num_attention_heads)
    attention = 6 * config.num_hidden_layers * length * heads  # six products, all of a row's positions with each other
    return 2.0 * (positions * (2 * weights + attention) + rows * TOKENS * 2 * lm.head.numel())


def best_of(lm: FrozenLM, size: int = 8192) -> float:
    """Floating-point operations a second in a large square product."""
    size = size if lm.device.type == "cuda" else size // 4
    left, right = (torch.randn(size, size, device=lm.device).to(lm.dtype) for _ in range(2))
    times = [timed(lm, lambda: torch.mm(left, right)) for _ in range(12)]
    return 2.0 * size**3 / statistics.median(times[2:])


def timed(lm: FrozenLM, part: Callable[[], Any]) -> float:
    """Seconds of one run."""
    begun = time.perf_counter()
    part()
    if lm.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begun


def shares(step: Callable[[], Any], device: str) -> dict[str, float]:
    """The share of a step's time by kind of operation."""
    on_gpu = device.startswith("cuda")
    with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as seen:
        step()
        if on_gpu:
            torch.cuda.synchronize()
    spent: dict[str, float] = defaultdict(float)
    for event in seen.key_averages():
        name = event.key.removeprefix("aten::")
        if on_gpu:
            spent[next((kind for kind, parts in KERNELS.items() if any(part in name for part in parts)), REST)] += (
                event.self_device_time_total
            )
        else:
            spent[next((kind for kind, names in KINDS.items() if name in names), REST)] += event.self_cpu_time_total
    whole = sum(spent.values())
    return {kind: spent[kind] / whole for kind in (*(KERNELS if on_gpu else KINDS), REST)}


def main() -> None:
    """Time both in turn, print the table, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, help="[default: torch's]")
    parser.add_argument("--dtype", choices=["bfloat16", "float32"])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    device = pick_device(None)
    lm = load(resolve(options.model), pick_dtype(options.dtype, device), device)
    keep_memory()  # as the program does
    step, positions, rows = step_of(lm)
    parts = {"step": step, "its matrix products alone": products_of(lm, positions, rows)}
    spent: dict[str, list[float]] = {name: [] for name in parts}
    for _ in range(options.rounds + WARM_UP):
        for name, part in parts.items():
            spent[name].append(timed(lm, part))
    by_kind = shares(step, device)
    speed = {name: positions / statistics.median(times[WARM_UP:]) for name, times in spent.items()}
    reached = speed["step"] / speed["its matrix products alone"]
    flops, best = speed["step"] / positions * operations(lm, positions, rows), best_of(lm)
    name = torch.cuda.get_device_name() if device.startswith("cuda") else f"{torch.get_num_threads()} threads"
    machine = f"{os.cpu_count()} cores, {platform.machine()}, {name}, torch {torch.__version__}, {lm.dtype}"
    lines = [
        "| | token positions a second |",
        "|---|---|",
        *(f"| {name} | {value:.0f} |" for name, value in speed.items()),
    ]
    lines += [
        "",
        "| of a step | share |",
        "|---|---|",
        *(f"| {kind} | {share:.1%} |" for kind, share in by_kind.items()),
    ]
    said = f"{reached:.2f} of what its matrix products allow; {flops / 1e12:.2f} of the {best / 1e12:.2f} TFLOP/s of a large square product."
    table = "\n".join([f"{machine}, {rows} rows of {positions // rows} positions", "", *lines, "", said])
    print(table)
    if options.json:
        value = {
            "command": sys.argv,
            "machine": machine,
            "speed": speed,
            "reached": reached,
            "flops": flops,
            "best_flops": best,
            "shares": by_kind,
            "seconds": spent,
        }
        options.json.write_text(json.dumps(value, indent=1) + "\n")


if __name__ == "__main__":
    main()
