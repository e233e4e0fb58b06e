"""`memvec generate`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from memvec.cli import options
from memvec.cli.options import common, examples
from memvec.cli.output import NOTHING_FOUND, Output, print_json
from memvec.cli.streams import emit
from memvec.cli.tables import table
from memvec.errors import UsageError, counted
from memvec.filesystem.plain_text import printable

if TYPE_CHECKING:
    from memvec.identity.runtime import Runtime
    from memvec.memory.generate import Arm

HEADINGS = {"none": "nothing", "vectors": "vectors", "text": "text", "kv": "keys and values"}


@click.command(
    "generate",
    epilog=examples(
        'memvec generate notes.memvec "What is due?" --id todo.txt',
        'memvec generate notes.memvec "What is due?" --retrieve 3',
        'memvec generate notes.memvec "What is due?" --id todo.txt --compare',
    ),
)
@click.argument("store")
@click.argument("prompt", required=False)
@options.memories
@click.option("--retrieve", type=click.IntRange(1), metavar="N", help="Use up to N documents that search finds.")
@click.option(
    "--as",
    "using",
    type=click.Choice(["vectors", "text", "decode"]),
    default="vectors",
    show_default=True,
    help="Put the memory (vectors) or the original text in front. A memory is keys and values where the documents have "
    "them, else context vectors. decode takes no prompt: it prints the text that exact vectors give without corrections.",
)
@click.option("--compare", is_flag=True, help="Answer with nothing, the memory and text in front; show their costs.")
@click.option("--answer", metavar="TEXT", help="With --compare: measure the surprisal of this answer.")
@click.option(
    "--max-new-tokens",
    type=click.IntRange(1),
    help="Longest answer, in tokens. [default: 64; with --as decode, all of them]",
)
@click.option("--sample", is_flag=True, help="Sample tokens instead of taking the likeliest.")
@click.option("--temperature", type=float, help="With --sample: lower values prefer likely tokens. [default: 1]")
@click.option("--seed", type=int, help="With --sample: the same seed gives the same answer.")
@options.template("auto", "chat", "text", default="auto")
@options.model()
@options.device
@common
def command(
    store: str,
    prompt: str | None,
    documents: tuple[str, ...],
    using: str,
    compare: bool,
    answer: str | None,
    retrieve: int | None,
    output: Output,
    **settings: Any,
) -> None:
    """Answer a prompt with documents in front of it.

    The documents stand in front as memories or as text. No answer is verified.
    """
    from memvec.identity.runtime import open_runtime
    from memvec.memory import generate as answers
    from memvec.retrieval.search import retrieve as find

    if bool(documents) == bool(retrieve):
        raise UsageError("expected documents by --id, or --retrieve N to find them. Pass one of the two.")
    if retrieve and (prompt is None or using == "decode"):
        raise UsageError("--retrieve finds documents by a prompt. Pass a prompt, and leave --as decode out.")
    if answer is not None and not compare:
        raise UsageError("--answer needs --compare. Pass both or neither.")
    if compare and using != "vectors":
        raise UsageError("--compare uses both the memory and the text. Leave --as out.")
    runtime = open_runtime(store, model=settings.pop("model"), device=settings.pop("device"), watch=output.watch)
    settings["ranked"] = bool(retrieve)
    if retrieve:
        _ = runtime.lm  # loaded first: the search takes the tokenizer and the embedding table from it
        documents = find(runtime, prompt or "", retrieve, memories=using == "vectors")
        if using == "vectors":
            documents = _of_one_kind(runtime, documents, output)
        if not documents:
            output.result({"text": None, "documents": [], "missing": NOTHING_FOUND}, NOTHING_FOUND)
            return
    if compare:
        arms = answers.compare(runtime, prompt or "", documents, answer=answer, **settings)
        value = {"prompt": prompt, "answer": answer, "arms": [asdict(arm) for arm in arms]}
        output.result(value, lambda: _comparison(arms))
        return
    made = answers.generate(runtime, prompt, documents, using=using, **settings)  # type: ignore[arg-type]
    output.clear()
    if using == "decode" and not output.quiet:
        output.note(
            f"not verified: the vectors' own tokens, without {counted(made.corrections, 'correction')}. "
            "`memvec cat` gives the original bytes."
        )
    if output.as_json:
        print_json(asdict(made))
    else:
        emit(f"{made.text}\n")
        if retrieve:
            emit(f"from {', '.join(map(printable, made.documents))}\n")


def _of_one_kind(runtime: Runtime, documents: tuple[str, ...], output: Output) -> tuple[str, ...]:
    """Leave out documents without the kind of memory that the best match has, unless all have another kind."""
    live = runtime.store.documents()
    kinds = [[name for name in documents if getattr(live[name], kind)] for kind in ("kv", "memory")]
    if tuple(documents) in map(tuple, kinds):
        return documents
    kept = next(names for names in kinds if documents[0] in names)
    if not output.quiet:
        others = [name for name in documents if name not in kept]
        output.note(f"left out, because their memories are of another kind: {', '.join(map(printable, others))}")
    return tuple(kept)


def _comparison(arms: Sequence[Arm]) -> str:
    """Figures of each arm in a row, then the answers."""
    measured = any(arm.nats_per_token is not None for arm in arms)
    rows = [("in front", "positions", "first token", *(["nats/token"] if measured else []))]
    for arm in arms:
        figures = [arm.positions, arm.seconds_to_first_token, arm.nats_per_token]
        shown = [_figure(value, form) for value, form in zip(figures, (",", ".3f", ".3f"), strict=True)]
        shown[1] += " s" if arm.seconds_to_first_token is not None else ""
        rows.append((_heading(arm), *shown[: len(rows[0]) - 1]))
    answers = [f"{_heading(arm)}: {arm.missing or (arm.text or '').strip()}" for arm in arms]
    return table(rows) + "\n\n" + "\n\n".join(answers)


def _heading(arm: Arm) -> str:
    return HEADINGS["kv" if arm.kind == "kv" else arm.name]


def _figure(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)
