"""Pack the same texts without tuning, after a trial and after calibrating, with each of several models.

    python benchmarks/untuned.py FILE.json MODEL... [--segments N] [--arms untuned,trial,calibrated]
    python benchmarks/small_models.py FOLDER && python benchmarks/untuned.py FILE.json FOLDER/*

The texts are prose (the end of tests/tiny/corpus.txt, 1813), code (fractions of the standard library) and German
(texts/german-tale.txt, 1857). The default budget and the default learning rate were chosen after earlier runs on them.
`untuned` is a pack with the default settings. `trial` takes the budget and the learning rate that the trial of a large pack
finds. `calibrated` takes those that `memvec calibrate` finds on other texts: its learning rates times its budgets,
`--segments` segments each.

Costs are those of whole packs. They include fits that were given up, and fits of segments that are stored raw in the end.
Every result is written to FILE.json at once. The same command goes on from there.
"""

from __future__ import annotations

import argparse
import fractions
import inspect
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from conditioning import machine
from kv import write
from sweep import texts as development

import memvec
from memvec.checkpoints.identify import fingerprint_folder
from memvec.checkpoints.resolve import resolve
from memvec.cli.allocator import keep_memory
from memvec.filesystem.sources import Source
from memvec.lm.device import fast_dtype
from memvec.lm.frozen import FrozenLM
from memvec.lm.load import in_float32, load
from memvec.packing.calibrate import TRIAL_BYTES, calibrate, profile_of, suited, with_profile
from memvec.progress import Progress
from memvec.settings import NATS_PER_DIMENSION, PackSettings

HERE = Path(__file__).parent
ARMS = ("untuned", "trial", "calibrated")
Found = dict[str, Any]


def texts() -> dict[str, str]:
    """The texts that are packed."""
    novel = (HERE.parent / "tests/tiny/corpus.txt").read_text(encoding="utf-8")
    return {
        "prose.txt": novel[185_000:187_400],
        "fractions.py": inspect.getsource(fractions)[18_000:20_000],
        "german.txt": (HERE / "texts/german-tale.txt").read_text(encoding="utf-8"),
    }


@contextmanager
def no_profiles() -> Iterator[None]:
    """Hide the profiles that were made on this machine. Those made inside are forgotten."""
    with tempfile.TemporaryDirectory() as scratch, patch.dict(os.environ, MEMVEC_CACHE=scratch):
        yield


def settings_of(arm: str, folder: Path, fast: FrozenLM, segments: int) -> PackSettings | None:
    """The settings of an arm. None: a trial would take too long here, or the package has a profile and makes none."""
    if arm == "untuned":  # the budget is named, so that no profile replaces it
        return PackSettings(nats_per_vector=NATS_PER_DIMENSION * fast.width)
    found = fingerprint_folder(folder)
    known = profile_of(found.id) is not None
    if arm == "calibrated":
        if not known:
            calibrate(str(folder), development(), segments=segments)
        return with_profile(PackSettings(), found.id)
    if known:
        return None
    exact = in_float32(fast, folder)
    chosen = suited(PackSettings(), fast, exact, found, TRIAL_BYTES, Progress(stage="trial"))
    return None if chosen.nats_per_vector is None else chosen


def packed(folder: Path, settings: PackSettings) -> Found:
    """The figures of a pack of the texts."""
    sources = [Source(name, text.encode()) for name, text in texts().items()]
    with tempfile.TemporaryDirectory() as scratch:
        report = memvec.pack(sources, Path(scratch) / "s.memvec", model=str(folder), settings=settings)
    tokens = report.source_tokens
    return {
        "nats_per_vector": settings.nats_per_vector,
        "learning_rate": settings.learning_rate,
        "tokens": tokens,
        "token_steps_per_token": report.token_steps / max(1, report.fitted_tokens),
        "tokens_per_vector": report.tokens_per_vector,
        "corrected": report.corrected_tokens / max(1, report.fitted_tokens),
        "raw": 1 - report.fitted_tokens / tokens,
        "seconds": report.seconds,
    }


def measured(model: str, arms: Sequence[str], segments: int) -> Iterator[Found]:
    """The result of every arm with a model."""
    folder = resolve(model)
    fast = load(folder, fast_dtype())
    about = {"model": Path(model).name, "width": fast.width, "machine": machine(), "torch": torch.__version__}
    for arm in arms:
        with no_profiles():
            settings = settings_of(arm, folder, fast, segments)
            result = None if settings is None else packed(folder, settings)
        yield about | {"arm": arm, "magnitude": fast.magnitude, "segments": segments, "result": result}


def line(one: Found) -> str:
    """A result in one line."""
    found = one["result"]
    if found is None:
        return f"{one['model']}, {one['arm']}: none"
    rate = "the default" if found["learning_rate"] is None else f"{found['learning_rate']:.3g}"
    return (
        f"{one['model']}, {one['arm']}: {found['token_steps_per_token']:.1f} token-steps a token, "
        f"{found['tokens_per_vector']:.1f} tokens a vector, {found['corrected']:.1%} corrected, {found['raw']:.0%} raw; "
        f"{found['nats_per_vector']:.3g} nats a vector, learning rate {rate}, {found['seconds']:.0f} s"
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Measure what is left."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("models", nargs="+", metavar="MODEL")
    parser.add_argument("--arms", default=",".join(ARMS))
    parser.add_argument("--segments", type=int, default=12, help="that calibrating fits at each of its points")
    args = parser.parse_args(argv)
    keep_memory()  # as the program does
    known: Found = json.loads(args.file.read_text("utf-8")) if args.file.exists() else {"found": []}
    found: list[Found] = known["found"]
    for model in args.models:
        done = {one["arm"] for one in found if one["model"] == Path(model).name}
        left = [arm for arm in args.arms.split(",") if arm not in done]
        for one in measured(model, left, args.segments) if left else ():
            found.append(one)
            write(args.file, known)
            print(line(one), flush=True)


if __name__ == "__main__":
    main()
