"""`memvec fingerprint`."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from memvec.checkpoints.resolve import DEFAULT_MODEL
from memvec.cli.options import common, examples
from memvec.cli.output import Output
from memvec.cli.tables import facts
from memvec.filesystem.plain_text import printable
from memvec.progress import Progress, enter


@click.command("fingerprint", epilog=examples("memvec fingerprint", "memvec fingerprint ./my-model --tensors"))
@click.argument("model", default=DEFAULT_MODEL)
@click.option("--tensors", is_flag=True, help="Show the first digits of each tensor's digest too.")
@common
def command(model: str, tensors: bool, output: Output) -> None:
    """Show the fingerprint of a model.

    Vectors belong to the model and tokenizer with this fingerprint: digests of the weights and the vocabulary, and the
    architecture. The files are read once. A later change is found by size, dates and inode.
    """
    from memvec.identity.fingerprint import identify

    made = identify(model, lambda message: enter(message, Progress(), output.watch))
    value = {"id": made.fingerprint.id, **asdict(made.fingerprint)}
    rows = [(key, printable(v if isinstance(v, str) else json.dumps(v))) for key, v in value.items()]
    if tensors:
        value["tensors"] = dict(made.tensors)
    shown = made.tensors if tensors else {}
    output.result(
        value, lambda: "\n".join([facts(rows), *(f"  {digest} {printable(name)}" for name, digest in shown.items())])
    )
