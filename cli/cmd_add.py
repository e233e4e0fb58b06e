"""`memvec add`."""

from __future__ import annotations

from typing import Any

import click

from memvec.cli.cmd_pack import pack_options, run_pack
from memvec.cli.options import common, examples


@click.command(
    "add",
    epilog=examples("memvec add new.txt -o notes.memvec", "memvec add notes/ -o notes.memvec --exclude '*.log'"),
)
@pack_options(None, "Store folder to add to.")
@common
def command(**given: Any) -> None:
    """Pack files, folders and corpora into an existing store.

    Works like `pack`, but fails if STORE does not exist. The default model is the one that STORE names.
    """
    from memvec.packing.pack import model_for, pack

    given["model"] = model_for(given["store"], given["model"])  # fails if there is no store
    run_pack(pack, **given)
