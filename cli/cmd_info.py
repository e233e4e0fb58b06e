"""`memvec info`."""

from __future__ import annotations

from dataclasses import asdict

import click

from memvec.cli.options import common, examples
from memvec.cli.output import Output
from memvec.cli.render_report import totals
from memvec.store.listing import info


@click.command("info", epilog=examples("memvec info notes.memvec", "memvec info notes.memvec --json"))
@click.argument("store")
@common
def command(store: str, output: Output) -> None:
    """Show totals and what vectors save.

    Loads no model.
    """
    report = info(store)
    output.result(asdict(report) | {"skipped": dict(report.skipped)}, lambda: totals(report))
