"""`memvec unpack`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from memvec.cli.output import Output, clock, common, documents
from memvec.cli.streams import emit
from memvec.errors import PartialError, UsageError
from memvec.filesystem.plain_text import printable
from memvec.settings import DECODE_BATCH, DECODE_BATCH_GPU
from memvec.types import UnpackReport

if TYPE_CHECKING:
    from memvec.decoding.unpack import Allow, OnError


@click.command("unpack")
@click.argument("store")
@click.option("-o", "--output-folder", "folder", metavar="DIR", help="Where documents are written.")
@documents
@click.option("--stdout", is_flag=True, help="Write the documents to standard output, one after the other.")
@click.option("--overwrite", is_flag=True, help="Replace files that are there.")
@click.option(
    "--rename-collisions",
    is_flag=True,
    help="Where the file system takes two names for one, as README and readme, write the second as NAME~2 and say so.",
)
@click.option(
    "--on-error",
    type=click.Choice(["fail", "skip", "partial"]),
    default="fail",
    show_default=True,
    help="At a document that is damaged or decodes to other bytes: stop; go on with the others and exit with 8; or "
    "also write its verified segments, and only these, end to end to NAME.partial, with the byte ranges that are "
    "missing in NAME.partial.json.",
)
@click.option("-m", "--model", help="Model to decode with. [default: the one named in the store]")
@click.option(
    "--batch",
    type=click.IntRange(1),
    help=f"Records decoded at once. [default: {DECODE_BATCH}, on a GPU {DECODE_BATCH_GPU}]",
)
@click.option(
    "--allow",
    type=click.Choice(["identical", "precision", "relative"]),
    default="identical",
    show_default=True,
    help="How far the model may be from the one that packed, as `memvec diff` says. What decodes to other bytes is "
    "refused all the same.",
)
@click.option("--device", help="Torch device. [default: cuda if there is one, else cpu]")
@common
def command(
    store: str,
    folder: str | None,
    documents: tuple[str, ...],
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
    """Write the documents of STORE back, byte for byte; each is verified before a byte of it is written."""
    from memvec.decoding.unpack import read, unpack

    if stdout == (folder is not None):
        raise UsageError("expected either -o DIR or --stdout.")
    if stdout:
        if output.as_json:
            raise UsageError("--stdout writes the documents themselves. Leave --json out, or use `memvec cat --json`.")
        if on_error == "partial":
            raise UsageError("--on-error partial writes files. Pass -o DIR with it, or --on-error skip.")
        for _, data in read(
            store,
            documents,
            model=model,
            on_error=on_error,
            batch=batch,
            device=device,
            allow=allow,
            watch=output.watch,
        ):
            output.clear()
            emit(data)
        return
    assert folder is not None  # else --stdout was given
    try:
        report = unpack(
            store, folder, documents=documents, model=model, overwrite=overwrite,
            rename_collisions=rename_collisions, on_error=on_error, batch=batch, device=device, allow=allow,
            watch=output.watch,
        )  # fmt: skip
    except PartialError as error:
        if isinstance(error.report, UnpackReport):
            output.result(
                asdict(error.report) | {"skipped": dict(error.skipped)}, _text(error.report, folder), notice=True
            )
        raise
    output.result(asdict(report), _text(report, folder), notice=True)


def _text(report: UnpackReport, folder: str | None) -> str:
    done = f"unpacked {report.documents:,} documents ({report.bytes:,} bytes) into {folder} in {clock(report.seconds)}"
    again = f"; {report.escalated:,} records had to be decoded again" if report.escalated else ""
    partial = f"\n{len(report.partial) // 2:,} more in part, as NAME.partial" if report.partial else ""
    renamed = "".join(f"\n{printable(name)} is in {printable(file)}" for name, file in report.renamed.items())
    return f"{done}, every one verified{again}{partial}{renamed}"
