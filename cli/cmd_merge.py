"""`memvec merge`."""

from __future__ import annotations

from dataclasses import asdict

import click

from memvec.cli.output import Output, common, dry_run, lock_wait


@click.command("merge")
@click.argument("stores", nargs=-1, required=True, metavar="STORE...")
@click.option("-o", "--output-store", "target", required=True, metavar="STORE", help="Made, or added to when there.")
@dry_run
@lock_wait
@common
def command(stores: tuple[str, ...], target: str, dry_run: bool, lock_wait: float, output: Output) -> None:
    """Put the documents of several stores of one model into one. Of one name the last store's document counts.

    The stores that are named first stay as they are; what was removed from one is not taken from it.
    """
    from memvec.maintenance.merge import merge

    report = merge(stores, target, dry_run=dry_run, lock_wait=lock_wait)
    if not report.changed:
        text = f"everything is in {target} already: {report.documents:,} documents"
    else:
        text = (
            f"{'would add' if dry_run else 'added'} {report.records:,} records ({report.bytes:,} bytes): "
            f"{report.documents:,} documents"
        )
        if report.replaced:
            text += f", of {report.replaced:,} of them an earlier store has another version, which is left out"
    output.result(asdict(report), text, notice=True)
