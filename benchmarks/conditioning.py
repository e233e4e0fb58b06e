"""Measure what memories are worth: distil documents of invented facts, ask about them, print the gain beside every control.

    python benchmarks/conditioning.py [--quick] [--ratios 4,8] [--set report|develop|prose] [--documents N] [--only GLOB]
                                      [--json FILE]

The set `report` was never used while the recipe was developed; `develop` was. `prose` holds passages of Python's own
documentation and of a novel of 1813, with cloze questions made by rule and with their continuations. `--quick` takes six
documents of the set, `--documents` bounds their number, `--only` chooses them by name. On a CPU every ratio runs in a process
of its own, with its share of the cores.
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
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import torch

import memvec
from memvec.checkpoints.resolve import DEFAULT_MODEL, resolve
from memvec.cli.render_evaluation import evaluation as table
from memvec.evaluation.evaluate import Evaluation, evaluate
from memvec.evaluation.questions import Question, cloze_questions, read_questions
from memvec.progress import Progress
from memvec.settings import ContextSettings

HERE = Path(__file__).parent
QUICK = 6
FORMS = ("text", "chat")  # how questions are put; off-topic prompts are tried in the first
PASSAGE, FURTHER, FIRST_WORDS = 600, 250, 4  # characters of a passage and of how it goes on; words of that given
EXACT_QUICK = 2  # documents of the quick run whose exact vectors are a control
EVERY = 60  # seconds between two lines about how far it is
OPTIONS = dict.fromkeys(
    ("learning_rate", "aside_weight", "truth", "first_truth", "sentence_answers", "question_weight", "company"), float
)  # of ContextSettings
OPTIONS |= dict.fromkeys(("steps", "span", "stride", "aside_rows", "question_rows", "seed"), int)
SHORT = 700  # bytes; the quick run takes documents up to this


def facts(name: str, quick: bool, most: int | None, only: str) -> tuple[dict[str, str], list[Question]]:
    """(texts, questions) of a set of invented facts. The quick ones are short and evenly spaced over the set."""
    asked = read_questions(HERE / "facts" / name / "questions.jsonl")
    names = sorted({question.document for question in asked if fnmatch(question.document, only)})
    texts = {n: (HERE / "facts" / name / n).read_text("utf-8").strip() for n in names}
    if quick:
        short = [n for n in names if len(texts[n]) <= SHORT]
        names = short[:: max(1, len(short) // QUICK)][:QUICK]
    names = names[:most]
    return {n: texts[n] for n in names}, [question for question in asked if question.document in names]


def passages() -> list[tuple[str, str]]:
    """(passage, its continuation) from published texts."""
    novel = (HERE.parent / "tests/tiny/corpus.txt").read_text("utf-8")
    sources = [(novel, at) for at in range(20_000, 120_000, 25_000)]
    sources += [(topics[name], 200) for name in ("with", "bltin-types", "naming", "exceptions") if name in topics]
    ends = [at + PASSAGE for _, at in sources]
    return [(t[at:end].strip(), t[end : end + FURTHER].strip()) for (t, at), end in zip(sources, ends, strict=True)]


def prose(most: int | None) -> tuple[dict[str, str], list[Question], list[Question]]:
    """(texts, cloze questions, continuations) of evenly spaced passages."""
    texts: dict[str, str] = {}
    further: list[Question] = []
    found = passages()
    for number, (passage, rest) in enumerate(found[:: max(1, len(found) // (most or len(found)))][:most]):
        words = rest.split(" ")
        texts[f"{number}.txt"] = passage
        first, then = " ".join(words[:FIRST_WORDS]), " " + " ".join(words[FIRST_WORDS:])
        further.append(Question(f"{number}.txt", first, then))
    return texts, [q for name, text in texts.items() for q in cloze_questions(name, text, 8)], further


@dataclass(frozen=True)
class Job:
    """The work of one process: the documents at one ratio."""

    texts: dict[str, str]
    asked: dict[str, tuple[str, list[Question]]]  # by name: the form, and what is asked in it
    settings: ContextSettings
    exact: int  # of how many texts exact vectors are fitted too, as a control
    threads: int


def measure(job: Job) -> tuple[dict[str, Evaluation], dict[str, Any]]:
    """Distil the job's texts and evaluate them in every form: (evaluations, costs)."""
    torch.set_num_threads(job.threads)
    sources = [memvec.Source(name, text.encode()) for name, text in job.texts.items()]
    packed = {name: text.encode() for name, text in job.texts.items()}
    with tempfile.TemporaryDirectory() as folder:
        store, control = Path(folder) / "context.memvec", Path(folder) / "exact.memvec"
        begun = time.perf_counter()
        report = memvec.pack(sources, store, kind="context", context=job.settings, watch=watcher(job.settings.ratio))
        distilling = time.perf_counter() - begun
        if job.exact:
            memvec.pack(sources[: job.exact], control, kind="exact", watch=watcher(job.settings.ratio))
        exact = control if job.exact else None
        begun = time.perf_counter()
        found = {
            name: evaluate(store, asked, texts=packed, exact=exact, template=form, off_topic=name == FORMS[0])
            for name, (form, asked) in job.asked.items()
        }
        opened = memvec.Store.open(store)
        records = [opened.record(ref) for stored in opened.documents().values() for ref in stored.memory]
    tokens = sum(record.tokens for record in records)
    return found, {
        "tokens": tokens,
        "vectors": report.context_vectors,
        "token_steps_per_token": sum(record.report.token_steps for record in records) / tokens,
        "seconds": distilling,
        "seconds_judging": time.perf_counter() - begun,
        "gain_at_pack_time": report.gain,
        "harm_at_pack_time": report.harm,
    }


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


def main() -> None:
    """Measure every ratio and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--set", choices=["report", "develop", "prose"], default="report")
    parser.add_argument("--ratios", default="4,8")
    parser.add_argument("--documents", type=int)
    parser.add_argument("--only", default="*", metavar="GLOB", help="documents of the set")
    parser.add_argument("--no-exact", action="store_true", help="leave out the control of exact vectors")
    parser.add_argument("--json", type=Path)
    for name, kind in OPTIONS.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, help="of ContextSettings")
    args = parser.parse_args()
    further: list[Question] = []
    if args.set == "prose":
        texts, questions, further = prose(args.documents)
    else:
        texts, questions = facts(args.set, args.quick, args.documents, args.only)
    asked = {form: (form, questions) for form in FORMS} | ({"continuation": ("plain", further)} if further else {})
    chosen = {name: value for name in OPTIONS if (value := getattr(args, name)) is not None}
    settings = ContextSettings(**chosen)
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, {DEFAULT_MODEL}, {chosen or 'defaults'}"
    )
    ratios = [float(part) for part in args.ratios.split(",")]
    together = 1 if torch.cuda.is_available() else min(len(ratios), torch.get_num_threads())
    controls = EXACT_QUICK if args.quick else len(texts)  # with the last ratio, which is the shortest to distil
    jobs = [
        Job(
            texts,
            asked,
            replace(settings, ratio=ratio),
            0 if args.no_exact or number < len(ratios) - 1 else controls,
            torch.get_num_threads() // together,
        )
        for number, ratio in enumerate(ratios)
    ]
    results: dict[str, dict[str, Any]] = {}
    begun = time.perf_counter()
    resolve(DEFAULT_MODEL)  # once, before several processes would
    with ProcessPoolExecutor(together, multiprocessing.get_context("spawn")) as pool:
        running = {pool.submit(measure, job): job for job in jobs}
        for future in as_completed(running):
            found, cost = future.result()
            ratio = running[future].settings.ratio
            print(f"\nratio {ratio:g}: {cost['tokens']} tokens in {cost['vectors']} vectors, "
                  f"{cost['token_steps_per_token']:.0f} token-steps a token, {cost['seconds']:.0f} s to distil, "
                  f"{cost['seconds_judging']:.0f} s to judge")  # fmt: skip
            print("\n\n".join(map(table, found.values())), flush=True)
            results[f"{ratio:g}"] = {name: asdict(one) for name, one in found.items()} | {"cost": cost}
            if args.json:  # after each ratio: a run cut off later keeps what it found
                whole = {"settings": asdict(settings), "set": args.set, "ratios": results}
                args.json.write_text(json.dumps(whole, indent=1) + "\n")
    print(f"\n{time.perf_counter() - begun:.0f} s in all")


if __name__ == "__main__":
    main()
