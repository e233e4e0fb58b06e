"""`memvec compact`."""

from __future__ import annotations

from dataclasses import asdict

import click

from memvec.cli.output import Output, common, dry_run, lock_wait


@click.command("compact")
@click.argument("store")
@dry_run
@lock_wait
@common
def command(store: str, dry_run: bool, lock_wait: float, output: Output) -> None:
    """Write what counts in STORE into few new files and drop the rest: removed and replaced documents.

    Unfinished packs can still go on. Old files stay on disk for whoever reads them; `memvec gc` removes them.
    """
    from memvec.maintenance.compact import compact

    report = compact(store, dry_run=dry_run, lock_wait=lock_wait)
    if not report.changed:
        output.result(asdict(report), f"{store} is compact already: {report.records:,} records", notice=True)
        return
    lines = [
        (
            f"{'would keep' if dry_run else 'kept'} {report.records:,} records, dropped {report.dropped_records:,} "
            f"({report.removed:,} removed versions, {report.superseded:,} replaced ones)"
        ),
        (
            f"shards: {report.shards_before:,} before, {report.shards:,} now; "
            f"bytes: {report.bytes_before:,} before, {report.bytes:,} now"
        ),
    ]
    if not dry_run:
        lines.append(f"{report.collectable:,} bytes are left for readers of before; `memvec gc` frees them")
    output.result(asdict(report), "\n".join(lines), notice=True)
