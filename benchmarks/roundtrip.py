"""Measure a round trip: pack a folder, unpack it, compare every byte, decode it again, and print sizes and times.

    python benchmarks/roundtrip.py [--json FILE] [--keep DIR]

Documents: prose of 1813 (tests/tiny/corpus.txt), technical prose (Python's own help), source code (graphlib of the standard
library), Spanish of 1605 (texts/spanish.txt), and 3 kB of noise that is not text. No setting was chosen on these passages.
Those measured until 2026-11-25 had decided two settings and were replaced (docs/LOG.md). Python's help and source differ a
little between versions.
"""

from __future__ import annotations

import argparse
import graphlib
import inspect
import json
import os
import platform
import random
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import torch

import memvec
from memvec.checkpoints.resolve import DEFAULT_MODEL
from memvec.types import PackReport

HERE = Path(__file__).parent


def documents() -> dict[str, bytes]:
    """The folder to be packed."""
    novel = (HERE.parent / "tests/tiny/corpus.txt").read_text(encoding="utf-8")
    return {
        "novel.txt": novel[170_000:174_200].encode(),
        "help.txt": (topics["subscriptions"][:1_500] + topics["while"][:700]).encode(),
        "graphlib.py": inspect.getsource(graphlib)[2_000:4_100].encode(),
        "spanish.txt": (HERE / "texts/spanish.txt").read_bytes(),
        "noise.bin": random.Random(0).randbytes(3_000),
    }


def measure(model: str, folder: Path) -> tuple[list[dict[str, Any]], PackReport, dict[str, float]]:
    """(a row for each document, totals, seconds of each verb). Raises if a byte differs."""
    tree, store, out = folder / "tree", folder / "s.memvec", folder / "out"
    tree.mkdir(exist_ok=True)
    for name, data in documents().items():
        (tree / name).write_bytes(data)
    seconds: dict[str, float] = {}
    begun = time.perf_counter()
    report = memvec.pack([tree], store, model=model)
    seconds["pack"] = time.perf_counter() - begun
    seconds["unpack"] = memvec.unpack(store, out, model=model).seconds
    for name, data in documents().items():
        if (out / name).read_bytes() != data:
            raise SystemExit(f"{name} came back changed")
    checked = memvec.verify(store, decode=True, model=model)
    if not checked.ok:
        raise SystemExit(f"verify found {checked.problems}")
    seconds["verify --decode"] = checked.seconds
    return [row_of(store, row.name) for row in memvec.list(store)], report, seconds


def row_of(store: Path, name: str) -> dict[str, Any]:
    """The figures of one document."""
    shown = memvec.show(store, name)
    parts = [part for part in shown["parts"] if part["kind"] != "raw"]
    tokens = sum(part["tokens"] for part in parts)
    vectors = sum(part["vectors"] for part in parts)
    return {
        "document": name,
        "bytes": shown["bytes"],
        "tokens": tokens,
        "nats_per_token": sum(part["report"]["nats_before"] for part in parts) / tokens if tokens else 0.0,
        "vectors": vectors,
        "tokens_per_vector": tokens / vectors if vectors else 0.0,
        "corrected": sum(len(part["corrections"]) for part in parts),
        "token_steps_per_token": sum(part["report"]["token_steps"] for part in parts) / tokens if tokens else 0.0,
        "least_margin": min((part["report"]["least_margin"] for part in parts), default=0.0),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep the store, as DIR/s.memvec")
    chosen = parser.parse_args()
    if chosen.keep and (chosen.keep / "s.memvec").exists():
        parser.error(f"{chosen.keep / 's.memvec'} is there already; its pack would have nothing to do")
    with tempfile.TemporaryDirectory() as scratch:
        folder = chosen.keep or Path(scratch)
        folder.mkdir(exist_ok=True)
        rows, report, seconds = measure(chosen.model, folder)
    print("| document | tokens | nats/token | vectors | tokens/vector | corrected | token-steps/token |")
    print("|---|---|---|---|---|---|---|")
    for r in rows:
        print(
            f"| {r['document']} | {r['tokens']} | {r['nats_per_token']:.2f} | {r['vectors']} | "
            f"{r['tokens_per_vector']:.2f} | {r['corrected']} | {r['token_steps_per_token']:.1f} |"
        )
    t = report
    print(
        f"| **all** | {t.fitted_tokens} | | {t.vectors} | {t.tokens_per_vector:.2f} | {t.corrected_tokens} "
        f"({t.corrected_tokens / t.fitted_tokens:.1%}) | {t.token_steps / t.fitted_tokens:.1f} |"
    )
    print(
        f"\nbytes: documents {t.source_bytes:,}, zstd -19 {t.zstd_bytes:,}, vectors {t.vector_bytes:,}, store {t.store_bytes:,}"
    )
    print("seconds: " + ", ".join(f"{verb} {spent:.0f}" for verb, spent in seconds.items()))
    threads = torch.get_num_threads()
    machine = f"{os.cpu_count()} cores, {threads} threads, {platform.machine()}, Python {platform.python_version()}"
    print(f"machine: {machine}; model {t.model}, fingerprint {t.fingerprint}")
    if chosen.json:
        value = {"machine": machine, "rows": rows, "totals": asdict(t), "seconds": seconds}
        chosen.json.write_text(json.dumps(value, indent=1) + "\n")


if __name__ == "__main__":
    main()
