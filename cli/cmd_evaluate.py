"""`memvec evaluate`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from memvec.cli import options
from memvec.cli.options import common, examples
from memvec.cli.output import Output
from memvec.cli.render_evaluation import evaluation
from memvec.errors import NotFoundError
from memvec.evaluation.questions import read_questions


@click.command("evaluate", epilog=examples("memvec evaluate notes.memvec --questions questions.jsonl"))
@click.argument("store")
@click.option("--questions", required=True, metavar="FILE", help="Ask these: JSON lines {document, question, answer}.")
@click.option(
    "--kind",
    type=click.Choice(["auto", "context", "kv"]),
    default="auto",
    show_default=True,
    help="Judge these memories. auto: kv if every document has a kv memory, else context.",
)
@click.option("--texts", metavar="FOLDER", help="Read the documents here, if the store holds memories only.")
@click.option("--exact", metavar="STORE", help="Compare with the exact vectors of this store. [default: STORE]")
@options.template("auto", "chat", "text", "plain", default="text")
@options.model()
@options.device
@options.seed
@common
def command(
    store: str,
    questions: str,
    kind: str,
    texts: str | None,
    exact: str | None,
    template: str,
    model: str | None,
    device: str | None,
    seed: int,
    output: Output,
) -> None:
    """Measure memories with questions.

    Prints the gain: the share of the text's help that a memory gives. Controls stand beside it: another document's memory,
    noise, exact vectors, and a text cut to the same number of positions.
    """
    from memvec.evaluation.evaluate import evaluate

    asked = read_questions(questions)
    given = None if texts is None else _texts(Path(texts), {question.document for question in asked})
    found = evaluate(
        store, asked, kind=kind, texts=given, exact=exact, model=model, device=device, template=template, seed=seed,
        watch=output.watch,
    )  # fmt: skip
    output.result(asdict(found), lambda: evaluation(found))


def _texts(folder: Path, names: set[str]) -> dict[str, bytes]:
    if not folder.is_dir():
        raise NotFoundError(f"no folder {str(folder)!r}, expected the documents that the questions are about.")
    return {name: (folder / name).read_bytes() for name in names if (folder / name).is_file()}
