"""`memvec add`."""

from __future__ import annotations

from typing import Any

import click

from memvec.cli.cmd_pack import options, run_pack
from memvec.cli.output import common


@click.command("add")
@options(None)
@common
def command(**given: Any) -> None:
    """Pack files and folders into STORE as `pack` does, but only into one that is there.

    The model is by default the one that the store names.
    """
    from memvec.packing.pack import model_for, pack

    given["model"] = model_for(given["store"], given["model"])  # refuses a store that is not there
    run_pack(pack, **given)
