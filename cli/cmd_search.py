"""`memvec search`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Literal

import click

from memvec.cli.output import Output, common, documents, pairs
from memvec.errors import UsageError
from memvec.filesystem.plain_text import printable

if TYPE_CHECKING:
    from memvec.retrieval.search import Hit

SHOWN = 72  # characters of a hit's text


@click.command("search")
@click.argument("store")
@click.argument("query")
@click.option("-k", type=int, default=5, show_default=True, help="Records to find.")
@documents
@click.option("--where", multiple=True, metavar="KEY=VALUE", help="Only documents packed with this --meta. Repeatable.")
@click.option("--decode", is_flag=True, help="Decode the records found and show their text.")
@click.option("--min-score", metavar="X|auto", help="Leave out hits below; auto: below what unrelated prompts reach.")
@click.option("--embedder", help="Search by the keys of this one alone: lm, bm25, sentence-transformers:MODEL.")
@click.option("-m", "--model", help="Model of the store. [default: the one it names]")
@click.option("--device", help="Torch device to decode on. [default: cuda if there is one, else cpu]")
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
    """Find the records of STORE that say what QUERY asks about."""
    from memvec.retrieval.search import search

    hits = search(
        store, query, k, documents=documents, where=pairs(where, "--where"), min_score=_least(min_score), embedder=embedder, model=model,
        decode=decode, device=device, watch=output.watch,
    )  # fmt: skip
    output.result({"hits": [_values(hit) for hit in hits]}, _table(hits))


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


def _table(hits: Sequence[Hit]) -> str:
    if not hits:
        return "nothing fits"
    lines = []
    for hit in hits:
        where = f"{printable(hit.document)} {hit.start}–{hit.start + hit.length}"
        lines.append(f"  {hit.score:.3f}  {where}  {hit.record[:12]}")
        if hit.text is not None:
            shown = printable(" ".join(hit.text.split()))
            lines.append(f"         {shown[:SHOWN]}{'…' if len(shown) > SHOWN else ''}")
    return "\n".join(lines)
