"""`memvec diff`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

import click
from click.exceptions import Exit

from memvec.cli import options
from memvec.cli.options import common, examples
from memvec.cli.output import Output
from memvec.cli.tables import facts
from memvec.errors import FingerprintError, counted
from memvec.filesystem.plain_text import printable

if TYPE_CHECKING:
    from memvec.identity.verdict import Comparison

SHOWN = 5  # fields and tensors; --json has all


@click.command(
    "diff",
    epilog=examples("memvec diff notes.memvec ./my-model", "memvec diff notes.memvec ./my-model --no-probe --json"),
)
@click.argument("store")
@click.argument("model")
@click.option("--no-probe", is_flag=True, help="Compare files only; do not load the model.")
@options.device
@common
def command(store: str, model: str, no_probe: bool, device: str | None, output: Output) -> None:
    """Compare a model with the one a store was packed with.

    Prints a verdict and the uses that it allows. Exit 0 if MODEL is expected to decode the records of STORE, else 4.
    """
    from memvec.identity.diff import diff

    made = diff(store, model, probe=not no_probe, device=device, watch=output.watch)
    value = {
        "verdict": made.verdict.name.lower(),
        "words": made.verdict.value,
        "why": made.why,
        "allows": made.verdict.allows,
        "decodes": made.verdict.decodes,
        "differences": [dict(zip(("field", "store", "model"), found, strict=True)) for found in made.differences],
        "tensors": list(made.tensors),
        "hints": list(made.hints),
        "distance": asdict(made.distance) if made.distance else None,
    }
    output.result(value, lambda: facts([(key, printable(text)) for key, text in _rows(made)]))
    if not made.verdict.decodes:
        raise Exit(FingerprintError.exit_code)


def _rows(made: Comparison) -> Iterator[tuple[str, str]]:
    yield "verdict", made.verdict.value
    yield "why", made.why
    yield "allows", made.verdict.allows
    for field, mine, other in made.differences[:SHOWN]:
        yield "field", f"{field}: store has {mine}, model has {other}"
    if len(made.differences) > SHOWN:
        yield "", f"and {counted(len(made.differences) - SHOWN, 'more field')}"
    for name in made.tensors[:SHOWN]:
        yield "tensor", name
    if len(made.tensors) > SHOWN:
        yield "", f"and {counted(len(made.tensors) - SHOWN, 'more tensor')}"
    for hint in made.hints:
        yield "tokenizer", hint
