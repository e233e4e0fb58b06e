"""`memvec merge`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from memvec.cli import options
from memvec.cli.options import common, examples
from memvec.cli.output import Output
from memvec.errors import counted

if TYPE_CHECKING:
    from memvec.maintenance.merge import MergeReport


@click.command("merge", epilog=examples("memvec merge first.memvec second.memvec -o all.memvec"))
@click.argument("stores", nargs=-1, required=True, metavar="STORE...")
@options.output_store("Store folder to make or add to.")
@options.dry_run
@options.lock_wait
@common
def command(stores: tuple[str, ...], store: str, dry_run: bool, lock_wait: float, output: Output) -> None:
    """Copy the documents of several stores into one.

    The stores must belong to one model. If two have a document of the same name, the later store wins. The sources stay
    as they are, and their removed documents are not copied.
    """
    from memvec.maintenance.merge import merge

    report = merge(stores, store, dry_run=dry_run, lock_wait=lock_wait)
    output.result(asdict(report), _text(report, store), notice=True)


def _text(report: MergeReport, store: str) -> str:
    if not report.changed:
        return f"{store} has all of it already: {counted(report.documents, 'document')}"
    added = f"{'would add' if report.dry_run else 'added'} {counted(report.records, 'record')} ({report.bytes:,} bytes)"
    replaced = f"; {report.replaced:,} replace another version in an earlier store" if report.replaced else ""
    return f"{added}: {counted(report.documents, 'document')}{replaced}"
