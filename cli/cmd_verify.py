"""`memvec verify`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click
from click.exceptions import Exit

from memvec.cli.output import Output, clock, common
from memvec.errors import ReconstructionError, StoreDamagedError
from memvec.filesystem.plain_text import printable
from memvec.settings import DECODE_BATCH, DECODE_BATCH_GPU

if TYPE_CHECKING:
    from memvec.decoding.verify import VerifyReport


@click.command("verify")
@click.argument("store")
@click.option("--decode", is_flag=True, help="Decode every record with the model and compare it (slow).")
@click.option("--sample", metavar="N|N%", help="With --decode: only so many records, drawn at random.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of what --sample and --max-seconds reach.")
@click.option("--max-seconds", type=float, metavar="S", help="Stop after S seconds and say how far it came.")
@click.option("-m", "--model", help="Model to decode with. [default: the one named in the store]")
@click.option(
    "--batch",
    type=click.IntRange(1),
    help=f"Records decoded at once. [default: {DECODE_BATCH}, on a GPU {DECODE_BATCH_GPU}]",
)
@click.option("--device", help="Torch device. [default: cuda if there is one, else cpu]")
@common
def command(
    store: str,
    decode: bool,
    sample: str | None,
    seed: int,
    max_seconds: float | None,
    model: str | None,
    batch: int | None,
    device: str | None,
    output: Output,
) -> None:
    """Check every file, digest and record of STORE. Exit 0 when all is well, 3 when damaged, 5 when decoding fails.

    Without --decode this needs no model and establishes that the store is what was written. With --decode it
    establishes that this model on this machine gives every document back; with --sample or --max-seconds it does so of
    what was looked at, and says that this was not all.
    """
    from memvec.decoding.verify import verify

    report = verify(
        store, decode=decode, sample=sample, seed=seed, max_seconds=max_seconds, model=model, batch=batch,
        device=device, watch=output.watch,
    )  # fmt: skip
    output.result(asdict(report), _text(report, decode), notice=report.ok)
    if not report.ok:
        wrong = all(problem.kind == "wrong_text" for problem in report.problems)
        raise Exit(ReconstructionError.exit_code if wrong else StoreDamagedError.exit_code)


def _text(report: VerifyReport, decode: bool) -> str:
    lines = [f"{printable(p.location)}: {p.message} ({p.code})" for p in report.problems]
    how = (
        f"{report.decoded:,} of {report.records:,} records decoded" if decode else "digests and structure, not decoded"
    )
    if decode and report.context_records:
        how += f", {report.context_records:,} are context records, which do not decode"
    if report.ok:
        begun = "ok as far as it went" if report.partial else "ok"
        counts = f"{report.documents:,} documents, {report.records:,} records"
        lines += [f"{begun}: {counts} ({how}) in {clock(report.seconds)}"]
    if report.partial:
        left = report.decodable - report.decoded if decode else 0
        looked = f"the digests of {report.checked:,} of {report.records:,} records were compared"
        lines += [f"partial: {looked}" + (f", {left:,} that decode were left out" if left else "")]
    if report.escalated:
        lines += [f"{report.escalated:,} records came out right only when they were decoded again, alone or on the CPU"]
    lines += [f"incomplete, from an interrupted pack: {printable(name)}" for name in report.incomplete]
    if decode and not report.ok and not report.decoded:
        lines.append("nothing was decoded: a damaged store is not read any further")
    return "\n".join(lines)
