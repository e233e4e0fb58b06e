"""`memvec capacity`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click
from click.exceptions import Exit

from memvec.checkpoints.resolve import DEFAULT_MODEL
from memvec.cli import signals
from memvec.cli.output import Output, common
from memvec.cli.texts import read_texts
from memvec.errors import UsageError


@click.command("capacity")
@click.option(
    "-m", "--model", default=DEFAULT_MODEL, show_default=True, help="Name, checkpoint folder, GGUF or hub id."
)
@click.option("--text", "texts", multiple=True, metavar="FILE", help="Text to take passages from. Repeatable.")
@click.option("--random-words", is_flag=True, help="Also words in no order, which no model can expect.")
@click.option("--vectors", default="1", show_default=True, metavar="M,…", help="Numbers of vectors to fill.")
@click.option("--passages", "count", type=int, default=10, show_default=True, help="Of each text.")
@click.option("--steps", type=int, help="Most optimiser steps for a passage. [default: 1000]")
@click.option("--stage", type=int, help="Most of these in one go, cooling over the whole of it. [default: 400]")
@click.option(
    "--starts", type=int, help="Fits of a passage's beginnings, of which the most promising goes on. [default: 1]"
)
@click.option("--learning-rate", type=float, help="Of AdamW. [default: 5]")
@click.option(
    "--no-anchor", is_flag=True, help="Without the embedding of the model's BOS token in front, as published."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of starting vectors and random words.")
@click.option(
    "--plot", metavar="FILE", help="Draw capacity by vectors, and surprisal before and after (.png, .svg, .pdf)."
)
@click.option("--device", help="Torch device. [default: cuda if there is one, else cpu]")
@click.option("--dtype", type=click.Choice(["bfloat16", "float32"]), help="What fits run in. [default: by processor]")
@common
def command(
    model: str,
    texts: tuple[str, ...],
    random_words: bool,
    vectors: str,
    count: int,
    steps: int | None,
    stage: int | None,
    starts: int | None,
    learning_rate: float | None,
    no_anchor: bool,
    seed: int,
    plot: str | None,
    device: str | None,
    dtype: str | None,
    output: Output,
) -> None:
    """Measure how much vectors of a model can hold: the longest beginning of a text that decodes exactly.

    Exactly, with what a pack stores beside the vectors: corrections of at most 3 % of the tokens, rounded up.
    With neither --text nor --random-words, passages are taken from Python's own handbook. Ctrl-C gives what is held
    by then, once the first beginnings of all texts are through.
    """
    from memvec.cli.render_capacity import check_plot, draw, table
    from memvec.evaluation.capacity import CapacitySettings, capacity
    from memvec.evaluation.capacity_report import summaries
    from memvec.evaluation.samples import handbook

    if plot:
        check_plot(Path(plot))  # before the hours of work
    given = read_texts(texts) or ({} if random_words else handbook())
    chosen = {
        "steps": steps,
        "stage": stage,
        "starts": starts,
        "learning_rate": learning_rate,
        "seed": seed,
        "anchor": not no_anchor,
    }
    settings = CapacitySettings(**{name: value for name, value in chosen.items() if value is not None})  # type: ignore[arg-type]
    found = capacity(
        given, _numbers(vectors), count=count, random_words=random_words, model=model, settings=settings, device=device,
        dtype=dtype, watch=output.watch,
    )  # fmt: skip
    rows = summaries(found)
    output.result({**asdict(found), "summary": [asdict(row) for row in rows]}, table(found, rows))
    if plot:
        draw(found, rows, Path(plot))  # last: a full disk must not cost the figures
    if not found.finished:
        output.note(f"{signals.interrupted()}; what was done by then is above")
        raise Exit(signals.exit_code())


def _numbers(text: str) -> list[int]:
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"--vectors is {text!r}, expected numbers like 1,2,4.") from None
    return sorted(set(numbers))
