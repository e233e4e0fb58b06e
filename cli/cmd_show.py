"""`memvec show`."""

from __future__ import annotations

from typing import Any

import click

from memvec.cli.options import common, examples
from memvec.cli.output import Output
from memvec.cli.tables import facts, optional, table
from memvec.filesystem.plain_text import printable
from memvec.store.listing import show

Values = dict[str, Any]

KV_FACTS = {"width": "key width", "bytes": "kv bytes"}  # the record has a width and bytes of another meaning


@click.command("show", epilog=examples("memvec show notes.memvec todo.txt", "memvec show notes.memvec 3fa94c01"))
@click.argument("store")
@click.argument("name", metavar="DOCUMENT|RECORD")
@common
def command(store: str, name: str, output: Output) -> None:
    """Show a document with its records, or one record.

    A record is named by the first digits of its id, at least four. Loads no model.
    """
    value = show(store, name)
    output.result(value, lambda: _document(value) if "parts" in value else _record(value))


def _record(value: Values) -> str:
    """Every value of a record: of the record itself, of its keys and values, of its fit, and of its measurement."""
    measured = {key: "not measured" if v is None else v for key, v in (value["conditioning"] or {}).items()}
    kept = {KV_FACTS.get(key, key): v for key, v in (value["kv"] or {}).items()}
    return _facts({**value, **kept, **value["report"], **measured}, "report", "conditioning", "kv")


def _document(value: Values) -> str:
    """Every value of a document, then a row for each record."""
    rows = [("record", "first byte", "bytes", "tokens", "vectors", "corrected", "steps", "kind", "")]
    for p in value["parts"]:
        figures = (p["start"], p["length"], p["tokens"], p["vectors"], len(p["corrections"]), p["report"]["steps"])
        rows.append((p["id"][:12], *(f"{n:,}" for n in figures), p["kind"], _note(p)))
    gains = {key: optional(value[key]) for key in ("gain", "kv_gain")}
    return f"{_facts(value | gains, 'parts')}\n\n{table(rows, 'lrrrrrrll')}"


def _note(part: Values) -> str:
    """The reason for a raw record, the gain of a memory, and the size of a kv memory."""
    measured, kv = part["conditioning"], part["kv"]
    if kv:
        kept = f"{kv['positions']:,} positions, {kv['rows']:,} rows of {kv['bits']} bits"
        return f"gain {optional(measured['gain'])}, {kept}"
    return f"gain {optional(measured['gain'])}" if measured else str(part["reason"])


def _facts(value: Values, *without: str) -> str:
    return facts([(key, printable(str(v))) for key, v in value.items() if key not in without])
