"""`memvec info`."""

from __future__ import annotations

from dataclasses import asdict

import click

from memvec.cli.output import Output, common
from memvec.cli.render import totals
from memvec.store.listing import info


@click.command("info")
@click.argument("store")
@common
def command(store: str, output: Output) -> None:
    """Totals of STORE: what it holds, what it cost, and the honest ratios. Loads no model."""
    report = info(store)
    output.result(asdict(report), totals(report))
