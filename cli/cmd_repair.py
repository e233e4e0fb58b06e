"""`memvec repair`."""

from __future__ import annotations

from dataclasses import asdict

import click
from click.exceptions import Exit

from memvec.cli import options
from memvec.cli.options import common, examples
from memvec.cli.output import Output
from memvec.errors import StoreDamagedError, counted
from memvec.filesystem.plain_text import printable
from memvec.maintenance.repair import RepairReport


@click.command("repair", epilog=examples("memvec repair notes.memvec", "memvec repair notes.memvec --yes"))
@click.argument("store")
@click.option("--yes", is_flag=True, help="Repair the store. Without it, only print what would be done.")
@options.model(text="Model of the shards, if manifest.json is lost and they do not name it.")
@options.lock_wait
@common
def command(store: str, yes: bool, model: str | None, lock_wait: float, output: Output) -> None:
    """Repair a damaged store.

    Saves every record whose bytes are unchanged, and moves damaged files to damaged/. Deletes nothing. Exit 0 if the
    store is repaired or has no damage, 3 if it has damage and --yes is missing.
    """
    from memvec.maintenance.repair import repair

    report = repair(store, yes=yes, model=model, lock_wait=lock_wait)
    output.result(asdict(report), "\n".join(_lines(report, store)), notice=report.ok or yes)
    if not report.ok and not yes:
        raise Exit(StoreDamagedError.exit_code)


def _lines(report: RepairReport, store: str) -> list[str]:
    if report.ok:
        return [f"nothing to repair: {counted(report.shards, 'undamaged shard')}"]
    lines = [f"{printable(p.location)}: {p.message} ({p.kind})" for p in report.problems]
    done = "" if report.repaired else "would be "
    if report.manifest_rebuilt:
        lines.append(
            f"manifest.json {done}made again from the shards; documents that `rm` removed since the last `gc` come back,"
        )
        lines.append("  and labels from --meta are lost, with extensions of other programs")
    lines.append(
        f"{report.shards:,} shards are undamaged; of the others {report.records_saved:,} records {done}saved, "
        f"and at least {report.records_lost:,} are lost"
    )
    lines += [f"lost records, pack it again: {printable(name)}" for name in report.documents_hurt]
    if report.records_lost and not report.documents_hurt:
        lines.append("their documents are not known: compare `memvec list` with your files, and pack what is missing")
    lines += [f"{done or 'was '}moved to damaged/: {printable(name)}" for name in report.set_apart]
    if report.unreadable:
        lines.append(
            f"{len(report.unreadable):,} of these cannot be read now and may be undamaged. Once they can, put the shards"
        )
        lines.append(f"  into NEW/shards/, then run `memvec repair NEW --yes` and `memvec merge NEW -o {store}`")
    if report.keys_dropped:
        lines.append(
            f"keys of {', '.join(map(printable, report.keys_dropped))} are lost: `memvec index build` makes them"
        )
    lines.append(
        "repaired; `memvec verify` checks it" if report.repaired else f"run `memvec repair {store} --yes` to do it"
    )
    return lines
