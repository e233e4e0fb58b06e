"""`memvec list`."""

from __future__ import annotations

from dataclasses import asdict

import click

from memvec.cli.output import Output, common, documents
from memvec.cli.render import documents as table
from memvec.filesystem.plain_text import printable
from memvec.store.listing import listing


@click.command("list")
@click.argument("store")
@documents
@click.option("--limit", type=click.IntRange(0), help="At most this many.")
@common
def command(store: str, documents: tuple[str, ...], limit: int | None, output: Output) -> None:
    """The documents of STORE, by name."""
    rows, unfinished = listing(store, documents, limit)
    lines = [table(rows), *(f"incomplete, run the same pack again: {printable(name)}" for name in unfinished)]
    output.result({"documents": [asdict(row) for row in rows], "incomplete": unfinished}, "\n".join(lines))
