"""What a setting of `pack` costs and gives: the same segments fitted with each of several values.

    python benchmarks/sweep.py nats_per_vector 31 38 45
    python benchmarks/sweep.py learning_rate 1 3 --segments 3 --set weight_decay 0

Texts: prose (tests/tiny/corpus.txt, 1813), code (difflib of the standard library) and German (texts/german.txt, 1915).
Prints a Markdown table; --json FILE keeps the figures. These are the texts defaults are chosen on, not the texts that
results are claimed on: those are roundtrip.py's.
"""

from __future__ import annotations

import argparse
import difflib
import inspect
import json
import statistics
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from memvec.allocator import keeping_memory
from memvec.decode import certify
from memvec.fit import FitEngine
from memvec.lm import FrozenLM, fast_dtype
from memvec.model_cache import DEFAULT_MODEL, resolve
from memvec.planning import plan, tasks
from memvec.settings import PackSettings
from memvec.sources import Source

HERE = Path(__file__).parent


def texts() -> dict[str, str]:
    """A text of each sort, more than is used."""
    novel = (HERE.parent / "tests/tiny/corpus.txt").read_text(encoding="utf-8")
    code = inspect.getsource(difflib)
    return {
        "prose": novel[50_000:53_000],
        "code": code[30_000:32_000],
        "german": (HERE / "texts/german.txt").read_text(encoding="utf-8"),
    }


def trial(fast: FrozenLM, exact: FrozenLM, settings: PackSettings, segments: int) -> dict[str, Any]:
    """Fit the first segments of each text with these settings, certify them, and count."""
    sources = [Source(name, text.encode()) for name, text in texts().items()]
    every = plan(sources, {}, fast, settings).waiting
    waiting = [w for name in texts() for w in [x for x in every if x.document.name == name][:segments]]
    engine = FitEngine(fast, settings)
    engine.add(tasks(waiting, fast.width, settings))
    done = [fitted for batch in engine.run() for fitted in batch]
    proofs = certify(exact, [f.vectors for f in done], [f.task.ids for f in done], settings.margin)
    tokens = sum(len(f.task.ids) for f in done)
    seconds = sum(f.task.seconds for f in done)
    spent = sum(f.task.token_steps for f in done)
    unsolved = sum(f.corrections > settings.enough(len(f.task.ids)) for f in done)
    return {
        "tokens_per_vector": tokens / sum(f.task.vectors for f in done),
        "token_steps_per_token": spent / tokens,
        "median_steps": statistics.median(f.task.steps for f in done),
        "most_steps": max(f.task.steps for f in done),
        "unsolved": unsolved,
        "corrected": sum(len(p.corrections) for p in proofs) / tokens,
        "token_steps_per_second": spent / seconds,
        "segments": len(done),
    }


def changed(values: list[tuple[str, float]]) -> PackSettings:
    """The default settings with some numbers changed."""
    whole = {name for name, value in asdict(PackSettings()).items() if type(value) is int}
    return replace(PackSettings(), **{name: (int if name in whole else float)(value) for name, value in values})


def main() -> None:
    """Run every value and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("setting", help="a number among PackSettings' fields")
    parser.add_argument("values", nargs="+", type=float)
    parser.add_argument("--segments", type=int, default=4, help="of each sort of text")
    parser.add_argument(
        "--set", nargs=2, action="append", default=[], metavar=("SETTING", "VALUE"), help="hold another"
    )
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    folder = resolve(chosen.model)
    fast, exact = FrozenLM(folder, fast_dtype()), FrozenLM(folder)
    rows = []
    print(
        f"| {chosen.setting} | tokens/vector | token-steps/token | steps: median, most | unsolved | corrected | token-steps/s |"
    )
    print("|---|---|---|---|---|---|---|")
    with keeping_memory():
        for value in chosen.values:
            settings = changed([*chosen.set, (chosen.setting, value)])
            row = trial(fast, exact, settings, chosen.segments)
            rows.append({chosen.setting: value, **row})
            print(
                f"| {value:g} | {row['tokens_per_vector']:.2f} | {row['token_steps_per_token']:.1f} | "
                f"{row['median_steps']:g}, {row['most_steps']} | {row['unsolved']} of {row['segments']} | "
                f"{row['corrected']:.2%} | {row['token_steps_per_second']:.0f} |",
                flush=True,
            )
    if chosen.json:
        chosen.json.write_text(json.dumps({"command": sys.argv, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
