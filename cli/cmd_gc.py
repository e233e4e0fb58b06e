"""`memvec gc`."""

from __future__ import annotations

from dataclasses import asdict

import click

from memvec.cli import options
from memvec.cli.options import common, examples
from memvec.cli.output import Output
from memvec.errors import counted
from memvec.filesystem.plain_text import printable


@click.command("gc", epilog=examples("memvec gc notes.memvec --dry-run", "memvec gc notes.memvec"))
@click.argument("store")
@options.dry_run
@options.lock_wait
@common
def command(store: str, dry_run: bool, lock_wait: float, output: Output) -> None:
    """Delete files that the store no longer references.

    These are files that `compact` replaced, or that a killed command left. A program that still reads them ends with exit
    code 7 and has to start again. Files of other programs stay.
    """
    from memvec.maintenance.gc import gc

    report = gc(store, dry_run=dry_run, lock_wait=lock_wait)
    verb = "would delete" if dry_run else "deleted"
    lines = [f"{verb} {printable(name)}" for name in report.files]
    lines.append(f"{verb} {counted(len(report.files), 'file')}, {report.bytes:,} bytes")
    output.result(asdict(report), "\n".join(lines), notice=True)
