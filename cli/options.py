"""The options that several commands share. Each has one help text, in this file.

A command is decorated with its own options and with these, and last with `common`, which makes its `output`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar, cast

import click

from memvec.cli.output import Call, Output
from memvec.errors import UsageError
from memvec.settings import DECODE_BATCH, DECODE_BATCH_GPU

F = TypeVar("F", bound=Callable[..., None])


class Decorator(Protocol):
    """Adds an option to a command."""

    def __call__(self, command: F, /) -> F:
        """The command with the option."""


STORE_MODEL = "the one the store names"
TEMPLATES = {
    "auto": "chat if the model has a chat template, else text",
    "chat": "the model's chat template",
    "text": "plain text",
    "plain": "the question alone",
}


def model(default: str | None = None, text: str = "") -> Decorator:
    """-m/--model, by default the model that the store names. A command may give it another `text`."""
    named = "Model: a name, checkpoint folder, GGUF file or hub id." + ("" if default else f" [default: {STORE_MODEL}]")
    return click.option("-m", "--model", metavar="MODEL", default=default, show_default=True, help=text or named)


def template(*choices: str, default: str) -> Decorator:
    """--template with some of the `TEMPLATES`."""
    meanings = "; ".join(f"{name}: {TEMPLATES[name]}" for name in choices)
    return click.option(
        "--template",
        type=click.Choice(choices),
        default=default,
        show_default=True,
        help=f"Form of the prompt. {meanings}.",
    )


seed = click.option("--seed", type=int, default=0, show_default=True, help="Seed of the random numbers.")
batch = click.option(
    "--batch",
    type=click.IntRange(1),
    help=f"Records decoded at once. [default: {DECODE_BATCH}, on a GPU {DECODE_BATCH_GPU}]",
)
device = click.option(
    "--device",
    help="Torch device, such as cpu or cuda:1. auto: the default, and layers that do not fit there are offloaded to memory "
    "and disk. [default: cuda if there is one, else cpu]",
)
dtype = click.option(
    "--dtype",
    type=click.Choice(["bfloat16", "float32"]),
    help="Number type for fitting. [default: bfloat16 if the processor has it, else float32]",
)
documents = click.option(
    "--doc",
    "documents",
    multiple=True,
    metavar="NAME_OR_PATTERN",
    help="Only this document, or those that match a pattern as in .gitignore. Repeatable.",
)
memories = click.option(
    "--id", "documents", multiple=True, metavar="DOCUMENT", help="Use this document, in the order given. Repeatable."
)
include = click.option(
    "--include", multiple=True, metavar="PATTERN", help="Pack only documents that match, as in .gitignore. Repeatable."
)
exclude = click.option(
    "--exclude", multiple=True, metavar="PATTERN", help="Pack no documents that match, as in .gitignore. Repeatable."
)
text_field = click.option(
    "--text-field",
    default="text",
    show_default=True,
    metavar="FIELD",
    help="Field of a row that is the document's text.",
)
id_field = click.option(
    "--id-field", metavar="FIELD", help="Field of a row that names the document. [default: none; unpack writes id]"
)
texts = click.option(
    "--text",
    "texts",
    multiple=True,
    metavar="FILE",
    help="Measure on this text. Repeatable. [default: Python's handbook]",
)
overwrite = click.option("--overwrite", is_flag=True, help="Replace files that exist.")
dry_run = click.option("--dry-run", is_flag=True, help="Print what would be done; change nothing.")
embedder_names = "lm, bm25 or sentence-transformers:MODEL"
lock_wait = click.option(
    "--lock-wait",
    type=click.FloatRange(0),
    default=0.0,
    show_default=True,
    metavar="SECONDS",
    help="Wait this long for another writer to finish.",
)


def output_store(text: str) -> Decorator:
    """-o/--output-store, the store that a command writes to."""
    return click.option("-o", "--output-store", "store", required=True, metavar="STORE", help=text)


def common(command: F) -> F:
    """Add --json, -q and --no-progress. The command gets them as one `output`."""

    @click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
    @click.option("-q", "--quiet", is_flag=True, help="Print only data and errors.")
    @click.option("--no-progress", is_flag=True, help="Show no progress.")
    @functools.wraps(command)
    def wrapped(*args: Any, as_json: bool, quiet: bool, no_progress: bool, **kwargs: Any) -> None:
        output, context = Output(as_json, quiet, not no_progress), click.get_current_context()
        if isinstance(context.obj, Call):
            context.obj.command, context.obj.as_json = context.command, as_json
        try:
            command(*args, output=output, **kwargs)
        finally:
            output.clear()

    return cast(F, wrapped)


def examples(*lines: str) -> str:
    """The epilog of a command's help: command lines that a reader can copy."""
    return "\n".join(["\b", "Examples:", *(f"  {line}" for line in lines)])


def pairs(given: Sequence[str], option: str) -> dict[str, str]:
    """Split the values KEY=VALUE of an option.

    Raises:
        UsageError: A value has no key or no `=`.
    """
    split = [text.partition("=") for text in given]
    if bad := [text for text, (key, mark, _) in zip(given, split, strict=True) if not (key and mark)]:
        raise UsageError(f"{option} is {bad[0]!r}, expected KEY=VALUE.")
    return {key: value for key, _, value in split}
