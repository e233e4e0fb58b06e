"""Measure what memories are worth: make memories of documents, ask about them, print the gain beside every control.

    python benchmarks/conditioning.py [--kind context|kv] [--quick] [--ratios 4,8] [--documents N] [--only GLOB]
                                      [--set report|develop|prose|xquad:PATH|nq:PATH] [--unit paragraph|article]
                                      [--budget head|even] [--score repeat|norm] [--refine N] [--bits 4|8|16]
                                      [--seed N] [--model NAME] [--forms text,chat] [--json FILE]

The set `report` was never used while the recipe was developed; `develop` was. `prose` holds passages of Python's own
documentation and of a novel of 1813, with cloze questions made by rule and with their continuations. `xquad:PATH` and
`nq:PATH` hold questions that people wrote, see question_sets.py; `--seed` draws `--documents` documents of these at
random, with all of their questions. The seed is also that of training. `--quick` takes six documents of the set,
`--documents` bounds their number, `--only` chooses them by name. Settings of memories are options too, under their own
names; those of the third line are of kv memories. On a CPU every ratio runs in a process of its own, with
its share of the cores.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from question_sets import UNITS, QuestionSet, question_set

import memvec
from memvec.checkpoints.resolve import DEFAULT_MODEL, resolve
from memvec.cli.render_evaluation import evaluation as table
from memvec.evaluation.evaluate import Evaluation, Known, evaluated
from memvec.evaluation.questions import Question
from memvec.identity.runtime import open_runtime
from memvec.lm.device import pick_device, pick_dtype
from memvec.lm.load import load
from memvec.progress import Progress
from memvec.settings import ContextSettings, KVSettings
from memvec.types import Kind

FORMS = ("text", "chat")  # how questions are put; off-topic prompts are tried in the first that is asked for
EXACT_QUICK = 2  # documents of the quick run whose exact vectors are a control
EVERY = 60  # seconds between two lines about how far it is
SETTINGS: dict[str, type[ContextSettings | KVSettings]] = {"context": ContextSettings, "kv": KVSettings}
CONTEXT = ("learning_rate", "aside_weight", "truth", "first_truth", "sentence_answers", "question_weight", "company")
OPTIONS: dict[str, Callable[[str], Any]] = {
    **dict.fromkeys((*CONTEXT, "key_rate", "value_rate"), float),
    **dict.fromkeys(("steps", "span", "stride", "refine", "bits", "aside_rows", "question_rows", "seed"), int),
    **dict.fromkeys(("budget", "score", "measure"), str),
}  # by the name of the setting


@dataclass(frozen=True)
class Job:
    """The work of one process: the documents at one ratio."""

    model: str
    kind: str  # of the memories: "context" or "kv"
    texts: dict[str, str]
    asked: dict[str, tuple[str, list[Question]]]  # by name: the form, and what is asked in it
    settings: ContextSettings | KVSettings
    exact: int = 0  # of how many texts exact vectors are fitted too, as a control
    threads: int = 1
    lean: bool = False  # judge only the memories, another's, and their harm
    harm: bool = True  # try off-topic prompts


def measure(
    job: Job, known: Known | None = None, change: Callable[[Path], None] = lambda store: None
) -> tuple[dict[str, Evaluation], dict[str, Any]]:
    """Make memories of the job's texts and evaluate them in every form: (evaluations, costs).

    `known` holds what earlier jobs of the same model found behind texts, and gets what this one finds. `change` may put
    others in place of the memories in the store.
    """
    torch.set_num_threads(job.threads)
    sources = [memvec.Source(name, text.encode()) for name, text in job.texts.items()]
    packed = {name: text.encode() for name, text in job.texts.items()}
    with tempfile.TemporaryDirectory() as folder:
        store, control = Path(folder) / "memories.memvec", Path(folder) / "exact.memvec"
        begun = time.perf_counter()
        watch = watcher(job.settings.ratio)
        options: dict[str, Any] = {"kind": job.kind, job.kind: job.settings, "watch": watch}
        report = memvec.pack(sources, store, model=job.model, **options)
        change(store)
        packing = time.perf_counter() - begun
        reading = seconds_reading(job)
        if job.exact:
            memvec.pack(sources[: job.exact], control, model=job.model, kind="exact", watch=watch)
        exact = control if job.exact else None
        begun = time.perf_counter()
        runtime = open_runtime(store)
        harmed = next(iter(job.asked)) if job.harm else None
        found = {
            name: evaluated(runtime, asked, job.kind, packed, exact, form, name == harmed, 0, known, job.lean)
            for name, (form, asked) in job.asked.items()
        }
        judging = time.perf_counter() - begun
        opened = runtime.store
        kind, documents = Kind.KV if job.kind == "kv" else Kind.CONTEXT, opened.documents().values()
        records = [opened.record(ref) for stored in documents for ref in stored.memory_of(kind)]
        tokens = sum(stored.document.tokens for stored in documents)
    return found, {
        "tokens": tokens,
        "vectors": report.context_vectors,
        "positions": report.context_vectors + report.kv_positions,
        "bytes": sum(record.kv.nbytes if record.kv else record.vectors.nbytes for record in records),
        "token_steps_per_token": sum(record.report.token_steps for record in records) / tokens,
        "seconds": packing,
        "seconds_making": sum(record.report.seconds for record in records),
        "seconds_reading": reading,
        "seconds_judging": judging,
        "gain_at_pack_time": report.kv_gain if job.kind == "kv" else report.gain,
        "harm_at_pack_time": report.harm,
    }


def seconds_reading(job: Job) -> float:
    """The time of one forward pass over each text, in the dtype that `pack` uses [s]. The first text warms up."""
    device = pick_device(None)
    lm = load(resolve(job.model), pick_dtype(None, device), device)
    texts = [lm.embed(torch.tensor([lm.encode(text)], device=lm.device)) for text in job.texts.values()]
    begun = 0.0
    with torch.inference_mode():
        for number, text in enumerate([texts[0], *texts]):
            if number == 1:
                begun = time.perf_counter()
            float(lm.hidden(text).sum())  # waits until the device has finished
    return time.perf_counter() - begun


def watcher(ratio: float) -> Callable[[Progress], None]:
    """Print the progress of a pack on standard error, once a minute."""
    latest = time.monotonic()

    def watch(progress: Progress) -> None:
        nonlocal latest
        if time.monotonic() - latest < EVERY:
            return
        latest = time.monotonic()
        left = "" if progress.seconds_left is None else f", {progress.seconds_left:.0f} s left"
        print(f"ratio {ratio:g}: {progress.stage}{left}", file=sys.stderr, flush=True)

    return watch


def machine() -> str:
    """The GPU, or the processor and its cores."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{platform.machine()}, {os.cpu_count()} cores"


def measured(jobs: Sequence[Job], together: int) -> Iterator[tuple[Job, dict[str, Evaluation], dict[str, Any]]]:
    """Run the jobs, `together` at a time, each in a process of its own; in this process if they go one at a time."""
    if together == 1:
        for job in jobs:
            yield job, *measure(job)
        return
    with ProcessPoolExecutor(together, multiprocessing.get_context("spawn")) as pool:
        running = {pool.submit(measure, job): job for job in jobs}
        for future in as_completed(running):
            yield running[future], *future.result()


def of_text(found: Evaluation) -> dict[str, Mapping[str, float]]:
    """F1 and containment of answers, as shares of those with the text in front."""
    return {
        name: {arm: score / scores["text"] for arm, score in scores.items()}
        for name, scores in (("f1", found.f1), ("contained", found.contained))
        if scores.get("text")
    }


def command_line(argv: Sequence[str] | None) -> tuple[argparse.Namespace, QuestionSet]:
    """The command line, and the set that it names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--kind", choices=["context", "kv"], default="context")
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--set", default="report", help="report, develop, prose, xquad:PATH or nq:PATH")
    parser.add_argument("--unit", choices=UNITS, default=UNITS[0], help="the documents of xquad")
    parser.add_argument("--ratios", default="4,8")
    parser.add_argument("--forms", default=",".join(FORMS), help="of questions; some models have no chat template")
    parser.add_argument("--documents", type=int)
    parser.add_argument("--only", default="*", metavar="GLOB", help="documents of the set")
    parser.add_argument("--no-exact", action="store_true", help="leave out the control of exact vectors")
    parser.add_argument("--json", type=Path)
    for name, kind in OPTIONS.items():
        known = " and ".join(made.__name__ for made in SETTINGS.values() if name in made.__dataclass_fields__)
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, help=f"of {known}")
    args = parser.parse_args(argv)
    try:
        return args, question_set(args.set, args.documents, args.seed or 0, args.only, args.quick, args.unit)
    except (OSError, ValueError) as error:
        parser.error(str(error))


def main(argv: Sequence[str] | None = None) -> None:
    """Measure every ratio and print the tables."""
    args, chosen = command_line(argv)
    asked = {form: (form, chosen.questions) for form in args.forms.split(",")}
    if chosen.further:
        asked["continuation"] = ("plain", chosen.further)
    given = {name: value for name in OPTIONS if (value := getattr(args, name)) is not None}
    settings = SETTINGS[args.kind](**given)
    gpu = torch.cuda.is_available()
    print(f"{machine()}, torch {torch.__version__}, {args.model}, {args.kind}, {given or 'defaults'}")
    print(f"set {chosen.name}{''.join(f', {name} {value}' for name, value in chosen.origin.items())}: "
          f"{len(chosen.texts)} documents, {len(chosen.questions)} questions")  # fmt: skip
    ratios = [float(part) for part in args.ratios.split(",")]
    together = 1 if gpu else min(len(ratios), torch.get_num_threads())
    # With the last ratio, which is the shortest to distil.
    exact = 0 if args.no_exact else EXACT_QUICK if args.quick else len(chosen.texts)
    jobs = [
        Job(
            args.model,
            args.kind,
            chosen.texts,
            asked,
            replace(settings, ratio=ratio),
            exact if number == len(ratios) - 1 else 0,
            torch.get_num_threads() // together,
        )
        for number, ratio in enumerate(ratios)
    ]
    results: dict[str, dict[str, Any]] = {}
    begun = time.perf_counter()
    resolve(args.model)  # once, before several processes would
    for job, found, cost in measured(jobs, together):
        ratio = job.settings.ratio
        print(f"\nratio {ratio:g}: {cost['tokens']} tokens in {cost['positions']} positions, "
              f"{cost['bytes'] / cost['tokens']:,.0f} bytes and {cost['token_steps_per_token']:.0f} token-steps a token, "
              f"{cost['seconds']:.0f} s to pack, of which {cost['seconds_making']:.1f} s to make memories, "
              f"{cost['seconds_judging']:.0f} s to judge")  # fmt: skip
        print("\n\n".join(map(table, found.values())), flush=True)
        judged = {name: asdict(one) | {"of_text": of_text(one)} for name, one in found.items()}
        results[f"{ratio:g}"] = judged | {"cost": cost}
        if args.json:  # after each ratio: a run cut off later keeps what it found
            whole = {
                "settings": asdict(settings),
                "kind": args.kind,
                "model": args.model,
                "machine": machine(),
                "set": chosen.name,
                **chosen.origin,
                "documents": list(chosen.texts),
                "ratios": results,
            }
            args.json.write_text(json.dumps(whole, indent=1) + "\n")
    print(f"\n{time.perf_counter() - begun:.0f} s in all")


if __name__ == "__main__":
    main()
