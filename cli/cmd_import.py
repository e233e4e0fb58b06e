"""`memvec import`."""

from __future__ import annotations

from dataclasses import asdict

import click

from memvec.cli import options
from memvec.cli.options import common, examples
from memvec.cli.output import Output
from memvec.errors import counted


@click.command("import", epilog=examples("memvec import notes.safetensors -o notes.memvec"))
@click.argument("file")
@options.output_store("Store folder to make.")
@common
def command(file: str, store: str, output: Output) -> None:
    """Make a store from a file that export wrote.

    The complete file is checked first.
    """
    from memvec.maintenance.archive import import_store

    report = import_store(file, store)
    text = f"{counted(report.documents, 'document')}, {counted(report.records, 'record')} from {file} in {store}"
    output.result(asdict(report), text, notice=True)
