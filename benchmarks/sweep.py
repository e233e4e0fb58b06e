"""Fit the same segments with each of several values of one setting of `pack`, and print cost and quality.

    python benchmarks/sweep.py nats_per_vector 31 38 45
    python benchmarks/sweep.py learning_rate 1 3 --segments 3 --set weight_decay 0

Texts: prose (tests/tiny/corpus.txt, 1813), code (difflib of the standard library) and German (texts/german.txt, 1915).
Prints a Markdown table; --json FILE keeps the figures. Defaults are chosen on these texts. Results are measured on others,
those of roundtrip.py.
"""

from __future__ import annotations

import argparse
import difflib
import inspect
import json
import sys
from dataclasses import asdict, replace
from pathlib import Path

from memvec.checkpoints.resolve import DEFAULT_MODEL, resolve
from memvec.cli.allocator import keep_memory
from memvec.filesystem.sources import Source
from memvec.lm.device import fast_dtype
from memvec.lm.load import load
from memvec.packing.calibrate import fitted_once
from memvec.settings import PackSettings

HERE = Path(__file__).parent


def texts() -> dict[str, str]:
    """A text of each kind, longer than needed."""
    novel = (HERE.parent / "tests/tiny/corpus.txt").read_text(encoding="utf-8")
    code = inspect.getsource(difflib)
    return {
        "prose": novel[50_000:53_000],
        "code": code[30_000:32_000],
        "german": (HERE / "texts/german.txt").read_text(encoding="utf-8"),
    }


def changed(values: list[tuple[str, float]]) -> PackSettings:
    """The default settings with some numbers changed."""
    kinds = {name: type(value) for name, value in asdict(PackSettings()).items() if value is not None}
    return replace(PackSettings(), **{name: kinds.get(name, float)(value) for name, value in values})


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
    fast, exact = load(folder, fast_dtype()), load(folder)
    rows = []
    print(
        f"| {chosen.setting} | tokens/vector | token-steps/exact token | steps: median, most | unsolved | corrected |"
    )
    print("|---|---|---|---|---|---|")
    keep_memory()  # as the program does
    sources = [Source(name, text.encode()) for name, text in texts().items()]
    for value in chosen.values:
        settings = changed([*chosen.set, (chosen.setting, value)])
        point = fitted_once(fast, exact, sources, settings, chosen.segments * len(sources))
        rows.append({chosen.setting: value, **asdict(point)})
        print(
            f"| {value:g} | {point.tokens_per_vector:.2f} | {point.token_steps:.1f} | {point.steps:g}, {point.most_steps:g} | "
            f"{point.unsolved:.0%} | {point.corrected:.2%} |",
            flush=True,
        )
    if chosen.json:
        chosen.json.write_text(json.dumps({"command": sys.argv, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
