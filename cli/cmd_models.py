"""`memvec models`."""

from __future__ import annotations

from dataclasses import asdict

import click

from memvec.checkpoints.resolve import cache_folder, models
from memvec.cli.options import common
from memvec.cli.output import Output
from memvec.cli.tables import table
from memvec.filesystem.plain_text import printable


@click.command("models")
@common
def command(output: Output) -> None:
    """List the models known by name.

    -m also takes a checkpoint folder, a GGUF file or a hub id OWNER/NAME.
    """
    found = models()
    rows = [("name", "package", "licence", "checkpoint")]
    for m in found:
        package = f"{m.requirement}, {'' if m.installed else 'not '}installed" if m.requirement else "-"
        cached = f"cached in {m.path}" if m.cached else "not converted yet"
        rows.append((printable(m.name), printable(package), m.licence or "-", printable(cached)))
    output.result({"cache": str(cache_folder()), "models": [asdict(m) for m in found]}, lambda: table(rows, "l"))
