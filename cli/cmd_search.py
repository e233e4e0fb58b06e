"""`memvec search`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Literal

import click

from memvec.cli import options
from memvec.cli.options import common, examples
from memvec.cli.output import NOTHING_FOUND, Output
from memvec.cli.tables import table
from memvec.errors import UsageError
from memvec.filesystem.plain_text import printable

if TYPE_CHECKING:
    from memvec.retrieval.search import Hit

SHOWN = 72  # characters of a hit's text; --json has all


@click.command(
    "search",
    epilog=examples(
        'memvec search notes.memvec "who keeps the key?"',
        "memvec search notes.memvec \"who keeps the key?\" --doc '*.txt' --min-score auto",
        'memvec search notes.memvec "who keeps the key?" -k 3 --decode',
    ),
)
@click.argument("store")
@click.argument("query")
@click.option("-k", type=int, default=5, show_default=True, help="Find this many records.")
@options.documents
@click.option("--where", multiple=True, metavar="KEY=VALUE", help="Only documents packed with this --meta. Repeatable.")
@click.option("--decode", is_flag=True, help="Decode the records and show their text.")
@click.option("--min-score", metavar="X|auto", help="Leave out lower scores. auto: lower than unrelated prompts reach.")
@click.option("--embedder", help=f"Use the keys of this embedder only: {options.embedder_names}.")
@options.model()
@options.device
@common
def command(
    store: str,
    query: str,
    k: int,
    documents: tuple[str, ...],
    where: tuple[str, ...],
    decode: bool,
    min_score: str | None,
    embedder: str | None,
    model: str | None,
    device: str | None,
    output: Output,
) -> None:
    """Find records that answer a query.

    Prints the best records first.
    """
    from memvec.retrieval.search import search

    hits = search(
        store, query, k, documents=documents, where=options.pairs(where, "--where"), min_score=_least(min_score),
        embedder=embedder, model=model, decode=decode, device=device, watch=output.watch,
    )  # fmt: skip
    output.result({"hits": [_values(hit) for hit in hits]}, lambda: _table(hits, decode))


def _least(value: str | None) -> float | Literal["auto"] | None:
    if value is None:
        return None
    if value == "auto":
        return "auto"
    try:
        return float(value)
    except ValueError:
        raise UsageError(f"--min-score is {value!r}, expected a number or auto.") from None


def _values(hit: Hit) -> dict[str, object]:
    return {name: value for name, value in asdict(hit).items() if name != "text" or value is not None}


def _table(hits: Sequence[Hit], decoded: bool) -> str:
    if not hits:
        return NOTHING_FOUND
    rows: list[tuple[str, ...]] = [("score", "document", "bytes", "record", *["text"] * decoded)]
    for hit in hits:
        span = f"{hit.start:,}–{hit.start + hit.length:,}"
        text = printable(" ".join((hit.text or "").split()))
        shown = [text[:SHOWN] + "…" * (len(text) > SHOWN)] * decoded
        rows.append((f"{hit.score:.3f}", printable(hit.document), span, hit.record[:12], *shown))
    return table(rows, "rlrll")
