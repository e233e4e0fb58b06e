"""Measure how fast a large pack runs, from files to a certified store and back, beside the published recipe.

    python benchmarks/throughput.py [--tokens 200000] [--rivals 3] [--steps 400] [--json FILE]

Documents: a novel of 1813, then Python's own handbook, then sources of its standard library, up to the number of tokens.
A dry run prints its estimate first. Every byte is compared at the end. The published recipe takes one text at a time. Its
steps are counted on `--rivals` texts (fit.py); a text that it does not finish counts with all of `--steps`. Its seconds are
these steps times the time of a step on one text alone, measured in this run. It gets 5 vectors for 64 tokens, about as many
as memvec uses. Meant for a GPU; it is slow on a CPU.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import sysconfig
import tempfile
import time
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import fit as yardstick
import rivals
import torch

import memvec
from memvec.checkpoints.resolve import DEFAULT_MODEL, resolve
from memvec.lm.device import pick_device, pick_dtype
from memvec.lm.frozen import FrozenLM
from memvec.lm.load import load
from memvec.progress import Progress

NOVEL = Path(__file__).parents[1] / "tests/tiny/corpus.txt"
VECTORS = 5  # that the published recipe has for 64 tokens
LEAST = 2_000  # bytes of a module of the library that is taken


def documents(lm: FrozenLM, tokens: int) -> dict[str, bytes]:
    """Files with about so many tokens together."""
    novel = {"novel.txt": NOVEL.read_text("utf-8")}
    handbook = {f"handbook/{name}.txt": text for name, text in sorted(topics.items())}
    library = {
        f"library/{file.name}": file.read_text("utf-8")
        for file in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
        if file.stat().st_size > LEAST
    }
    found: dict[str, bytes] = {}
    for name, text in (novel | handbook | library).items():
        if tokens <= 0:
            break
        tokens -= len(lm.encode(text))
        found[name] = text.encode()
    return found


class Stages:
    """The seconds that a verb spends in each of its stages."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._now, self._since = "starting", time.perf_counter()

    def watch(self, progress: Progress) -> None:
        """Note the time at each call of the progress."""
        now = time.perf_counter()
        self.seconds[self._now] += now - self._since
        self._now, self._since = progress.stage, now


def round_trip(tree: dict[str, bytes], folder: Path) -> dict[str, Any]:
    """Pack the files, unpack them, compare every byte, and return the figures."""
    for name, data in tree.items():
        (folder / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "tree" / name).write_bytes(data)
    expected = memvec.estimate([folder / "tree"], folder / "s.memvec")
    packing, begun = Stages(), time.perf_counter()
    report = memvec.pack([folder / "tree"], folder / "s.memvec", watch=packing.watch)
    packing.watch(Progress(stage="end"))
    unpacking, packed = Stages(), time.perf_counter()
    memvec.unpack(folder / "s.memvec", folder / "out", watch=unpacking.watch)
    unpacked = time.perf_counter()
    changed = [name for name, data in tree.items() if (folder / "out" / name).read_bytes() != data]
    if changed:
        raise SystemExit(f"came back changed: {', '.join(changed)}")
    return {
        "documents": len(tree),
        "report": asdict(report),
        "expected": asdict(expected),
        "pack": {"seconds": packed - begun, "stages": packing.seconds},
        "unpack": {"seconds": unpacked - packed, "stages": unpacking.seconds},
    }


def rival(lm: FrozenLM, count: int, steps: int) -> dict[str, Any]:
    """The published recipe on `count` texts."""
    recipe = rivals.Recipe(yardstick.FULL, rivals.FULL_RATE, most=steps)
    texts = yardstick.texts(lm, "report", -(-count // 3))[:count]
    runs = rivals.fit(lm, [text.ids for text in texts], VECTORS, recipe)
    a_step = statistics.median(rivals.alone(lm, texts[0].ids, VECTORS, 25)[5:])
    seconds = sum(run.steps for run in runs) * a_step
    return {
        "texts": count,
        "finished": sum(run.solved for run in runs),
        "steps": [run.steps for run in runs],
        "seconds_a_step": a_step,
        "tokens_a_second": sum(len(text.ids) for text in texts) / seconds,
    }


def table(found: dict[str, Any]) -> str:
    """Markdown."""
    report, lines = found["report"], ["| | tokens/s | seconds |", "|---|---|---|"]
    tokens = report["fitted_tokens"]
    for verb in ("pack", "unpack"):
        lines.append(f"| **{verb}** | {tokens / found[verb]['seconds']:.0f} | {found[verb]['seconds']:.1f} |")
        for stage, seconds in sorted(found[verb]["stages"].items(), key=lambda pair: -pair[1]):
            if seconds > 0.005 * found[verb]["seconds"]:
                lines.append(f"| {verb}: {stage} | {tokens / seconds:.0f} | {seconds:.1f} |")
    expected = found["expected"]
    lines.append(
        f"| pack, as `--dry-run` expected its fitting and certifying | {tokens / expected['seconds']:.0f} | {expected['seconds']:.1f} |"
    )
    if other := found["rival"]:
        speed = other["tokens_a_second"]
        ratio = tokens / found["pack"]["seconds"] / speed
        lines.append(
            f"| {yardstick.FULL}, one text at a time: {other['finished']} of {other['texts']} finished in at most {found['most']} steps "
            f"of {1000 * other['seconds_a_step']:.0f} ms | {speed:.2f} | pack is {ratio:.0f} times as fast |"
        )
    raw, whole = report["raw_records"], report["records"]
    head = (
        f"{found['documents']} documents, {tokens} tokens in {whole - raw} segments ({raw} more raw), {report['tokens_per_vector']:.2f} tokens "
        f"a vector, {report['corrected_tokens'] / tokens:.1%} corrected, {report['token_steps'] / tokens:.1f} token-steps a token; every byte came back."
    )
    return "\n".join([found["machine"], "", head, "", *lines])


def main() -> None:
    """Measure, print, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=200_000)
    parser.add_argument("--rivals", type=int, default=3)
    parser.add_argument("--steps", type=int, default=400, help="most steps of the published recipe")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    device = pick_device(None)
    kind = pick_dtype(None, device)
    lm = load(resolve(DEFAULT_MODEL), kind, device)
    tree = documents(lm, options.tokens)
    other = rival(lm, options.rivals, options.steps) if options.rivals else None
    del lm
    with tempfile.TemporaryDirectory() as scratch:
        found = round_trip(tree, Path(scratch))
    name = torch.cuda.get_device_name() if device.startswith("cuda") else f"{torch.get_num_threads()} threads"
    machine = f"{name}, {os.cpu_count()} cores, {platform.machine()}, torch {torch.__version__}, fitted in {kind}"
    found |= {"command": sys.argv, "machine": machine, "rival": other, "most": options.steps}
    print(table(found))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
