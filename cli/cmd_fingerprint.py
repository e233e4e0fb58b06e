"""`memvec fingerprint`."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from memvec.cli.output import Output, common
from memvec.model_cache import DEFAULT_MODEL
from memvec.progress import Progress, enter


@click.command("fingerprint")
@click.argument("model", default=DEFAULT_MODEL)
@common
def command(model: str, output: Output) -> None:
    """What vectors of MODEL would belong to: digests of weights and tokenizer, and the architecture."""
    from memvec.identity import fingerprint

    made = fingerprint(model, lambda message: enter(message, Progress(), output.watch))
    value = {"id": made.id, **asdict(made)}
    output.result(
        value, "\n".join(f"  {key:<12} {v if isinstance(v, str) else json.dumps(v)}" for key, v in value.items())
    )
