"""`memvec fingerprint`."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from memvec.checkpoints.resolve import DEFAULT_MODEL
from memvec.cli.output import Output, common
from memvec.progress import Progress, enter


@click.command("fingerprint")
@click.argument("model", default=DEFAULT_MODEL)
@click.option("--tensors", is_flag=True, help="Also the first digits of every tensor's digest, by name.")
@common
def command(model: str, tensors: bool, output: Output) -> None:
    """What vectors of MODEL would belong to: digests of weights and tokenizer, and the architecture.

    Files are read once: after that only a changed file is noticed, by its size, dates and inode.
    """
    from memvec.identity.fingerprint import identify

    made = identify(model, lambda message: enter(message, Progress(), output.watch))
    value = {"id": made.fingerprint.id, **asdict(made.fingerprint)}
    lines = [f"  {key:<12} {v if isinstance(v, str) else json.dumps(v)}" for key, v in value.items()]
    if tensors:
        value["tensors"] = dict(made.tensors)
        lines += [f"  {digest} {name}" for name, digest in made.tensors.items()]
    output.result(value, "\n".join(lines))
