"""Damage a store in many ways: every document comes back identical, or an error of memvec's own names the damage.

    python benchmarks/damage.py [--cases 10000] [--seed 0] [--json FILE]

A store of two shards and its keys is packed once with the tiny LM of the tests. Every case damages a copy of it in one
random way: bits are flipped, files are cut, extended, exchanged, duplicated or removed. In "resealed" cases a shard or a file
of keys is changed and gets the digest that fits, so that only the checks inside can find the change. Then the store is
verified, read, and read with on_error="skip".

The run fails if a document comes out with other bytes, if an error is not memvec's, if reading fails although verify found
nothing, or if verify finds nothing although a live file was changed. A resealed shard may hide a version of a document if
verify finds that, because an author of digests can leave records out. To save time the model is loaded once, and decoded
texts are kept by their vectors and corrections. The rest of the program is unchanged.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from damages import HARMLESS, SORTS, WEIGHTS, Files, blank, cut, flip, flips, swap

import memvec
from memvec.errors import MemvecError, PartialError, StoreDamagedError

TINY = Path(__file__).parents[1] / "tests/tiny/model"
SETTINGS = memvec.PackSettings(
    nats_per_vector=9.0, segment_tokens=32, max_steps=150, learning_rate=1.0, last_rate=1.0
)  # what the tiny LM's vectors can carry
REPLACED, HIDDEN = "replaced.txt", "identical, but one is missing or of an older version"
FIRST = {
    "letters/jane.txt": b"It is a truth universally acknowledged, that a single man in possession of a good fortune, must be in want.\n",
    "letters/über.txt": "She laughed, and went on with her letter: ça ira, she wrote.\r\n".encode(),
    "image.png": b"\x89PNG\r\n\x1a\n" + bytes(range(256)),
    "empty": b"",
    REPLACED: b"an older version, of which nothing may come out",
}
SECOND = {
    REPLACED: b"The ladies of the house were at supper when the carriage came, and nobody heard it.\n",
    "short": b"x",
    "latin-1.txt": "déjà vu, à la carte".encode("latin-1"),
}
TRUTH = FIRST | SECOND


@dataclass(frozen=True, slots=True)
class Case:
    """One way to damage a store, and its result."""

    sort: str
    file: str
    outcome: str  # of reading: "identical", or the error and its reason
    verified: str  # of verify: "ok", or the same
    given: int  # documents that came out with on_error="skip"
    failure: str = ""  # what must not happen


def pack(folder: Path) -> Path:
    """Make the store to be damaged, in two packs."""
    store = folder / "s.memvec"
    for documents in (FIRST, SECOND):
        sources = [memvec.Source(name, data) for name, data in documents.items()]
        memvec.pack(sources, store, model=str(TINY), settings=SETTINGS, dtype="float32")
    return store


def contents(store: Path) -> dict[str, bytes]:
    """Every file of a store by its path."""
    return {p.relative_to(store).as_posix(): p.read_bytes() for p in sorted(store.rglob("*")) if p.is_file()}


@contextmanager
def decoded_once() -> Iterator[None]:
    """Load the tiny LM once in the block, and decode no record twice."""
    from memvec.checkpoints.identify import fingerprint_folder
    from memvec.decoding import greedy as module
    from memvec.identity.fingerprint import check_fingerprint
    from memvec.identity.runtime import Runtime
    from memvec.lm.frozen import FrozenLM
    from memvec.lm.load import load

    lm, own, real = load(TINY), fingerprint_folder(TINY), module.decode
    known: dict[Any, list[int]] = {}

    def load(runtime: Runtime, device: str | None) -> FrozenLM:
        check_fingerprint(runtime.identity.fingerprint, own)
        return lm

    def decode(lm: Any, vectors: Any, lengths: Any, corrections: Any, batch: int = 1, *_: Any) -> list[list[int]]:
        keys = [(v.tobytes(), v.shape, n, tuple(c)) for v, n, c in zip(vectors, lengths, corrections, strict=True)]
        for key, *row in zip(keys, vectors, lengths, corrections, strict=True):
            if key not in known:
                (known[key],) = real(lm, *([part] for part in row), 1)
        return [known[key] for key in keys]

    with mock.patch.object(Runtime, "load", load), mock.patch.object(module, "decode", decode):
        yield


def judge(store: Path, sort: str, file: str, counts: bool) -> Case:
    """The result for a damaged store. With `counts`, verify must find the damage."""
    verified, outcome, given, failure = "", "", 0, ""
    try:
        verified = _verified(store)
        outcome, wrong = _read(store)
        given, wrong_skipped = _skipping(store)
        failure = wrong or wrong_skipped
    except Exception as error:  # noqa: BLE001 - that none of another kind is raised is what is tested
        failure = f"{type(error).__name__}: {error}"
    if not failure and outcome != "identical" and (verified == "ok" or (outcome == HIDDEN and sort != "reseal")):
        failure = f"verify found {verified}, reading gave {outcome}"
    if not failure and verified == "ok" and counts:
        failure = "verify found nothing"
    return Case(sort, file, outcome, verified, given, failure)


def _verified(store: Path) -> str:
    try:
        report = memvec.verify(store)
    except MemvecError as error:
        return reason(error)
    return "ok" if report.ok else reason(StoreDamagedError(report.problems))


def _read(store: Path) -> tuple[str, str]:
    try:
        found = dict(memvec.read(store))
    except MemvecError as error:
        return reason(error), ""
    if found == TRUTH:
        return "identical", ""
    older = TRUTH | {REPLACED: FIRST[REPLACED]}
    if all(data in (TRUTH.get(name), older.get(name)) for name, data in found.items()):
        return HIDDEN, ""
    return "identical", f"other documents came out: {_difference(found)}"


def _skipping(store: Path) -> tuple[int, str]:
    found = {}
    try:
        for name, data in memvec.read(store, on_error="skip"):
            found[name] = data
        if found != TRUTH:
            return len(found), f"skipping said nothing of {_difference(found)}"
    except MemvecError as error:
        # A shard that cannot be read at all may have held a newer version: then, and then only, an older one comes out.
        old = isinstance(error, PartialError) and any("older version" in why for _, why in error.skipped)
        allowed = [TRUTH, FIRST] if old else [TRUTH]
        bad = [name for name, data in found.items() if data not in [known.get(name) for known in allowed]]
        return len(found), f"skipping gave other bytes: {bad}" if bad else ""
    return len(found), ""


def _difference(found: Files) -> list[str]:
    return sorted(name for name in {*found, *TRUTH} if found.get(name) != TRUTH.get(name))


def reason(error: MemvecError) -> str:
    """The class of an error, and the kind of a damage."""
    kind = f": {error.problems[0].kind}" if isinstance(error, StoreDamagedError) else ""
    return f"{type(error).__name__}{kind}"


def run(store: Path, cases: int, seed: int) -> list[Case]:
    """Damage `store` in `cases` ways, each time from a whole copy."""
    whole, chance, done = contents(store), random.Random(seed), []
    with decoded_once():
        untouched = judge(store, "none", "", False)
        if untouched.failure or (untouched.outcome, untouched.given) != ("identical", len(TRUTH)):
            raise SystemExit(f"the whole store does not read: {untouched}")
        while len(done) < cases:
            (folder,) = chance.choices([*WEIGHTS], [*WEIGHTS.values()])
            sort, name = (
                chance.choice(SORTS),
                chance.choice([path for path in sorted(whole) if path.startswith(folder)]),
            )
            if not whole[name] and sort in (cut, blank, swap, flip, flips):
                continue
            changes = {path: data for path, data in sort(chance, whole, name).items() if whole.get(path) != data}
            if not changes:
                continue
            for path, data in changes.items():
                _put(store / path, data)
            counts = sort.__name__ not in HARMLESS and bool({*changes} - {"LOCK"})
            done.append(judge(store, sort.__name__, name.partition("/")[0], counts))
            for path in changes:
                _put(store / path, whole.get(path))
            if len(done) % 1000 == 0:
                print(f"{len(done)} cases, {sum(bool(case.failure) for case in done)} failed", file=sys.stderr)
    return done


def _put(path: Path, data: bytes | None) -> None:
    if data is None:
        path.unlink(missing_ok=True)
    else:
        path.write_bytes(data)


def summary(cases: Sequence[Case]) -> dict[str, Any]:
    """The results of the cases, by damage, by verb and by file."""

    def counted(some: Sequence[Case]) -> dict[str, Any]:
        same = sum(case.outcome.startswith("identical") for case in some)
        given = sum(case.given for case in some) / max(1, len(some)) / len(TRUTH)
        failed = sum(bool(case.failure) for case in some)
        return {"cases": len(some), "refused": len(some) - same, "identical": same, "given": given, "failed": failed}

    ends = Counter((case.verified, case.outcome) for case in cases)
    by_damage = {sort.__name__: [case for case in cases if case.sort == sort.__name__] for sort in SORTS}
    by_file = {file: [case for case in cases if case.file == file] for file in sorted({case.file for case in cases})}
    return {
        **counted(cases),
        "by_damage": {name: counted(some) for name, some in by_damage.items() if some},
        "by_end": [{"verify": one, "reading": other, "cases": n} for (one, other), n in ends.most_common()],
        "by_file": {name: counted(some) for name, some in by_file.items()},
    }


def tables(cases: Sequence[Case]) -> str:
    """The results by kind of damage, by reason and by file, as Markdown."""
    found = summary(cases)
    lines = [
        "| damage | cases | refused | identical | documents still given by skip, of all | failed |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in {**found["by_damage"], "**all**": found}.items():
        lines.append(
            f"| {name} | {row['cases']} | {row['refused']} | {row['identical']} | {row['given']:.0%} | {row['failed']} |"
        )
    lines += ["", "| verify says | reading gives | cases |", "|---|---|---|"]
    lines += [f"| {end['verify']} | {end['reading']} | {end['cases']} |" for end in found["by_end"]]
    lines += ["", "| file | cases | refused |", "|---|---|---|"]
    lines += [f"| {name} | {row['cases']} | {row['refused']} |" for name, row in found["by_file"].items()]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Damage, judge and print. Exit 1 if a case failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        cases = run(pack(Path(scratch)), options.cases, options.seed)
    seconds = time.perf_counter() - begun
    text = tables(cases)
    print(f"{text}\n{len(cases)} cases, seed {options.seed}, {seconds:.0f} s")
    failed = [case for case in cases if case.failure]
    for case in failed[:20]:
        print(f"FAILED {case}")
    if options.json:
        value = {"command": sys.argv, "seed": options.seed, **summary(cases), "seconds": seconds}
        options.json.write_text(json.dumps(value, indent=1) + "\n")
    raise SystemExit(1 if failed else 0)


if __name__ == "__main__":
    main()
