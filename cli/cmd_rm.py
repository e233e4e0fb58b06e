"""`memvec rm`."""

from __future__ import annotations

from dataclasses import asdict

import click

from memvec.cli import options
from memvec.cli.options import common, examples
from memvec.cli.output import Output
from memvec.errors import counted
from memvec.filesystem.plain_text import printable


@click.command(
    "rm", epilog=examples("memvec rm notes.memvec old.txt", "memvec rm notes.memvec 'drafts/' '*.log' --dry-run")
)
@click.argument("store")
@click.argument("documents", nargs=-1, required=True, metavar="NAME_OR_PATTERN...")
@options.dry_run
@options.lock_wait
@common
def command(store: str, documents: tuple[str, ...], dry_run: bool, lock_wait: float, output: Output) -> None:
    """Remove documents.

    Removes every version of them. Their bytes stay on disk until `compact` and `gc`. An exact name means that document
    alone. Anything else is a pattern as in .gitignore.
    """
    from memvec.maintenance.remove import rm

    report = rm(store, documents, dry_run=dry_run, lock_wait=lock_wait)
    verb = "would remove" if dry_run else "removed"
    versions = f", {report.versions:,} versions" if report.versions > len(report.documents) else ""
    lines = [f"{verb} {printable(name)}" for name in report.documents]
    lines += [printable(rule) for rule in report.rules]
    lines.append(f"{verb} {counted(len(report.documents), 'document')}{versions}, {counted(report.records, 'record')}")
    if not dry_run:
        lines.append("their bytes are still on disk: `memvec compact` and `memvec gc` free them")
    output.result(asdict(report), "\n".join(lines), notice=True)
