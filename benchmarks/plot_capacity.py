"""Draw a capacity measurement from the output of `memvec capacity --json`.

    python benchmarks/plot_capacity.py [JSON] [PICTURE]

By default from benchmarks/results/capacity-scaling-gpu.json into capacity-gpu.svg beside it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from memvec.cli.render_capacity import draw
from memvec.evaluation.capacity_report import Capacity, Held, summaries

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    """Read the figures and write the picture."""
    given = [Path(name) for name in sys.argv[1:]]
    source, target = given + [RESULTS / "capacity-scaling-gpu.json", RESULTS / "capacity-gpu.svg"][len(given) :]
    kept = json.loads(source.read_text("utf-8"))
    fields = {name: kept[name] for name in ("model", "anchored", "width", "vocabulary", "bound", "finished")}
    found = Capacity(**fields, held=tuple(Held(**held) for held in kept["held"]))
    draw(found, summaries(found), target)


if __name__ == "__main__":
    main()
