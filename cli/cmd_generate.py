"""`memvec generate`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from memvec.cli.output import Output, aligned, common, print_json
from memvec.cli.streams import emit
from memvec.errors import UsageError
from memvec.filesystem.plain_text import printable

if TYPE_CHECKING:
    from memvec.memory.generate import Arm

HEADINGS = {"none": "nothing", "vectors": "vectors", "text": "text"}


@click.command("generate")
@click.argument("store")
@click.argument("prompt", required=False)
@click.option("--id", "documents", multiple=True, metavar="DOCUMENT", help="In this order. Repeatable.")
@click.option("--retrieve", type=click.IntRange(1), metavar="N", help="Up to N documents found by the prompt instead.")
@click.option(
    "--as",
    "using",
    type=click.Choice(["vectors", "text", "decode"]),
    default="vectors",
    show_default=True,
    help="What stands for the documents: context vectors, or the text they were packed from. decode takes no prompt and "
    "says what the exact vectors give without corrections.",
)
@click.option(
    "--compare", is_flag=True, help="Answer with nothing, the vectors and the text in front; what each costs."
)
@click.option("--answer", metavar="TEXT", help="With --compare: measure how surprising this answer is to each.")
@click.option(
    "--max-new-tokens", type=click.IntRange(1), help="Length of the answer. [default: 64; with decode, all there are]"
)
@click.option("--sample", is_flag=True, help="Sample instead of taking the likeliest token.")
@click.option("--temperature", type=float, help="With --sample: under 1 keeps closer to the likeliest. [default: 1]")
@click.option("--seed", type=int, help="With --sample: the same seed gives the same answer.")
@click.option(
    "--template",
    type=click.Choice(["auto", "chat", "text"]),
    default="auto",
    show_default=True,
    help="Ask as a chat message or as plain text. auto: as a chat where the model has a template.",
)
@click.option("-m", "--model", help="Model to generate with. [default: the one named in the store]")
@click.option("--device", help="Torch device. [default: cuda if there is one, else cpu]")
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
    **options: Any,
) -> None:
    """Answer PROMPT with documents of STORE in front of it, as their vectors or as their text."""
    from memvec.identity.runtime import open_runtime
    from memvec.memory import generate as generation
    from memvec.retrieval import search as searching

    if bool(documents) == bool(retrieve):
        raise UsageError("expected documents by --id, or --retrieve N to find them. Pass one of the two.")
    if retrieve and (prompt is None or using == "decode"):
        raise UsageError("--retrieve finds documents by a prompt. Pass one, and no --as decode.")
    if answer is not None and not compare:
        raise UsageError("--answer is measured by --compare. Pass both or neither.")
    if compare and using != "vectors":
        raise UsageError("--compare takes vectors and text by itself. Leave --as out.")
    runtime = open_runtime(store, model=options.pop("model"), device=options.pop("device"), watch=output.watch)
    if retrieve:
        _ = runtime.lm  # loaded first: searching takes the tokenizer and the embedding table from it
        documents = searching.retrieve(runtime, prompt or "", retrieve, memories=using == "vectors")
        if not documents:
            output.result({"text": None, "documents": [], "missing": "nothing fits"}, "nothing fits")
            return
    if compare:
        arms = generation.compare(runtime, prompt or "", documents, answer=answer, **options)
        output.result({"prompt": prompt, "answer": answer, "arms": [asdict(arm) for arm in arms]}, _table(arms))
        return
    made = generation.generate(runtime, prompt, documents, using=using, **options)  # type: ignore[arg-type]
    output.clear()
    if using == "decode" and not output.quiet:
        output.note(
            f"not verified: greedy tokens of the vectors alone, {made.corrections} correction(s) left out. "
            "`memvec cat` gives what was packed."
        )
    if output.as_json:
        print_json(asdict(made))
    else:
        emit(f"{made.text}\n")
        if retrieve:
            emit(f"from {', '.join(map(printable, made.documents))}\n")


def _table(arms: Sequence[Arm]) -> str:
    """Figures of each arm in a row, then the answers."""
    measured = any(arm.nats_per_token is not None for arm in arms)
    rows = [("in front", "positions", "first token", *(["nats/token"] if measured else []))]
    for arm in arms:
        figures = [arm.positions, arm.seconds_to_first_token, arm.nats_per_token]
        shown = [_figure(value, form) for value, form in zip(figures, (",", ".3f", ".3f"), strict=True)]
        shown[1] += " s" if arm.seconds_to_first_token is not None else ""
        rows.append((HEADINGS[arm.name], *shown[: len(rows[0]) - 1]))
    answers = [f"{HEADINGS[arm.name]}: {arm.missing or (arm.text or '').strip()}" for arm in arms]
    return aligned(rows) + "\n\n" + "\n\n".join(answers)


def _figure(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)
