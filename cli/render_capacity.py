"""The table and the picture of `capacity`, with the published figure."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memvec.checkpoints.resolve import DEFAULT_MODEL
from memvec.cli import tables
from memvec.errors import MissingExtraError, UsageError
from memvec.filesystem.paths import outside
from memvec.filesystem.plain_text import printable
from memvec.formats.files import write_atomically

if TYPE_CHECKING:
    from memvec.evaluation.capacity_report import Capacity, Summary

SUFFIXES = (".png", ".svg", ".pdf")
# One vector, texts of PG-19, exact with the true text fed back (Tarasov et al. 2026).
PUBLISHED = {
    DEFAULT_MODEL: "published for SmolLM2-135M, one vector, PG-19, the text fed back: 63.1 ± 17.9 tokens, over-parametrised 77.7 ± 23 "
    "(Tarasov et al. 2026)"
}


def table(found: Capacity, rows: Sequence[Summary]) -> str:
    """A row for each text and number of vectors."""
    lines = [
        ("text", "vectors", "tokens held", "uncorrected", "99 % fed back", "gain", "bits", "of the bound", "of linear")
    ]
    for r in rows:
        more = "+" if r.exhausted else ""  # some texts were too short to measure more
        lines.append(
            (
                printable(r.source),
                str(r.vectors),
                f"{r.tokens:.1f}{more} ± {r.tokens_spread:.1f}",
                f"{r.alone:.1f}",
                f"{r.published:.1f}",
                f"{r.gain:.1f}",
                f"{r.bits:.0f} ± {r.bits_spread:.0f}",
                f"{r.utilisation:.1%}",
                "-" if r.scaling is None else f"{r.scaling:.0%}",
            )
        )
    known = PUBLISHED.get(found.model)
    notes = [
        f"bound: {found.bound:.0f} tokens a vector ({found.width} elements of 16 bits over a vocabulary of {found.vocabulary:,})",
        *(["vectors: trained ones; the embedding of the model's BOS token stands in front"] if found.anchored else []),
        "tokens held: the longest beginning that decodes exactly, with at most 3 % of its tokens (rounded up) corrected, as in a pack",
        "gain: tokens predicted rightly with the vectors, minus those without",
        *([known] if known else []),
    ]
    return "\n".join([tables.table(lines), "", *(f"  {note}" for note in notes)])


def check_plot(path: Path) -> None:
    """Check the file of --plot before the measurement.

    Raises:
        UsageError: The ending is unknown, the folder does not exist, or the file lies in a store.
        MissingExtraError: matplotlib is not installed.
    """
    outside(path, "plot")
    if path.suffix not in SUFFIXES:
        raise UsageError(f"--plot is {str(path)!r}, expected a name ending in {', '.join(SUFFIXES)}.")
    if not path.parent.is_dir():
        raise UsageError(f"--plot is {str(path)!r}, but there is no folder {str(path.parent)!r}. Make it first.")
    _pyplot()


def draw(found: Capacity, rows: Sequence[Summary], path: Path) -> None:
    """Draw capacity by number of vectors, and the surprisal of each text without and with vectors."""
    pyplot = _pyplot()
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4.2))
    for source in dict.fromkeys(r.source for r in rows):
        own, name = [r for r in rows if r.source == source], printable(source).replace("$", r"\$")  # no formulas
        left.errorbar(
            [r.vectors for r in own], [r.tokens for r in own], [r.tokens_spread for r in own], marker="o", capsize=3, label=name
        )  # fmt: skip
        held = [h for h in found.held if h.source == source]
        right.scatter(
            [h.nats_before / math.log(2) for h in held], [h.nats_after / math.log(2) for h in held], s=14, label=name
        )
    left.set(xlabel="vectors", ylabel="tokens held", xscale="log", yscale="log")
    ticks = sorted({r.vectors for r in rows})
    left.set_xticks(ticks, [str(t) for t in ticks])
    left.set_xticks([], minor=True)
    left.yaxis.set_major_formatter("{x:g}")
    left.yaxis.set_minor_formatter("{x:g}")
    right.set(xlabel="bits of the text held, nothing in front", ylabel="bits left with the vectors in front")
    left.legend()
    figure.tight_layout()
    drawn = io.BytesIO()
    figure.savefig(drawn, format=path.suffix[1:])
    pyplot.close(figure)
    write_atomically(path, drawn.getvalue())


def _pyplot() -> Any:
    try:
        import matplotlib
    except ImportError as error:
        raise MissingExtraError("--plot needs matplotlib. Install it with: pip install 'memvec[plot]'") from error
    matplotlib.use("agg")
    from matplotlib import pyplot

    return pyplot
