"""What memories are worth: distil documents of invented facts, ask about them, and print the gain beside every control.

    python benchmarks/conditioning.py [--quick] [--ratios 4,8] [--set report|develop|prose] [--documents N] [--json FILE]

`--quick` takes six documents of the set `report` that were never used while the recipe was developed (that was done on
`develop` alone); it took 38 minutes on two slow cores with other work beside. Without it every document of the set is distilled; `--documents`
bounds how many. `prose` are passages of Python's own documentation and of a novel of 1813 with cloze questions made by rule.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import torch

import memvec
from memvec.cli.render_evaluation import evaluation as table
from memvec.evaluation import Evaluation, evaluate
from memvec.model_cache import DEFAULT_MODEL
from memvec.questions import Question, cloze_questions, read_questions
from memvec.settings import ContextSettings

HERE = Path(__file__).parent
QUICK = 6
FORMS = {"text": True, "chat": False}  # how questions are put, and whether off-topic prompts are tried in it
OPTIONS = dict.fromkeys(("learning_rate", "aside_weight", "truth", "company"), float)  # of ContextSettings
OPTIONS |= dict.fromkeys(("steps", "span", "stride", "aside_rows", "question_rows", "seed"), int)
SHORT = 700  # bytes; the quick run takes documents up to this


def facts(name: str, quick: bool, most: int | None) -> tuple[dict[str, str], list[Question]]:
    """(texts, questions) of a set of invented facts; the quick ones are short and evenly spaced over the set."""
    asked = read_questions(HERE / "facts" / name / "questions.jsonl")
    names = sorted({question.document for question in asked})
    texts = {n: (HERE / "facts" / name / n).read_text("utf-8").strip() for n in names}
    if quick:
        short = [n for n in names if len(texts[n]) <= SHORT]
        names = short[:: max(1, len(short) // QUICK)][:QUICK]
    names = names[:most]
    return {n: texts[n] for n in names}, [question for question in asked if question.document in names]


def prose() -> tuple[dict[str, str], list[Question]]:
    """(texts, cloze questions) of passages that nobody wrote for this."""
    novel = (HERE.parent / "tests/tiny/corpus.txt").read_text("utf-8")
    passages = [novel[at : at + 600] for at in range(20_000, 120_000, 25_000)]
    passages += [topics[name][200:800] for name in ("with", "bltin-types", "naming", "exceptions") if name in topics]
    texts = {f"{number}.txt": passage.strip() for number, passage in enumerate(passages)}
    return texts, [q for name, text in texts.items() for q in cloze_questions(name, text, 8)]


def measure(
    texts: dict[str, str], asked: list[Question], ratio: float, settings: ContextSettings, folder: Path, exact: bool
) -> tuple[dict[str, Evaluation], dict[str, Any]]:
    """Distil `texts` at `ratio` and judge; with `exact`, fit their exact vectors too, as a control."""
    sources = [memvec.Source(name, text.encode()) for name, text in texts.items()]
    store = folder / f"r{ratio:g}.memvec"
    begun = time.perf_counter()
    report = memvec.pack(sources, store, kind="context", context=replace(settings, ratio=ratio))
    seconds = time.perf_counter() - begun
    control = folder / "exact.memvec"
    if exact:
        memvec.pack(sources, control, kind="exact")
    packed = {name: text.encode() for name, text in texts.items()}
    found = {
        form: evaluate(
            store, asked, texts=packed, exact=control if control.exists() else None, template=form, off_topic=full
        )
        for form, full in FORMS.items()
    }
    opened = memvec.Store.open(store)
    records = [opened.record(ref) for stored in opened.documents().values() for ref in stored.memory]
    tokens = sum(record.tokens for record in records)
    cost = {
        "tokens": tokens,
        "vectors": report.context_vectors,
        "token_steps_per_token": sum(record.report.token_steps for record in records) / tokens,
        "seconds": seconds,
        "gain_at_pack_time": report.gain,
        "harm_at_pack_time": report.harm,
    }
    return found, cost


def main() -> None:
    """Measure every ratio and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--set", choices=["report", "develop", "prose"], default="report")
    parser.add_argument("--ratios", default="4,8")
    parser.add_argument("--documents", type=int)
    parser.add_argument("--no-exact", action="store_true", help="leave out the control of exact vectors")
    parser.add_argument("--json", type=Path)
    for name, kind in OPTIONS.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, help="of ContextSettings")
    args = parser.parse_args()
    texts, asked = prose() if args.set == "prose" else facts(args.set, args.quick, args.documents)
    chosen = {name: value for name in OPTIONS if (value := getattr(args, name)) is not None}
    settings = ContextSettings(**chosen)
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, {DEFAULT_MODEL}, {chosen or 'defaults'}"
    )
    results: dict[str, dict[str, Any]] = {}
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        for number, ratio in enumerate(float(part) for part in args.ratios.split(",")):
            exact = number == 0 and not args.no_exact
            found, cost = measure(texts, asked, ratio, settings, Path(folder), exact)
            print(f"\nratio {ratio:g}: {cost['tokens']} tokens in {cost['vectors']} vectors, "
                  f"{cost['token_steps_per_token']:.0f} token-steps a token, {cost['seconds']:.0f} s")  # fmt: skip
            print("\n\n".join(map(table, found.values())), flush=True)
            results[f"{ratio:g}"] = {form: asdict(one) for form, one in found.items()} | {"cost": cost}
            if args.json:  # after each ratio: a run cut off later keeps what it found
                whole = {"settings": asdict(settings), "set": args.set, "ratios": results}
                args.json.write_text(json.dumps(whole, indent=1) + "\n")
    print(f"\n{time.perf_counter() - begun:.0f} s in all")


if __name__ == "__main__":
    main()
