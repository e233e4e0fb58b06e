"""`memvec calibrate`."""

from __future__ import annotations

from dataclasses import asdict

import click

from memvec.checkpoints.resolve import DEFAULT_MODEL
from memvec.cli.output import Output, common
from memvec.cli.render import profile as table
from memvec.cli.texts import read_texts


@click.command("calibrate")
@click.option(
    "-m", "--model", default=DEFAULT_MODEL, show_default=True, help="Name, checkpoint folder, GGUF or hub id."
)
@click.option("--text", "texts", multiple=True, metavar="FILE", help="Text like yours. [default: Python's handbook]")
@click.option("--segments", type=int, default=12, show_default=True, help="Fitted for each point.")
@click.option("--device", help="Torch device. [default: cuda if there is one, else cpu]")
@click.option("--dtype", type=click.Choice(["bfloat16", "float32"]), help="What fits run in. [default: by processor]")
@common
def command(
    model: str, texts: tuple[str, ...], segments: int, device: str | None, dtype: str | None, output: Output
) -> None:
    """Measure what a vector of MODEL can carry at which cost, and keep it for `pack --preset`.

    Fits the sample six times: for the default model a quarter of an hour on two cores with AVX512-BF16, more without.
    """
    from memvec.packing.calibrate import calibrate

    found = calibrate(
        model, read_texts(texts) or None, segments=segments, device=device, dtype=dtype, watch=output.watch
    )
    output.result(asdict(found), table(found))
