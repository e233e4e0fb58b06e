"""`memvec compact`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from memvec.cli import options
from memvec.cli.options import common, examples
from memvec.cli.output import Output
from memvec.errors import counted

if TYPE_CHECKING:
    from memvec.maintenance.compact import CompactReport


@click.command(
    "compact",
    epilog=examples("memvec compact notes.memvec --dry-run", "memvec compact notes.memvec && memvec gc notes.memvec"),
)
@click.argument("store")
@options.dry_run
@options.lock_wait
@common
def command(store: str, dry_run: bool, lock_wait: float, output: Output) -> None:
    """Rewrite the live records into few files.

    Drops removed documents and replaced versions. An unfinished pack can still continue. The old files stay for programs
    that read them; `memvec gc` deletes them.
    """
    from memvec.maintenance.compact import compact

    report = compact(store, dry_run=dry_run, lock_wait=lock_wait)
    output.result(asdict(report), _text(report, store), notice=True)


def _text(report: CompactReport, store: str) -> str:
    if not report.changed:
        return f"{store} is compact already: {counted(report.records, 'record')}"
    lines = [
        (
            f"{'would keep' if report.dry_run else 'kept'} {counted(report.records, 'record')}, dropped "
            f"{report.dropped_records:,} ({report.removed:,} removed versions, {report.superseded:,} replaced ones)"
        ),
        (
            f"shards: {report.shards_before:,} before, {report.shards:,} now; "
            f"bytes: {report.bytes_before:,} before, {report.bytes:,} now"
        ),
    ]
    if not report.dry_run:
        lines.append(f"{report.collectable:,} bytes of old files are left; `memvec gc` deletes them")
    return "\n".join(lines)
