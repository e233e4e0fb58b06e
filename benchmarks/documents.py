"""Measure packs of many small documents: seconds and memory, new and again, and what one more document takes.

    python benchmarks/documents.py FILE.json [--documents 10000,100000,300000] [--folder FOLDER]

The documents are lines of JSON, 300 characters each, which no vectors can carry, so that the model has next to nothing to do:
what is measured is all the rest. The model is the tiny LM of the tests. Each command is a process of its own, timed from start
to end, with its peak resident memory from the system. `one` is the same pack of one document: program and model.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from conditioning import machine
from kv import write
from scale import run

MODEL = Path(__file__).parent.parent / "tests/tiny/model"
CONTROLS, LETTERS = 64 * "\1", "etaoin shrdlu"  # so many control characters are no text


def rows(count: int, first: int = 0) -> Iterator[dict[str, str]]:
    """Documents that are no text."""
    chance = random.Random(first)
    for number in range(first, first + count):
        yield {
            "id": f"{number % 97:02}/{number:07}",
            "text": CONTROLS + "".join(chance.choices(LETTERS, k=300 - len(CONTROLS))),
        }


def corpus(file: Path, count: int, first: int = 0) -> Path:
    """Write JSON lines."""
    with file.open("w") as out:
        out.writelines(json.dumps(row) + "\n" for row in rows(count, first))
    return file


def measure(folder: Path, count: int) -> dict[str, Any]:
    """Seconds and bytes of each command with `count` documents."""
    many, one = corpus(folder / "many.jsonl", count), corpus(folder / "one.jsonl", 1, count)
    program = [sys.executable, "-m", "memvec.cli"]
    store, options = folder / "s.memvec", ["--id-field", "id", "--keys", "none", "-m", str(MODEL), "-q"]
    pack = [*program, "pack", "-o", str(store), *options]
    commands = {
        "one": [*program, "pack", str(one), "-o", str(folder / "one.memvec"), *options],
        "new": [*pack, str(many)],
        "again": [*pack, str(many)],
        "one more": [*pack, str(one)],
        "list": [*program, "list", str(store), "--limit", "20"],
        "cat": [*program, "cat", str(store), "07/0000007", "-m", str(MODEL)],
        "unpack": [
            *program,
            "unpack",
            str(store),
            "-o",
            str(folder / "out.jsonl"),
            "--as",
            "jsonl",
            "-m",
            str(MODEL),
            "-q",
        ],
    }
    found = {}
    for name, command in commands.items():
        taken = run(command)
        found[name] = {"seconds": taken["seconds"], "cpu": taken["cpu"], "bytes": taken["bytes"]}
        print(f"{count:,} {name}: {taken['seconds']:.1f} s, {taken['bytes'] / 2**20:,.0f} MiB", flush=True)
    with many.open() as before, (folder / "out.jsonl").open() as after:
        held = {line["id"]: line["text"] for line in map(json.loads, after)}
        right = sum(held.get(line["id"]) == line["text"] for line in map(json.loads, before))
    size = sum(file.stat().st_size for file in store.rglob("*") if file.is_file())
    return {"documents": count, "right": right, "store_bytes": size, "commands": found}


def main(argv: Sequence[str] | None = None) -> None:
    """Measure what is left."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--documents", default="10000,100000,300000")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    args = parser.parse_args(argv)
    known: dict[str, Any] = json.loads(args.file.read_text("utf-8")) if args.file.exists() else {"found": []}
    done = {one["documents"] for one in known["found"]}
    for count in map(int, args.documents.split(",")):
        if count not in done:
            with tempfile.TemporaryDirectory(dir=args.folder) as scratch:
                known["found"].append({"machine": machine(), **measure(Path(scratch), count)})
            write(args.file, known)


if __name__ == "__main__":
    main()
