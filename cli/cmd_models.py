"""`memvec models`."""

from __future__ import annotations

from dataclasses import asdict

import click

from memvec.checkpoints.resolve import cache_folder, models
from memvec.cli.output import Output, common


@click.command("models")
@common
def command(output: Output) -> None:
    """Models known by name. -m also takes a checkpoint folder, a GGUF file or a hub id OWNER/NAME."""
    rows = models()
    lines = [
        f"  {m.name}  "
        + (
            f"{m.requirement} ({m.licence}), {'installed' if m.installed else 'not installed'}, "
            if m.requirement
            else ""
        )
        + (f"cached in {m.path}" if m.cached else "not converted yet")
        for m in rows
    ]
    output.result({"cache": str(cache_folder()), "models": [asdict(m) for m in rows]}, "\n".join(lines))
