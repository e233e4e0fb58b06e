"""`memvec import`."""

from __future__ import annotations

from dataclasses import asdict

import click

from memvec.cli.output import Output, common


@click.command("import")
@click.argument("file")
@click.option("-o", "--output-store", "store", required=True, metavar="STORE", help="A new store folder.")
@common
def command(file: str, store: str, output: Output) -> None:
    """Make a store of FILE, which `memvec export STORE -o FILE` wrote. All of it is checked first."""
    from memvec.maintenance.archive import import_store

    report = import_store(file, store)
    text = f"{report.documents:,} documents, {report.records:,} records from {file} in {store}"
    output.result(asdict(report), text, notice=True)
