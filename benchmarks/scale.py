"""Measure how a store of many records is read: list, info, show and single records, in seconds and memory, without a model.

    python benchmarks/scale.py [--records 10000,100000,1000000] [--per-document 100] [--reads 1000] [--rounds 3]
                               [--folder FOLDER] [--json FILE]

The records are made up: one vector of 576 numbers each. `memvec verify` accepts the store. Every command is a process of its
own, timed from start to end, with its peak resident memory from the system. Before the first run the store's files are
dropped from the page cache, if the system allows it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from memvec.formats import container, files, manifest, raw, shard
from memvec.formats.documents import encode_documents
from memvec.formats.manifest import Manifest, ShardEntry
from memvec.store import catalogue
from memvec.store.store import Store
from memvec.types import Document, Fingerprint, Kind

WIDTH, VOCABULARY = 576, 49152
SHARD_RECORDS = 1024
SEGMENT, TOKENS = 80, 20  # bytes and tokens of a record

# Runs a command and says what it took. Between this program and the command, since a process counts as its own the
# memory of the one it was started from, and this one makes stores.
LAUNCHER = """
import json, os, sys, time
begun = time.perf_counter()
child = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ, file_actions=[(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)])
_, status, used = os.wait4(child, 0)
assert status == 0, status
seconds, unit = time.perf_counter() - begun, 1 if sys.platform == "darwin" else 1024
print(json.dumps({"seconds": seconds, "cpu": used.ru_utime + used.ru_stime, "bytes": used.ru_maxrss * unit}))
"""
READS = """
import random, sys
from memvec.store import catalogue
from memvec.store.store import Store
store, chance, count = Store.open(sys.argv[1]), random.Random(0), int(sys.argv[2])
def read(known):
    total = known.columns.length("shard")
    for place in [chance.randrange(total) for _ in range(count)]:
        store.record(known.refs(place, place + 1)[0])
catalogue.answer(store, read)
"""
REFRESH = """
import sys
from memvec.store import catalogue
from memvec.store.store import Store
catalogue.refresh(Store.open(sys.argv[1]))
"""


def make(path: Path, records: int, per_document: int) -> Store:
    """Make a store of `records` records, `per_document` in a document, committed in shards of 1,024."""
    fingerprint = Fingerprint("0" * 64, "1" * 64, {"vocab_size": VOCABULARY}, "2" * 64, "3" * 64, WIDTH, "made up")
    (path / "shards").mkdir(parents=True)
    noise = np.random.default_rng(0)
    entries = []
    for begin in range(0, records, SHARD_RECORDS):
        numbers = np.arange(begin, min(begin + SHARD_RECORDS, records))
        documents, data = _shard(numbers, per_document, records, fingerprint, noise)
        entry = ShardEntry(hashlib.sha256(data).hexdigest(), len(data), len(numbers), documents)
        (path / entry.path).write_bytes(data)
        entries.append(entry)
    state = Manifest(
        fingerprint, VOCABULARY, generation=len(entries), shards=tuple(entries), tool="benchmarks/scale.py"
    )
    files.write_atomically(path / manifest.FILE_NAME, manifest.encode(state))
    return Store.open(path)


def _shard(
    numbers: np.ndarray[Any, Any], per_document: int, records: int, fingerprint: Fingerprint, noise: np.random.Generator
) -> tuple[int, bytes]:
    """(documents, bytes) of the shard with the records of these numbers."""
    n = len(numbers)
    owners = numbers // per_document
    documents = [_document(int(owner), per_document, records) for owner in np.unique(owners)]
    tensors = {name: np.zeros(n, f"<{code}") for name, code in shard.COLUMNS.items()}
    tensors["kind"][:] = Kind.EXACT
    tensors["start"][:] = numbers % per_document * SEGMENT
    tensors["length"][:], tensors["tokens"][:] = SEGMENT, TOKENS
    tensors["steps"][:], tensors["token_steps"][:] = noise.integers(50, 200, (2, n))
    tensors["nats_before"][:] = noise.uniform(40, 90, n)
    tensors["seconds"][:] = noise.uniform(0.05, 0.5, n)
    vectors = noise.standard_normal((n, WIDTH), np.float32).astype("<f2")
    texts = noise.integers(0, 256, (n, 32), np.uint8)
    digested = list(shard.DIGESTED)
    rows = np.concatenate([tensors[name].view(np.uint8).reshape(n, -1) for name in digested], 1)
    empty = bytes(8)  # no corrections, no payload: a length of 0 each
    ids = []
    for row, text, vector, owner in zip(rows, texts, vectors, owners - owners[0], strict=True):
        head = b"memvec record 1\0" + bytes.fromhex(documents[owner].sha256)
        piece = vector.tobytes()
        size = len(piece).to_bytes(8, "little")
        ids.append(hashlib.sha256(head + row.tobytes() + text.tobytes() + size + piece + empty + empty).digest())
    none = np.zeros(0, np.uint8)
    tensors |= {
        "document": (owners - owners[0]).astype("<u4"),
        "text_sha256": texts,
        "record_sha256": container.digest_rows(ids),
        "documents": np.frombuffer(raw.compress(encode_documents(documents)), np.uint8),
        "vectors": vectors,
        "vectors_offsets": np.arange(n + 1, dtype="<u8"),
        "corrections": none,
        "corrections_offsets": np.zeros(n + 1, "<u8"),
        "payload": none,
        "payload_offsets": np.zeros(n + 1, "<u8"),
    }
    counts = {"documents": len(documents), "records": n, "width": WIDTH, "vocabulary": VOCABULARY}
    origin = {"fingerprint": fingerprint.id, "origin": asdict(fingerprint)}
    return len(documents), container.encode(tensors, {**counts, **origin, "format": shard.FORMAT_NAME, "generation": 1})


def _document(number: int, per_document: int, records: int) -> Document:
    name = f"folder-{number % 97:02}/document-{number:07}.txt"
    held = min(per_document, records - number * per_document)
    return Document(name, held * SEGMENT, hashlib.sha256(name.encode()).hexdigest(), held * 30, held * TOKENS)


def commands(store: Path, reads: int) -> dict[str, list[str]]:
    """The commands to measure, by name. The first three are measured without a catalogue too."""
    opened = Store.open(store)
    middle = len(opened.manifest.shards) // 2
    wanted = opened.reader(middle).digest(0).hex()
    name = opened.reader(middle).documents[0].name
    program = [sys.executable, "-m", "memvec.cli"]
    return {
        "list --limit 20": [*program, "list", str(store), "--limit", "20"],
        "info": [*program, "info", str(store)],
        "show ID": [*program, "show", str(store), wanted],
        "show DOCUMENT": [*program, "show", str(store), name],
        f"{reads:,} records at random": [sys.executable, "-c", READS, str(store), str(reads)],
    }


def measure(store: Path, reads: int, rounds: int) -> dict[str, dict[str, float]]:
    """{name: {first, seconds, cpu [s], bytes}} of each command: the first run, the median of the others, the peak of all."""
    found = {}
    for what, command in commands(store, reads).items():
        _forget(store)
        runs = [run(command) for _ in range(rounds + 1)]
        found[what] = {
            "first": runs[0]["seconds"],
            "seconds": statistics.median(run["seconds"] for run in runs[1:]),
            "cpu": statistics.median(run["cpu"] for run in runs[1:]),
            "bytes": max(run["bytes"] for run in runs),
        }
    return found


def run(command: Sequence[str]) -> dict[str, float]:
    done = subprocess.run([sys.executable, "-S", "-c", LAUNCHER, *command], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
    value: dict[str, float] = json.loads(done.stdout)
    return value


def _forget(store: Path) -> None:
    """Drop the store's files from the page cache, if the system can."""
    if not hasattr(os, "posix_fadvise"):
        return
    for file in store.rglob("*.*"):
        with file.open("rb") as handle:
            os.fsync(handle.fileno())
            os.posix_fadvise(handle.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def scale(folder: Path, records: int, per_document: int, reads: int, rounds: int) -> dict[str, Any]:
    """Make a store, measure it with and without its catalogue, and remove it."""
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        path = Path(scratch) / "s.memvec"
        store = make(path, records, per_document)
        small = run(
            [
                sys.executable,
                "-c",
                "from memvec.store.store import Store; import sys; Store.open(sys.argv[1])",
                str(path),
            ]
        )
        without = {what: run(command) for what, command in list(commands(path, reads).items())[:3]}
        writing = run([sys.executable, "-c", REFRESH, str(path)])
        kept = catalogue.path_of(store)
        return {
            "records": records,
            "documents": -(-records // per_document),
            "store_bytes": store.size(),
            "catalogue_bytes": kept.stat().st_size if kept.is_file() else 0,
            "open": small,
            "refresh": writing,
            "commands": measure(path, reads, rounds),
            "without_catalogue": without,
        }


def table(results: Sequence[dict[str, Any]]) -> str:
    """Seconds and peak memory: a row for a command, a column for a store."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cells) + " |"

    def cost(run: dict[str, float]) -> str:
        first = f"{run['first']:.2f} / " if "first" in run else ""
        return f"{first}{run['seconds']:.2f} s ({run['cpu']:.2f}), {run['bytes'] / 1e6:.0f} MB"

    rows = [
        ["records", *(f"{r['records']:,}" for r in results)],
        ["documents", *(f"{r['documents']:,}" for r in results)],
    ]
    rows += [["bytes of the store", *(f"{r['store_bytes']:,}" for r in results)]]
    rows += [["bytes of its catalogue", *(f"{r['catalogue_bytes']:,}" for r in results)]]
    rows += [[what, *(cost(r["commands"][what]) for r in results)] for what in results[0]["commands"]]
    rows += [["opening alone", *(cost(r["open"]) for r in results)]]
    rows += [["writing the catalogue", *(cost(r["refresh"]) for r in results)]]
    rows += [
        [f"{what}, without a catalogue", *(cost(r["without_catalogue"][what]) for r in results)]
        for what in results[0]["without_catalogue"]
    ]
    return "\n".join([line(rows[0]), "|---|" + "---|" * len(results), *map(line, rows[1:])]) + "\n"


def main() -> None:
    """Make and measure stores of every size and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", default="10000,100000,1000000", help="of each store, by commas")
    parser.add_argument("--per-document", default="100", help="records of a document, by commas: each for every size")
    parser.add_argument("--reads", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where the stores are made [default: the system's for such files]")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else math.nan
    results = []
    for per_document in map(int, options.per_document.split(",")):
        for records in map(int, options.records.split(",")):
            begun = time.perf_counter()
            results.append(scale(options.folder, records, per_document, options.reads, options.rounds))
            print(f"{records:,} records: {time.perf_counter() - begun:.0f} s", file=sys.stderr, flush=True)
    machine = f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"
    said = (
        f"{machine}. Seconds are wall-clock of the whole process: its first run, with the store's files dropped from "
        f"the page cache, / the median of {options.rounds} further runs, in brackets its processor time; memory is the peak "
        f"of the process. The machine's load was {load:.1f} when it began.\n\n{table(results)}"
    )
    print(said)
    if options.json:
        asked = {name: getattr(options, name) for name in ("records", "per_document", "reads", "rounds")}
        value = {"options": asked, "machine": machine, "load": load, "stores": results}
        options.json.write_text(json.dumps(value, indent=1) + "\n")


if __name__ == "__main__":
    main()
