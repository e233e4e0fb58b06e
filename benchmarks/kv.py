"""Measure kv memories beside context memories and the text, by ratio, and draw gain and answers.

    python benchmarks/kv.py FILE.json [--sets report,xquad:PATH] [--arms head,head+20,even,even+20,context]
                            [--ratios 4,8,16,32] [--forms chat,text] [--documents N] [--quick] [--unit paragraph|article]
                            [--score repeat|norm] [--bits 4|8|16] [--seed N] [--model NAME] [--seconds N]
                            [--lean] [--no-harm] [--kvpress PYTHON]
    python benchmarks/kv.py FILE.json --draw

`head` and `even` are the budgets of kv memories, `+20` is 20 refine steps. `context` takes a thousand times as long, so it
is not among the arms by default. Others' memories are arms too: `cartridge+20` trains the start of PEFT's CARTRIDGE,
`kvzip`, `kvcompose`, `expected` and `snap` keep what methods of kvpress choose. rival_memories.py makes them.

Sets and forms are those of conditioning.py. The first arm of a set and ratio is judged beside every control: the text cut
to as many positions, another document's memory, nothing and more. Further arms are judged only with their own memory and
another's in front, which takes a fifth of the time. With `--lean` so is the first.

Every result is written to FILE.json at once. The same command goes on from there, with more arms, sets or ratios if it
names more. With `--seconds` no work is begun that would probably end later. At the end, or with `--draw` alone, a picture
of each set is drawn from FILE.json: FILE-SET.svg.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from conditioning import Job, machine, measure, of_text
from question_sets import UNITS, question_set
from rival_memories import cartridges, chosen_by, replace_memories

from memvec.checkpoints.resolve import DEFAULT_MODEL
from memvec.errors import counted
from memvec.evaluation.evaluate import Known
from memvec.settings import ContextSettings, KVSettings

KV = ("head", "even", "cartridge")  # arms that steps can be added to
PRESSES = ("kvzip", "kvcompose", "expected", "snap")  # of kvpress
ARMS = "head,head+20,even,even+20"
RATIOS = "4,8,16,32"
LABELS = {  # by arm, without steps
    "head": "kv head",
    "even": "kv even",
    "context": "context",
    "cartridge": "PEFT's cartridge",
    "kvzip": "KVzip",
    "kvcompose": "KVCompose",
    "expected": "ExpectedAttention",
    "snap": "SnapKV",
}
COLOURS = {arm: f"C{number}" for number, arm in enumerate(LABELS)}
SAME = ("model", "seed", "bits", "score", "documents", "quick", "unit")  # options that all results of a file share
Found = dict[str, Any]


@dataclass(frozen=True)
class Work:
    """One arm on one set at one ratio."""

    set: str  # as on the command line
    arm: str
    ratio: float

    @property
    def key(self) -> dict[str, Any]:
        """Its name in the file, in which sets are without their folders."""
        kind, colon, path = self.set.partition(":")
        return {"set": f"{kind}{colon}{Path(path).name}", "arm": self.arm, "ratio": self.ratio}


def settings_of(work: Work, args: argparse.Namespace) -> tuple[str, ContextSettings | KVSettings]:
    """The kind of an arm's memories, and their settings. ValueError for an unknown arm."""
    if work.arm == "context":
        return "context", ContextSettings(ratio=work.ratio, seed=args.seed)
    found = re.fullmatch(rf"({'|'.join(KV)})(?:\+(\d+))?", work.arm)
    if not found and work.arm not in PRESSES:
        known = ", ".join((*KV, *PRESSES))
        raise ValueError(f"{work.arm!r} is no arm. Give {known}, {', '.join(KV)} with +STEPS, or context.")
    if not found and not args.kvpress:
        raise ValueError(f"{work.arm} needs --kvpress: a python that has kvpress. kv_rivals.py says how to make one.")
    return "kv", KVSettings(
        ratio=work.ratio,
        budget="even" if found and found[1] != "head" else "head",
        refine=int(found[2] or 0) if found else 0,
        score=args.score,
        bits=args.bits,
        seed=args.seed,
        measure="none",
    )


def run(work: Work, args: argparse.Namespace, lean: bool, known: Known) -> Found:
    """Make and judge the memories, if `lean` without most controls. `known` holds what is known of texts in front."""
    chosen = question_set(work.set, args.documents, args.seed, "*", args.quick, args.unit)
    asked = {form: (form, chosen.questions) for form in args.forms.split(",")}
    kind, settings = settings_of(work, args)
    begun = time.perf_counter()
    threads = torch.get_num_threads()
    job = Job(args.model, kind, chosen.texts, asked, settings, threads=threads, lean=lean, harm=not args.no_harm)
    if not isinstance(settings, KVSettings) or re.match("head|even", work.arm):
        found, cost = measure(job, known)
    else:
        make = chosen_by(settings, args.model, work.arm, args.kvpress) if work.arm in PRESSES else cartridges(settings)
        job = replace(job, settings=replace(settings, score="norm", budget="even", refine=0))
        change = partial(replace_memories, model=args.model, texts=chosen.texts, settings=settings, make=make)
        found, cost = measure(job, known, change)
    forms = {form: asdict(one) | {"of_text": of_text(one)} for form, one in found.items()}
    for judged in forms.values():  # JSON has no nan, which stands for times that were not measured
        judged["costs"] = {name: value for name, value in judged["costs"].items() if not math.isnan(value or 0)}
    about = {"machine": machine(), "torch": torch.__version__, **chosen.origin, "settings": asdict(settings)}
    return work.key | about | {"lean": lean, "cost": cost, "forms": forms, "seconds": time.perf_counter() - begun}


def left(todo: Sequence[Work], found: Sequence[Found]) -> list[Work]:
    """The work that has no result yet."""
    done = [{name: one[name] for name in ("set", "arm", "ratio")} for one in found]
    return [work for work in todo if work.key not in done]


def results(todo: Sequence[Work], found: Sequence[Found], args: argparse.Namespace) -> Iterator[Found]:
    """Yield results until the time is used up. `found` are those that are known, and has to get each one."""
    begun, longest, known = time.monotonic(), dict[str, float](), Known()
    for work in todo:
        used = time.monotonic() - begun
        if args.seconds is not None and used + longest.get(work.arm, 0.0) > args.seconds:
            continue  # another arm may be quicker
        judged = [one for one in found if not lean(one) and {**work.key, "arm": one["arm"]}.items() <= one.items()]
        new = run(work, args, args.lean or bool(judged), known)
        longest[work.arm] = max(longest.get(work.arm, 0.0), new["seconds"])
        yield new


def lean(one: Found) -> bool:
    """Was it judged without most controls?"""
    return bool(one.get("lean"))


def write(file: Path, known: Found) -> None:
    """Write all results. A kill in between leaves the earlier ones."""
    fresh = file.with_name(f"{file.name}.new")
    fresh.write_text(json.dumps(known, indent=1) + "\n", "utf-8")
    fresh.replace(file)


def line(one: Found) -> str:
    """A result in one line."""
    size = one["cost"]["bytes"] / one["cost"]["tokens"]
    head = f"{one['set']}, {one['arm']}, 1/{one['ratio']:g}: {size:,.0f} bytes a token, {readings(one):.1f} readings"
    said = [head]
    for form, judged in one["forms"].items():
        gain = "-" if judged["gain"] is None else f"{judged['gain']:.2f}"
        right = {arm: f"{value:.0%}" for arm, value in judged["answered"].items()}
        said.append(f"{form} gain {gain}, right {right.get('memory')} (text {right.get('text')})")
    return "; ".join(said)


def readings(one: Found) -> float:
    """The seconds that making took, in those of reading the same texts once."""
    return float(one["cost"]["seconds_making"] / one["cost"]["seconds_reading"])


def draw(found: Sequence[Found], target: Path) -> None:
    """Draw gain and right answers against ratio, bytes and cost, in the first form."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    form = next(iter(found[0]["forms"]))
    figure, panels = pyplot.subplots(2, 3, figsize=(13, 7.5), sharey="row", squeeze=False)
    across: tuple[tuple[str, Callable[[Found], float], float], ...] = (
        ("tokens for each position", lambda one: one["ratio"], 1.0),
        ("bytes for each token, as stored", lambda one: one["cost"]["bytes"] / one["cost"]["tokens"], _raw(found[0])),
        ("cost of making [readings of the text]", readings, 1.0),
    )
    for column, (label, place, at_text) in enumerate(across):
        gains, answers = panels[0][column], panels[1][column]
        for arm in dict.fromkeys(one["arm"] for one in found):
            points = sorted((one for one in found if one["arm"] == arm), key=lambda one: float(one["ratio"]))
            budget, _, steps = arm.partition("+")
            style = {
                "color": COLOURS[budget],
                "linestyle": "--" if steps else "-",
                "label": LABELS[budget] + (f", {counted(int(steps), 'step')}" if steps else ""),
            }
            _gain(gains, [(place(one), one["forms"][form]) for one in points], style)
            shares = [(place(one), _share(one["forms"][form], "memory")) for one in points]
            shown = [pair for pair in shares if pair[1] is not None]
            if shown:
                answers.plot(*zip(*shown, strict=True), marker="o", **style)
        for panel in (gains, answers):
            panel.axhline(1, color="black", linewidth=0.8)
            panel.plot([at_text], [1], "k*", markersize=10, label="the text, as a cache")
            panel.axhline(0, color="grey", linewidth=0.8)
            panel.set_xscale("log")
            panel.set_xlabel(label)
    first = {float(one["ratio"]): one for one in reversed(found) if not lean(one)}
    _controls(panels[0][0], panels[1][0], [first[ratio] for ratio in sorted(first)], form)
    panels[0][0].set_ylabel("share of the text's gain")
    panels[1][0].set_ylabel("right answers, of those with the text")
    ratios = sorted({one["ratio"] for one in found})
    for row in panels:
        row[0].set_xticks([1, *ratios], [f"{ratio:g}" for ratio in (1, *ratios)])
        row[0].minorticks_off()
        row[-1].legend(*row[0].get_legend_handles_labels(), fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    judged = found[0]["forms"][form]
    figure.suptitle(
        f"{found[0]['set']}, {form} form: {judged['documents']} documents, {judged['questions']} questions, bars 95 %"
    )
    figure.tight_layout()
    figure.savefig(target, bbox_inches="tight", metadata={"Date": None})
    pyplot.close(figure)
    print(target)


def _raw(one: Found) -> float:
    """Bytes of the text's own cache for each token."""
    costs = next(iter(one["forms"].values()))["costs"]
    return float(costs["cache_text"] / costs["positions_text"])


def _gain(panel: Any, points: Sequence[tuple[float, Found]], style: dict[str, Any]) -> None:
    shown = [(place, one) for place, one in points if one["gain"] is not None]
    if not shown:
        return
    gains = [one["gain"] for _, one in shown]
    bounds = [(one["gain_low"], one["gain_high"]) for _, one in shown]
    spread = None
    if all(low is not None for low, _ in bounds):
        spread = [
            [max(0.0, gain - low) for gain, (low, _) in zip(gains, bounds, strict=True)],
            [max(0.0, high - gain) for gain, (_, high) in zip(gains, bounds, strict=True)],
        ]
    panel.errorbar([place for place, _ in shown], gains, yerr=spread, marker="o", capsize=3, **style)


def _share(judged: Found, arm: str) -> float | None:
    """Right answers behind an arm, as a share of those behind the text."""
    answered = judged["answered"]
    return answered[arm] / answered["text"] if arm in answered and answered["text"] else None


def _controls(gains: Any, answers: Any, points: Sequence[Found], form: str) -> None:
    """The text at equal positions and another document's memory, against the ratio."""

    def plot(panel: Any, label: str, figure: Callable[[Found], float | None], style: str) -> None:
        values = [(one["ratio"], figure(one["forms"][form])) for one in points]
        shown = [pair for pair in values if pair[1] is not None]
        if shown:
            panel.plot(*zip(*shown, strict=True), style, marker=".", label=label)

    def best(judged: Found) -> float | None:
        values = [value for value in judged["text_at_equal_positions"].values() if value is not None]
        return max(values, default=None)

    plot(gains, "text cut to as many positions, the best cut", best, "k:")
    plot(gains, "another's memory", lambda judged: judged["shuffled"], "m:")
    plot(answers, "the last tokens of the text, as many", lambda judged: _share(judged, "last"), "g:")
    plot(answers, "another's memory", lambda judged: _share(judged, "shuffled"), "m:")
    plot(answers, "nothing", lambda judged: _share(judged, "none"), "k:")


def main(argv: Sequence[str] | None = None) -> None:
    """Measure what is left, and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="results; a picture of each set is put beside it")
    parser.add_argument("--sets", default="report")
    parser.add_argument("--arms", default=ARMS)
    parser.add_argument("--ratios", default=RATIOS)
    parser.add_argument("--forms", default="chat,text")
    parser.add_argument("--documents", type=int, help="of each set")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--unit", choices=UNITS, default=UNITS[0])
    parser.add_argument("--score", choices=["repeat", "norm"], default="repeat")
    parser.add_argument("--bits", type=int, choices=[4, 8, 16], default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--seconds", type=float, help="begin nothing that would probably end later")
    parser.add_argument("--lean", action="store_true", help="judge no arm beside every control")
    parser.add_argument("--no-harm", action="store_true", help="leave out prompts on other subjects")
    parser.add_argument("--kvpress", metavar="PYTHON", help="an interpreter that has kvpress")
    parser.add_argument("--draw", action="store_true", help="draw only")
    args = parser.parse_args(argv)
    about = {name: getattr(args, name) for name in SAME}
    known: Found = json.loads(args.file.read_text("utf-8")) if args.file.exists() else {"about": about, "found": []}
    found: list[Found] = known["found"]
    if not args.draw:
        if known["about"] != about:
            parser.error(
                f"{args.file} holds results of other options: {known['about']}, now {about}. Name another file."
            )
        ratios = [float(ratio) for ratio in args.ratios.split(",")]
        todo = [Work(s, arm, ratio) for s in args.sets.split(",") for ratio in ratios for arm in args.arms.split(",")]
        try:
            for work in todo:
                settings_of(work, args)
                question_set(work.set, args.documents, args.seed, "*", args.quick, args.unit)
        except (OSError, ValueError) as error:
            parser.error(str(error))
        for one in results(left(todo, found), found, args):
            found.append(one)
            write(args.file, known)
            print(line(one), flush=True)
        if waiting := left(todo, found):
            print(f"{len(waiting)} of {len(todo)} are left. Run the same command to go on.")
    for name in dict.fromkeys(one["set"] for one in found):
        of_set = [one for one in found if one["set"] == name]
        draw(of_set, args.file.with_name(f"{args.file.stem}-{re.sub(r'[^A-Za-z0-9]+', '-', name)}.svg"))


if __name__ == "__main__":
    main()
