"""`memvec repair`."""

from __future__ import annotations

from dataclasses import asdict

import click
from click.exceptions import Exit

from memvec.cli.output import Output, common, lock_wait
from memvec.errors import StoreDamagedError
from memvec.filesystem.plain_text import printable
from memvec.maintenance.repair import RepairReport


@click.command("repair")
@click.argument("store")
@click.option("--yes", is_flag=True, help="Do it. Without, only say what would be done.")
@click.option("-m", "--model", help="Whose shards these are, where the manifest is lost and they do not say it.")
@lock_wait
@common
def command(store: str, yes: bool, model: str | None, lock_wait: float, output: Output) -> None:
    """Make a damaged STORE readable again with every record that is still what was written. Deletes nothing.

    Exit 0 when it is repaired or there is nothing to repair, 3 when there is and --yes was not given.
    """
    from memvec.maintenance.repair import repair

    report = repair(store, yes=yes, model=model, lock_wait=lock_wait)
    output.result(asdict(report), "\n".join(_lines(report, store)), notice=report.ok or yes)
    if not report.ok and not yes:
        raise Exit(StoreDamagedError.exit_code)


def _lines(report: RepairReport, store: str) -> list[str]:
    if report.ok:
        return [f"nothing to repair: {report.shards:,} shards are whole"]
    lines = [f"{printable(p.location)}: {p.message} ({p.kind})" for p in report.problems]
    done = "" if report.repaired else "would be "
    if report.manifest_rebuilt:
        lines.append(
            f"manifest.json {done}made again from the shards; what `rm` removed since the last `gc` comes back,"
        )
        lines.append("  and what --meta said of documents is lost, with extensions of other programs")
    lines.append(
        f"{report.shards:,} shards are whole; of the others {report.records_saved:,} records {done}saved, "
        f"{report.records_lost:,} are lost as far as can be known"
    )
    lines += [f"lost records, pack it again: {printable(name)}" for name in report.documents_hurt]
    lines += [f"{done or 'was '}moved to damaged/: {printable(name)}" for name in report.set_apart]
    if report.unreadable:
        lines.append(
            f"{len(report.unreadable):,} of these cannot be read now and may be whole. Once they can: put the shards"
        )
        lines.append(f"  into NEW/shards/, then `memvec repair NEW --yes` and `memvec merge NEW -o {store}`")
    if report.keys_dropped:
        lines.append(
            f"keys of {', '.join(map(printable, report.keys_dropped))} are lost: `memvec index build` makes them"
        )
    lines.append("repaired; `memvec verify` checks it" if report.repaired else f"`memvec repair {store} --yes` does it")
    return lines
