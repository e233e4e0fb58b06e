"""`memvec calibrate`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, get_args

import click

from memvec.checkpoints.resolve import DEFAULT_MODEL
from memvec.cli import options
from memvec.cli.options import common, examples
from memvec.cli.output import Output
from memvec.cli.sample_texts import read_texts
from memvec.cli.tables import table
from memvec.filesystem.plain_text import printable

if TYPE_CHECKING:
    from memvec.packing.calibrate import Profile


@click.command("calibrate", epilog=examples("memvec calibrate", "memvec calibrate -m ./my-model --text sample.txt"))
@options.model(DEFAULT_MODEL)
@options.texts
@click.option(
    "--segments", type=int, default=12, show_default=True, help="Segments to fit for each point of the curve."
)
@options.device
@options.dtype
@common
def command(
    model: str, texts: tuple[str, ...], segments: int, device: str | None, dtype: str | None, output: Output
) -> None:
    """Measure what packing costs with a model.

    Fits a sample with six budgets and stores the curve. `pack --preset` and `pack --dry-run` use it. For the default
    model this takes a few minutes on two cores with AVX512-BF16, and longer without.
    """
    from memvec.packing.calibrate import calibrate

    found = calibrate(
        model, read_texts(texts) or None, segments=segments, device=device, dtype=dtype, watch=output.watch
    )
    output.result(asdict(found), lambda: _curve(found))


def _curve(p: Profile) -> str:
    """A row for each budget, and the presets at their points."""
    from memvec.packing.calibrate import Preset

    chosen = {name: p.point(name) for name in get_args(Preset)}
    rows = [("nats a vector", "tokens/vector", "token-steps/token", "steps", "corrected", "unsolved", "preset")]
    rows += [
        (
            f"{point.nats_per_vector:.1f}",
            f"{point.tokens_per_vector:.2f}",
            f"{point.token_steps:.1f}",
            f"{point.steps:.0f}",
            f"{point.corrected:.1%}",
            f"{point.unsolved:.0%}",
            ", ".join(name for name, own in chosen.items() if own == point),
        )
        for point in p.points
    ]
    head = f"{printable(p.model)} (fingerprint {p.fingerprint}), learning rate {p.learning_rate:g}, sample: {printable(p.sample)}"
    return f"{head}\n{table(rows, 'rrrrrrl')}"
