"""`memvec verify`."""

from __future__ import annotations

from dataclasses import asdict

import click
from click.exceptions import Exit

from memvec.cli.output import Output, clock, common, printable
from memvec.errors import ReconstructionError, StoreDamagedError
from memvec.settings import DECODE_BATCH


@click.command("verify")
@click.argument("store")
@click.option("--decode", is_flag=True, help="Decode every record with the model and compare it (slow).")
@click.option("-m", "--model", help="Model to decode with. [default: the one named in the store]")
@click.option(
    "--batch", type=click.IntRange(1), default=DECODE_BATCH, show_default=True, help="Records decoded at once."
)
@click.option("--device", help="Torch device. [default: cuda if there is one, else cpu]")
@common
def command(store: str, decode: bool, model: str | None, batch: int, device: str | None, output: Output) -> None:
    """Check every file, digest and record of STORE. Exit 0 when all is well, 3 when damaged, 5 when decoding fails.

    Without --decode this needs no model and establishes that the store is what was written. With --decode it
    establishes that this model on this machine gives every document back.
    """
    from memvec.verification import verify

    report = verify(store, decode=decode, model=model, batch=batch, device=device, watch=output.watch)
    lines = [f"{printable(p.location)}: {p.message} ({p.code})" for p in report.problems]
    how = (
        f"{report.decoded:,} of {report.records:,} records decoded" if decode else "digests and structure, not decoded"
    )
    if decode and report.context_records:
        how += f", {report.context_records:,} are context records, which do not decode"
    if report.ok:
        lines += [f"ok: {report.documents:,} documents, {report.records:,} records ({how}) in {clock(report.seconds)}"]
    lines += [f"incomplete, from an interrupted pack: {printable(name)}" for name in report.incomplete]
    if decode and not report.ok and not report.decoded:
        lines.append("nothing was decoded: a damaged store is not read any further")
    output.result(asdict(report), "\n".join(lines), notice=report.ok)
    if not report.ok:
        wrong = all(problem.kind == "wrong_text" for problem in report.problems)
        raise Exit(ReconstructionError.exit_code if wrong else StoreDamagedError.exit_code)
