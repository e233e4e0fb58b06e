"""Send SIGKILL at random moments of every verb that writes: committed data stays, and the same command then ends as usual.

Each run copies a prepared store, starts the verb in a process of its own and kills it: after a random time, or before or
after a random system call that changes files. Then the store is verified, and everything in it is decoded and compared.
The same command runs again to its end, and its store is compared with that of a run without a kill.

    python benchmarks/kills.py --kills 240 --seed 0 --json benchmarks/results/kills.json
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # a process with one thread can be forked
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from killable import TINY, Case, Documents, cases, finish, forked

import memvec.packing.pack
from memvec.checkpoints.identify import fingerprint_folder
from memvec.decoding.unpack import read
from memvec.decoding.verify import verify
from memvec.errors import NotFoundError, StoreDamagedError
from memvec.identity.runtime import Runtime
from memvec.lm.load import load
from memvec.maintenance.gc import gc
from memvec.retrieval.embedders import DEFAULT, maker
from memvec.store.store import Store

SHARES = {"pack": 3, "rm": 2, "compact": 4, "gc": 2, "merge": 4, "repair": 3}  # of all kills
CALLS = ("open", "fsync", "replace", "unlink", "mkdir")  # what changes files, by name in `os`


def counted(work: Callable[[], object], at: int, after: bool, total: Path) -> Callable[[], object]:
    """`work`, killed before or after system call `at` of those that change files. `total` gets their number."""

    def run() -> None:
        calls = [0]
        for name in CALLS:
            setattr(os, name, wrapped(name, calls))
        work()
        total.write_text(str(calls[0]))

    def wrapped(name: str, calls: list[int]) -> Callable[..., Any]:
        real = getattr(os, name)

        def call(*arguments: Any, **options: Any) -> Any:
            if name == "open" and not arguments[1] & os.O_CREAT:
                return real(*arguments, **options)
            calls[0] += 1
            if calls[0] == at and not after:
                os.kill(os.getpid(), signal.SIGKILL)
            result = real(*arguments, **options)
            if calls[0] == at:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return call

    return run


def everything(store: Path) -> Documents:
    """Decode every live document and compare it with its digests."""
    return dict(read(store, model=str(TINY)))


def held(store: Path) -> Any:
    """The ids of all records of a store."""
    opened = Store.open(store)
    versions = opened.versions()
    live = {name: v.document.sha256 for name, v in opened.documents().items()}
    refs = {(v.document.name, v.document.sha256): (*v.records, *v.memory, *v.unjoined) for v in versions}
    kept = {version for version in refs if live.get(version[0], version[1]) == version[1]}
    return live, {version: sorted(opened.record_id(ref) for ref in refs[version]) for version in kept}


def moment(store: Path, generation: int) -> str:
    """The progress of the verb when it was killed, seen from the files."""
    names = [file.name for file in store.rglob("*") if file.is_file()] if store.exists() else []
    try:
        state = Store.open(store).manifest
    except (NotFoundError, StoreDamagedError):
        return "no manifest yet"
    if any(name.startswith(".tmp-") for name in names):
        return "in the midst of writing a file"
    named = {Path(entry.path).name for entry in state.named}
    if state.generation > generation:
        return "after a commit"
    if {name for name in names if name.endswith(".safetensors")} - named:
        return "files written, not named yet"
    return "nothing written"


@dataclass
class Reference:
    """The duration and the result of a case without a kill."""

    seconds: float
    calls: int
    held: Any


def reference(case: Case, folder: Path) -> Reference:
    """Run a case to its end, and check its result."""
    folder.mkdir()
    case.prepare(folder)
    begun = time.perf_counter()
    finish(counted(lambda: case.run(folder), 0, False, folder / "calls"))
    seconds = time.perf_counter() - begun
    assert everything(folder / "s") == case.after, f"{case.verb} does not do what it should"
    return Reference(seconds, int((folder / "calls").read_text()), held(folder / "s"))


def killed(case: Case, unkilled: Reference, folder: Path, rng: random.Random) -> str | None:
    """Kill a case once and check the store. Returns the moment, or None if it ended first. AssertionError."""
    folder.mkdir()
    case.prepare(folder)
    store = folder / "s"
    generation = Store.open(store).manifest.generation if case.before and Store.exists(store) and case.readable else 0
    if rng.random() < 0.5:
        at, after = rng.randint(1, unkilled.calls), rng.random() < 0.5
        process = forked(counted(lambda: case.run(folder), at, after, folder / "calls"))
    else:
        process = forked(lambda: case.run(folder))
        time.sleep(rng.random() * unkilled.seconds)
        os.kill(process, signal.SIGKILL)
    _, status = os.waitpid(process, 0)
    assert status in (0, signal.SIGKILL), f"{case.verb} ended with {status}"
    found = moment(store, generation) if status else None
    check(case, store)
    finish(lambda: case.run(folder))
    assert everything(store) == case.after, "the command run again left something else"
    assert case.verb == "pack" or held(store) == unkilled.held, "the command run again left other records"
    assert verify(store).ok
    gc(store)
    assert everything(store) == case.after, "gc took something away"
    return found


def check(case: Case, store: Path) -> None:
    """Verify, decode and compare a store after a kill. No committed document may be missing."""
    try:
        there = everything(store)
    except NotFoundError:
        assert not case.before, "the store is gone"
        return
    except StoreDamagedError:
        assert not case.readable, "the store is damaged"
        return
    assert verify(store).ok
    for name, data in there.items():
        assert data in (case.before.get(name), case.after.get(name)), f"{name} is something else"
    missing = case.before.keys() & case.after.keys() - there.keys()
    assert not missing, f"{missing} are gone"


def preload() -> None:
    """Load the model once for all packs and decodings, so that kills hit the work and not the loading."""
    torch.set_num_threads(1)
    lm, fingerprint = load(TINY), fingerprint_folder(TINY, source=str(TINY))
    makers = {name: maker(name, TINY, fingerprint) for name in DEFAULT}
    Runtime.load = lambda *_: lm  # type: ignore[method-assign]
    memvec.packing.pack.load = lambda *_: lm
    memvec.packing.pack.maker = lambda name, *_: makers[name]


def measure(kills: int, seed: int) -> dict[str, Any]:
    """Kill `kills` times, and count by verb and moment."""
    rng, counts = random.Random(seed), Counter[tuple[str, str]]()
    ended = runs = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["MEMVEC_CACHE"] = str(folder / "cache")
        every = cases(folder)
        references = [reference(case, folder / f"reference-{i}") for i, case in enumerate(every)]
        turns = [i for i, case in enumerate(every) for _ in range(SHARES[case.verb])]
        while counts.total() < kills:
            if not runs % len(turns):
                rng.shuffle(turns)
            number = turns[runs % len(turns)]
            found = killed(every[number], references[number], folder / "run", rng)
            shutil.rmtree(folder / "run")
            runs, ended = runs + 1, ended + (found is None)
            if found is not None:
                counts[every[number].verb, found] += 1
    by: dict[str, dict[str, int]] = {}
    for (verb, when), count in sorted(counts.items()):
        by.setdefault(verb, {})[when] = count
    return {"kills": counts.total(), "ended_before": ended, "seed": seed, "by_verb_and_moment": by}


def table(found: dict[str, Any]) -> Iterable[str]:
    """The counts as lines of Markdown."""
    by = found["by_verb_and_moment"]
    moments = sorted({when for counts in by.values() for when in counts})
    yield f"| verb | {' | '.join(moments)} | all |"
    yield "|---" * (len(moments) + 2) + "|"
    for verb, counts in by.items():
        yield f"| {verb} | {' | '.join(str(counts.get(when, 0)) for when in moments)} | {sum(counts.values())} |"


def main() -> None:
    """Kill, and print the counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=240)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    preload()
    begun = time.perf_counter()
    found = measure(arguments.kills, arguments.seed) | {"seconds": round(time.perf_counter() - begun)}
    print("\n".join(table(found)))
    print(
        f"{found['kills']} kills, nothing lost, in {found['seconds']} s; {found['ended_before']} more ended before they were killed"
    )
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
