"""`memvec capacity`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from click.exceptions import Exit

from memvec.checkpoints.resolve import DEFAULT_MODEL
from memvec.cli import options, signals
from memvec.cli.options import common, examples
from memvec.cli.output import Output
from memvec.cli.sample_texts import read_texts
from memvec.errors import UsageError


@click.command(
    "capacity",
    epilog=examples(
        "memvec capacity --vectors 1,2,4", "memvec capacity --text novel.txt --random-words --plot capacity.png"
    ),
)
@options.model(DEFAULT_MODEL)
@options.texts
@click.option("--random-words", is_flag=True, help="Measure on words in random order too, which no model can predict.")
@click.option("--vectors", default="1", show_default=True, metavar="M,…", help="Numbers of vectors to fill.")
@click.option("--passages", "count", type=int, default=10, show_default=True, help="Passages of each text.")
@click.option("--steps", type=int, help="Largest number of optimiser steps for a passage. [default: 1000]")
@click.option("--stage", type=int, help="Steps of one stage, over which the learning rate falls. [default: 400]")
@click.option("--starts", type=int, help="Fits begun for each passage; the best one goes on. [default: 1]")
@click.option("--learning-rate", type=float, help="Learning rate of AdamW. [default: fits the model]")
@click.option("--no-anchor", is_flag=True, help="Put no BOS embedding in front of the vectors, as in the paper.")
@options.seed
@click.option("--plot", metavar="FILE", help="Draw the figures (.png, .svg or .pdf).")
@options.device
@options.dtype
@common
def command(
    model: str,
    texts: tuple[str, ...],
    random_words: bool,
    vectors: str,
    count: int,
    no_anchor: bool,
    plot: str | None,
    device: str | None,
    dtype: str | None,
    output: Output,
    **chosen: Any,
) -> None:
    """Measure how much text a model's vectors hold.

    Finds the longest beginning of each passage that decodes exactly, with corrections of at most 3 % of the tokens.
    Without --text and --random-words the passages come from Python's handbook. Ctrl-C prints the figures measured so
    far, once the first beginnings of all texts are measured.
    """
    from memvec.cli.render_capacity import check_plot, draw, table
    from memvec.evaluation.capacity import CapacitySettings, capacity
    from memvec.evaluation.capacity_report import summaries
    from memvec.evaluation.samples import handbook

    if plot:
        check_plot(Path(plot))  # before the hours of work
    given = read_texts(texts) or ({} if random_words else handbook())
    settings = CapacitySettings(
        anchor=not no_anchor, **{name: value for name, value in chosen.items() if value is not None}
    )
    found = capacity(
        given, _numbers(vectors), count=count, random_words=random_words, model=model, settings=settings, device=device,
        dtype=dtype, watch=output.watch,
    )  # fmt: skip
    rows = summaries(found)
    output.result({**asdict(found), "summary": [asdict(row) for row in rows]}, lambda: table(found, rows))
    if plot:
        draw(found, rows, Path(plot))  # last: a full disk must not cost the figures
    if not found.finished:
        output.note(f"{signals.interrupted()}; the figures above are those measured before")
        raise Exit(signals.exit_code())


def _numbers(text: str) -> list[int]:
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"--vectors is {text!r}, expected numbers like 1,2,4.") from None
    return sorted(set(numbers))
