"""`memvec gc`."""

from __future__ import annotations

from dataclasses import asdict

import click

from memvec.cli.output import Output, common, dry_run, lock_wait
from memvec.filesystem.plain_text import printable


@click.command("gc")
@click.argument("store")
@dry_run
@lock_wait
@common
def command(store: str, dry_run: bool, lock_wait: float, output: Output) -> None:
    """Delete the files in STORE that it is not made of any more: left by `compact`, or by a command that was killed.

    Who reads an older generation meanwhile is told to start again (exit 7). Files of other programs are left alone.
    """
    from memvec.maintenance.gc import gc

    report = gc(store, dry_run=dry_run, lock_wait=lock_wait)
    verb = "would delete" if dry_run else "deleted"
    lines = [f"{verb} {printable(name)}" for name in report.files]
    lines.append(f"{verb} {len(report.files):,} files, {report.bytes:,} bytes")
    output.result(asdict(report), "\n".join(lines), notice=True)
