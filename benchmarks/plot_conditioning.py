"""Draw the gain against the ratio, beside the controls, from the output of conditioning.py --json.

    python benchmarks/plot_conditioning.py [JSON ...]

By default from benchmarks/results/conditioning*.json. Writes conditioning.svg there.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot

RESULTS = Path(__file__).parent / "results"
FORMS = {"text": "black", "chat": "tab:gray"}  # how questions are put; the controls are in the first
CONTROLS = {
    "shuffled": "another document's memory",
    "random": "noise of its norms",
    "exact": "exact vectors",
    "last": "text, last tokens",
    "first": "text, first tokens",
    "sentences": "text, spaced sentences",
}


def main() -> None:
    """Read the figures and write the picture."""
    sources = [Path(name) for name in sys.argv[1:]] or sorted(RESULTS.glob("conditioning*.json"))
    target = RESULTS / "conditioning.svg"
    found = {ratio: one for path in sources for ratio, one in json.loads(path.read_text())["ratios"].items()}
    ratios = sorted(found, key=float)
    places = range(len(ratios))
    figure, axes = pyplot.subplots(figsize=(7, 4.2))
    for form, colour in FORMS.items():
        judged = [found[r][form] for r in ratios]
        gains = [e["gain"] for e in judged]
        spread = [[e["gain"] - e["gain_low"] for e in judged], [e["gain_high"] - e["gain"] for e in judged]]
        axes.errorbar(
            places,
            gains,
            yerr=spread,
            marker="o",
            linewidth=2,
            capsize=4,
            color=colour,
            label=f"memory, {form} form, 95 %",
        )
    found = {ratio: found[ratio]["text"] for ratio in ratios}
    for name, label in CONTROLS.items():
        values = [found[r][name] if name in found[r] else found[r]["text_at_equal_positions"][name] for r in ratios]
        shown = [(place, value) for place, value in zip(places, values, strict=True) if value is not None]
        if shown:
            axes.plot(*zip(*shown, strict=True), marker=".", linestyle="--" if "text" in label else ":", label=label)
    axes.axhline(0, color="grey", linewidth=0.8)
    axes.axhline(1, color="grey", linewidth=0.8)
    axes.set_xticks(list(places), [f"{float(r):g}" for r in ratios])
    axes.set(xlabel="tokens per vector", ylabel="share of the text's gain", ylim=(-0.4, 1.2))
    counted = found[ratios[0]]
    axes.set_title(
        f"{counted['documents']} documents, {counted['questions']} questions about invented facts", fontsize=10
    )
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(target, bbox_inches="tight", metadata={"Date": None})
    print(target)


if __name__ == "__main__":
    main()
