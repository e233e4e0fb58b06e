"""`memvec verify`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click
from click.exceptions import Exit

from memvec.cli import options
from memvec.cli.options import common, examples
from memvec.cli.output import Output
from memvec.cli.tables import clock
from memvec.errors import ReconstructionError, StoreDamagedError, counted
from memvec.filesystem.plain_text import printable

if TYPE_CHECKING:
    from memvec.decoding.verify import VerifyReport


@click.command(
    "verify",
    epilog=examples(
        "memvec verify notes.memvec",
        "memvec verify notes.memvec --decode",
        "memvec verify notes.memvec --decode --sample 5%",
    ),
)
@click.argument("store")
@click.option("--decode", is_flag=True, help="Decode every record with the model and compare it (slow).")
@click.option("--sample", metavar="N|N%", help="With --decode: decode only this many records, drawn at random.")
@options.seed
@click.option("--max-seconds", type=float, metavar="S", help="Stop after S seconds and print how much was checked.")
@options.model()
@options.batch
@options.device
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
    """Check a store for damage.

    Compares every file and record with its digest; this needs no model. With --decode it also decodes every
    record with the model on this machine. Exit 0 if all is well, 3 if the store is damaged, 5 if a record decodes to
    other bytes.
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
        f"{report.decoded:,} of {counted(report.records, 'record')} decoded"
        if decode
        else "digests and structure, not decoded"
    )
    memories = {"context": report.context_records, "kv": report.kv_records}
    if decode and (parts := [f"{count:,} are {kind} records" for kind, count in memories.items() if count]):
        how += f", {' and '.join(parts)}, which do not decode"
    if report.ok:
        begun = "ok so far" if report.partial else "ok"
        counts = f"{counted(report.documents, 'document')}, {counted(report.records, 'record')}"
        lines += [f"{begun}: {counts} ({how}) in {clock(report.seconds)}"]
    if report.partial:
        left = report.decodable - report.decoded if decode else 0
        looked = f"the digests of {report.checked:,} of {counted(report.records, 'record')} were compared"
        lines += [f"partial: {looked}" + (f"; {left:,} were not decoded" if left else "")]
    if report.escalated:
        lines += [f"{counted(report.escalated, 'record')} came out right only when decoded again, alone or on the CPU"]
    lines += [f"incomplete, from an interrupted pack: {printable(name)}" for name in report.incomplete]
    if decode and not report.ok and not report.decoded:
        lines.append("nothing was decoded, because the store is damaged")
    return "\n".join(lines)
