"""`memvec show`."""

from __future__ import annotations

from typing import Any

import click

from memvec.cli.output import Output, common, printable
from memvec.inspection import show


@click.command("show")
@click.argument("store")
@click.argument("name", metavar="DOCUMENT|RECORD")
@common
def command(store: str, name: str, output: Output) -> None:
    """A document with its records, or one record by the first digits of its id."""
    value = show(store, name)
    output.result(value, "\n".join(_lines(value)))


def _lines(value: dict[str, Any]) -> list[str]:
    parts = value.get("parts")
    if parts is None:
        fields = {**value, **value["report"]}
        return [f"  {key:<17} {printable(str(fields[key]))}" for key in fields if key != "report"]
    head = [f"  {key:<17} {printable(str(value[key]))}" for key in value if key != "parts"]
    rows = [
        f"  {p['id'][:12]}  bytes {p['start']:>7,}+{p['length']:<5,}  {p['tokens']:>4} tokens  {p['vectors']:>3} vectors  "
        f"{len(p['corrections']):>2} corrected  {p['report']['steps']:>4} steps  {p['kind']} {p['reason']}".rstrip()
        for p in parts
    ]
    return [*head, "", *rows]
