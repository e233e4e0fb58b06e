"""`memvec index build|info|drop`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from memvec.cli.output import Output, common, lock_wait

if TYPE_CHECKING:
    from memvec.retrieval.build import IndexReport


@click.group("index")
def command() -> None:
    """What a store is searched by: keys of its texts, and an index of them where they are many."""


@command.command("build")
@click.argument("store")
@click.option("--embedder", help="lm, bm25 or sentence-transformers:MODEL. [default: lm, bm25]")
@click.option("--factory", help="FAISS index, as its index_factory writes it. [default: by the number of keys]")
@click.option("-m", "--model", help="Model of the store. [default: the one it names]")
@click.option("--device", help="Torch device. [default: cuda if there is one, else cpu]")
@lock_wait
@common
def build(store: str, output: Output, **options: Any) -> None:
    """Make keys that are missing and keep an index of vectors; texts are decoded where they have to be."""
    from memvec.retrieval.build import build_index

    made = build_index(store, watch=output.watch, **options)
    output.result({"indexes": [asdict(one) for one in made]}, _table(made))


@command.command("info")
@click.argument("store")
@common
def info(store: str, output: Output) -> None:
    """The keys of a store by embedder, and what is indexed."""
    from memvec.retrieval.build import index_info

    found = index_info(store)
    output.result({"indexes": [asdict(one) for one in found]}, _table(found) or "no keys")


@command.command("drop")
@click.argument("store")
@lock_wait
@common
def drop(store: str, lock_wait: float, output: Output) -> None:
    """Remove the kept index; keys stay, and it can be built again without a model."""
    from memvec.retrieval.build import drop_index

    count = drop_index(store, lock_wait=lock_wait)
    output.result({"dropped": count}, f"{count} index(es) dropped; the keys stay", notice=True)


def _table(found: Sequence[IndexReport]) -> str:
    lines = []
    for one in found:
        kind = "words" if not one.width else f"{one.width} dimensions"
        kept = f"kept as {one.factory}" if one.factory else "made when it is needed"
        lacking = f", {one.missing} without" if one.missing else ""
        lines.append(f"  {one.embedder}  {one.texts} texts{lacking}  {kind}  {kept}")
    return "\n".join(lines)
