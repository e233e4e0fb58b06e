"""`memvec evaluate`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from memvec.cli.output import Output, common
from memvec.cli.render_evaluation import evaluation
from memvec.errors import NotFoundError
from memvec.evaluation.questions import read_questions


@click.command("evaluate")
@click.argument("store")
@click.option("--questions", required=True, metavar="FILE", help="JSON lines {document, question, answer}.")
@click.option("--texts", metavar="FOLDER", help="The documents, where the store holds memories only.")
@click.option("--exact", metavar="STORE", help="A store whose exact vectors serve as a control. [default: STORE]")
@click.option(
    "--template",
    type=click.Choice(["auto", "chat", "text", "plain"]),
    default="text",
    show_default=True,
    help="How it is asked: the chat template, Question: … Answer: …, or as it stands.",
)
@click.option("-m", "--model", help="Model of the store. [default: the one it names]")
@click.option("--device", help="Torch device. [default: cuda if there is one, else cpu]")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the controls that are drawn.")
@common
def command(
    store: str,
    questions: str,
    texts: str | None,
    exact: str | None,
    template: str,
    model: str | None,
    device: str | None,
    seed: int,
    output: Output,
) -> None:
    """Judge the memories of STORE by questions: the share of the text's gain they keep, beside every control."""
    from memvec.evaluation.evaluate import evaluate

    asked = read_questions(questions)
    given = None if texts is None else _texts(Path(texts), {question.document for question in asked})
    found = evaluate(
        store, asked, texts=given, exact=exact, model=model, device=device, template=template, seed=seed,
        watch=output.watch,
    )  # fmt: skip
    output.result(asdict(found), evaluation(found))


def _texts(folder: Path, names: set[str]) -> dict[str, bytes]:
    if not folder.is_dir():
        raise NotFoundError(f"no folder {str(folder)!r}: expected the documents that the questions are about.")
    return {name: (folder / name).read_bytes() for name in names if (folder / name).is_file()}
