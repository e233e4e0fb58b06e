"""`memvec unpack`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from memvec.cli import options
from memvec.cli.options import common, examples
from memvec.cli.output import Output
from memvec.cli.streams import emit
from memvec.cli.tables import clock
from memvec.errors import PartialError, UsageError, counted
from memvec.filesystem.plain_text import printable
from memvec.settings import CorpusSettings
from memvec.types import UnpackReport

if TYPE_CHECKING:
    from memvec.decoding.unpack import Allow, Form, OnError


@click.command(
    "unpack",
    epilog=examples(
        "memvec unpack notes.memvec -o restored/",
        "memvec unpack pages.memvec -o pages.jsonl.zst --as jsonl",
        "memvec unpack notes.memvec -o restored/ --doc '*.txt' --overwrite",
        "memvec unpack damaged.memvec -o restored/ --on-error partial",
    ),
)
@click.argument("store")
@click.option(
    "-o",
    "--output-folder",
    "folder",
    metavar="DIR",
    help="Folder to write the documents to, or the file to write rows to.",
)
@options.documents
@click.option(
    "--as",
    "form",
    type=click.Choice(["files", "jsonl", "parquet"]),
    default="files",
    show_default=True,
    help="Write a file for each document, or one file with a row for each. JSON lines are compressed if its name ends in "
    ".gz or .zst.",
)
@options.text_field
@options.id_field
@click.option("--stdout", is_flag=True, help="Write the documents to standard output, one after the other.")
@options.overwrite
@click.option(
    "--rename-collisions",
    is_flag=True,
    help="If the file system takes two names for one (README, readme), write the second as NAME~2 and say so.",
)
@click.option(
    "--on-error",
    type=click.Choice(["fail", "skip", "partial"]),
    default="fail",
    show_default=True,
    help="If a document cannot be restored. fail: stop. skip: go on with the others, exit 8. partial: also write its "
    "verified segments to NAME.partial, and the missing byte ranges to NAME.partial.json.",
)
@options.model()
@options.batch
@click.option(
    "--allow",
    type=click.Choice(["identical", "precision", "relative"]),
    default="identical",
    show_default=True,
    help="Accept a model this far from the store's, in the words of `memvec diff`. Wrong bytes are refused in any case.",
)
@options.device
@common
def command(
    store: str,
    folder: str | None,
    documents: tuple[str, ...],
    form: Form,
    text_field: str,
    id_field: str | None,
    stdout: bool,
    overwrite: bool,
    rename_collisions: bool,
    on_error: OnError,
    model: str | None,
    batch: int | None,
    allow: Allow,
    device: str | None,
    output: Output,
) -> None:
    """Write documents back, byte for byte.

    Each document is verified before its first byte is written.
    """
    from memvec.corpora.row_writer import line, row
    from memvec.decoding.unpack import read, unpack
    from memvec.store.store import Store

    if stdout == (folder is not None):
        raise UsageError("expected either -o DIR or --stdout.")
    corpus = CorpusSettings(text_field, id_field)
    if stdout:
        if output.as_json:
            raise UsageError("--stdout writes the documents themselves. Leave --json out, or use `memvec cat --json`.")
        if on_error == "partial":
            raise UsageError("--on-error partial writes files. Pass -o DIR with it, or --on-error skip.")
        if form == "parquet":
            raise UsageError("--as parquet writes a file. Pass -o FILE, or --as jsonl.")
        meta = Store.open(store).manifest.meta if form == "jsonl" else {}
        for name, data in read(
            store, documents, model=model, on_error=on_error, batch=batch, device=device, allow=allow,
            watch=output.watch,
        ):  # fmt: skip
            output.clear()
            emit(line(row(name, data, meta.get(name, {}), corpus)) if form == "jsonl" else data)
        return
    assert folder is not None  # else --stdout was given
    try:
        report = unpack(
            store, folder, documents=documents, form=form, corpus=corpus, model=model, overwrite=overwrite,
            rename_collisions=rename_collisions, on_error=on_error, batch=batch, device=device, allow=allow,
            watch=output.watch,
        )  # fmt: skip
    except PartialError as error:
        if isinstance(error.report, UnpackReport):
            value = asdict(error.report) | {"skipped": dict(error.skipped)}
            output.result(value, _text(error.report, folder), notice=True)
        raise
    output.result(asdict(report), _text(report, folder), notice=True)


def _text(report: UnpackReport, folder: str) -> str:
    done = f"unpacked {counted(report.documents, 'document')} ({report.bytes:,} bytes) into {folder} in {clock(report.seconds)}"
    again = f"; {counted(report.escalated, 'record')} had to be decoded again" if report.escalated else ""
    partial = f"\n{len(report.partial) // 2:,} more in part, as NAME.partial" if report.partial else ""
    renamed = "".join(f"\n{printable(name)} is in {printable(file)}" for name, file in report.renamed.items())
    verified = ", each verified" if report.documents else ""
    return f"{done}{verified}{again}{partial}{renamed}"
