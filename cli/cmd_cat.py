"""`memvec cat`."""

from __future__ import annotations

import base64
import hashlib

import click

from memvec.cli.output import Output, common, print_json
from memvec.cli.streams import emit
from memvec.settings import DECODE_BATCH, DECODE_BATCH_GPU


@click.command("cat")
@click.argument("store")
@click.argument("document")
@click.option("-m", "--model", help="Model to decode with. [default: the one named in the store]")
@click.option(
    "--batch",
    type=click.IntRange(1),
    help=f"Records decoded at once. [default: {DECODE_BATCH}, on a GPU {DECODE_BATCH_GPU}]",
)
@click.option("--device", help="Torch device. [default: cuda if there is one, else cpu]")
@common
def command(
    store: str, document: str, model: str | None, batch: int | None, device: str | None, output: Output
) -> None:
    """Write one document of STORE to standard output, verified. With --json: its bytes in base64."""
    from memvec.decoding.unpack import cat

    data = cat(store, document, model=model, batch=batch, device=device, watch=output.watch)
    output.clear()
    if output.as_json:
        digest = hashlib.sha256(data).hexdigest()
        print_json(
            {"document": document, "bytes": len(data), "sha256": digest, "base64": base64.b64encode(data).decode()}
        )
        return
    emit(data)
