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
    with_kv = any(row.kv for row in found)
    heads = ("name", "bytes", "tokens", "records", "raw", "vectors", "corrected", "memory", "gain")
    rows: list[tuple[str, ...]] = [heads + (("kv", "kv bytes", "kv gain") if with_kv else ())]
    for r in found:
        figures = (r.bytes, r.tokens, r.records, r.raw_records, r.vectors, r.corrected_tokens, r.memory)
        kv = (f"{r.kv:,}", f"{r.kv_bytes:,}", optional(r.kv_gain)) if with_kv else ()
        rows.append((printable(r.name), *(f"{n:,}" for n in figures), optional(r.gain), *kv))
    notes = [f"incomplete, run the same pack again: {printable(name)}" for name in incomplete]
    return "\n".join([table(rows, indent=""), *notes])
