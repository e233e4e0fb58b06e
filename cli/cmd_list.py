"""`memvec list`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import click

from memvec.cli import options
from memvec.cli.options import common, examples
from memvec.cli.output import Output
from memvec.cli.tables import optional, table
from memvec.filesystem.plain_text import printable
from memvec.store.listing import DocumentRow, listing


@click.command(
    "list",
    epilog=examples("memvec list notes.memvec", "memvec list notes.memvec --doc '*.txt' --limit 20"),
)
@click.argument("store")
@options.documents
@click.option("--limit", type=click.IntRange(0), help="Show at most this many documents.")
@common
def command(store: str, documents: tuple[str, ...], limit: int | None, output: Output) -> None:
    """List documents.

    They are in order of name. Loads no model.
    """
    rows, incomplete = listing(store, documents, limit)
    value = {"documents": [asdict(row) for row in rows], "incomplete": incomplete}
    output.result(value, lambda: _text(rows, incomplete))


def _text(found: Sequence[DocumentRow], incomplete: Sequence[str]) -> str:
    rows: list[tuple[str, ...]] = [
        ("name", "bytes", "tokens", "records", "raw", "vectors", "corrected", "memory", "gain")
    ]
    for r in found:
        figures = (r.bytes, r.tokens, r.records, r.raw_records, r.vectors, r.corrected_tokens, r.memory)
        rows.append((printable(r.name), *(f"{n:,}" for n in figures), optional(r.gain)))
    notes = [f"incomplete, run the same pack again: {printable(name)}" for name in incomplete]
    return "\n".join([table(rows, indent=""), *notes])
