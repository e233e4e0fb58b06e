"""`memvec rm`."""

from __future__ import annotations

from dataclasses import asdict

import click

from memvec.cli.output import Output, common, dry_run, lock_wait
from memvec.filesystem.plain_text import printable


@click.command("rm")
@click.argument("store")
@click.argument("documents", nargs=-1, required=True, metavar="NAME_OR_PATTERN...")
@dry_run
@lock_wait
@common
def command(store: str, documents: tuple[str, ...], dry_run: bool, lock_wait: float, output: Output) -> None:
    """Remove documents from STORE, every version of them. No record is deleted until `compact` and `gc`.

    The exact name of a document means that document alone; anything else is a pattern as in .gitignore.
    """
    from memvec.maintenance.remove import rm

    report = rm(store, documents, dry_run=dry_run, lock_wait=lock_wait)
    verb = "would remove" if dry_run else "removed"
    versions = f", {report.versions:,} versions" if report.versions > len(report.documents) else ""
    lines = [f"{verb} {printable(name)}" for name in report.documents]
    lines += [printable(rule) for rule in report.rules]
    lines.append(f"{verb} {len(report.documents):,} documents{versions}, {report.records:,} records")
    if not dry_run:
        lines.append("their bytes are still on disk: `memvec compact` and `memvec gc` free them")
    output.result(asdict(report), "\n".join(lines), notice=True)
