"""`memvec cat`."""

from __future__ import annotations

import base64
import hashlib

import click

from memvec.cli import options
from memvec.cli.options import common, examples
from memvec.cli.output import Output, print_json
from memvec.cli.streams import emit


@click.command(
    "cat", epilog=examples("memvec cat notes.memvec todo.txt", "memvec cat notes.memvec photo.png > photo.png")
)
@click.argument("store")
@click.argument("document")
@options.model()
@options.batch
@options.device
@common
def command(
    store: str, document: str, model: str | None, batch: int | None, device: str | None, output: Output
) -> None:
    """Write one document to standard output.

    The document is verified before its first byte is written. With --json its bytes are in base64.
    """
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
