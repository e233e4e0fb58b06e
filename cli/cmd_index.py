"""`memvec index build`, `memvec index info` and `memvec index drop`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from memvec.cli import options
from memvec.cli.options import common, examples
from memvec.cli.output import Output
from memvec.cli.tables import table
from memvec.errors import counted
from memvec.filesystem.plain_text import printable

if TYPE_CHECKING:
    from memvec.retrieval.build import IndexReport


@click.group("index")
def command() -> None:
    """Build, show or drop a search index.

    Search compares a query with the keys of a store. An index makes that faster for many keys.
    """


@command.command(
    "build",
    epilog=examples(
        "memvec index build notes.memvec", "memvec index build notes.memvec --embedder lm --factory HNSW32"
    ),
)
@click.argument("store")
@click.option("--embedder", help=f"Embedder: {options.embedder_names}. [default: lm and bm25]")
@click.option("--factory", help="FAISS index, in the notation of index_factory. [default: by the number of keys]")
@options.model()
@options.device
@options.lock_wait
@common
def build(store: str, output: Output, **given: Any) -> None:
    """Make missing keys and build an index.

    Records without a key are decoded first.
    """
    from memvec.retrieval.build import build_index

    made = build_index(store, watch=output.watch, **given)
    output.result({"indexes": [asdict(one) for one in made]}, lambda: _table(made))


@command.command("info", epilog=examples("memvec index info notes.memvec"))
@click.argument("store")
@common
def info(store: str, output: Output) -> None:
    """Show the keys and the index of each embedder."""
    from memvec.retrieval.build import index_info

    found = index_info(store)
    output.result({"indexes": [asdict(one) for one in found]}, lambda: _table(found) or "no keys")


@command.command("drop", epilog=examples("memvec index drop notes.memvec"))
@click.argument("store")
@options.lock_wait
@common
def drop(store: str, lock_wait: float, output: Output) -> None:
    """Delete the index.

    The keys stay, so it can be built again without a model.
    """
    from memvec.retrieval.build import drop_index

    count = drop_index(store, lock_wait=lock_wait)
    output.result({"dropped": count}, f"dropped {counted(count, 'index', 'indexes')}; the keys stay", notice=True)


def _table(found: Sequence[IndexReport]) -> str:
    rows = [("embedder", "texts", "without a key", "dimensions", "index")]
    for one in found:
        width = f"{one.width:,}" if one.width else "words"
        index = f"stored as {one.factory}" if one.factory else "made at each search"
        rows.append((printable(one.embedder), f"{one.texts:,}", f"{one.missing:,}", width, printable(index)))
    return table(rows, "lrrrl") if found else ""
