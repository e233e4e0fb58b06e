"""`memvec show`."""

from __future__ import annotations

from typing import Any

import click

from memvec.cli.output import Output, common
from memvec.cli.render import gain
from memvec.filesystem.plain_text import printable
from memvec.store.listing import show


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
        measured = {key: "not measured" if v is None else v for key, v in (value["conditioning"] or {}).items()}
        return _columns({**value, **value["report"], **measured}, ("report", "conditioning"))
    head = _columns(value | {"gain": gain(value["gain"])}, ("parts",))
    rows = [
        f"  {p['id'][:12]}  bytes {p['start']:>7,}+{p['length']:<5,}  {p['tokens']:>4} tokens  {p['vectors']:>3} vectors  "
        f"{len(p['corrections']):>2} corrected  {p['report']['steps']:>4} steps  {p['kind']} {_note(p)}".rstrip()
        for p in parts
    ]
    return [*head, "", *rows]


def _note(part: dict[str, Any]) -> str:
    """Why a part is raw, or what its vectors keep of the text's gain."""
    measured = part["conditioning"]
    return f"gain {gain(measured['gain'])}" if measured else str(part["reason"])


def _columns(value: dict[str, Any], without: tuple[str, ...]) -> list[str]:
    return [f"  {key:<17} {printable(str(v))}" for key, v in value.items() if key not in without]
