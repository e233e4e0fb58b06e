"""The page of JSON output, from the JSON Schemas (2020-12) in cli/schemas/: one file a command, named after it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from result_tables import markdown

Schema = Mapping[str, Any]


def json_output(folder: Path) -> str:
    """A section for each schema: its description, a table of its fields, the schema itself. Empty without the folder."""
    sections = []
    for file in sorted(folder.glob("*.json")) if folder.is_dir() else []:
        schema = json.loads(file.read_text("utf-8"))
        rows = list(_rows(schema, schema, ""))
        table = markdown(["field", "type", "always there", "meaning"], rows, right=False)
        whole = json.dumps(schema, indent=2, ensure_ascii=False)
        indented = "\n".join(f"    {line}" for line in ["```json", *whole.splitlines(), "```"])
        title = f"## `memvec {file.stem.replace('_', ' ')}`"
        parts = [title, schema.get("description", ""), table if rows else "", f'??? note "The schema"\n\n{indented}']
        sections.append("\n\n".join(part for part in parts if part))
    return "\n\n".join(sections)


def _rows(schema: Schema, top: Schema, prefix: str, seen: tuple[str, ...] = ()) -> Iterator[list[str]]:
    """A row for each field, those of objects in it and in its lists below it."""
    schema, seen = _resolved(schema, top, seen)
    if len(set(seen)) < len(seen):  # a schema that refers to itself is shown once
        return
    required = schema.get("required", ())
    for name, given in schema.get("properties", {}).items():
        field, inside = _resolved(given, top, seen)
        said = {**field, **given}.get("description", "")
        yield [f"`{prefix}{name}`", _type(field, top), "yes" if name in required else "no", said]
        for part, mark in _parts(field, top):
            yield from _rows(part, top, f"{prefix}{name}{mark}.", inside)


def _parts(field: Schema, top: Schema) -> Iterator[tuple[Schema, str]]:
    """What a field holds in turn: its own fields, those of a list's items, those of an object's values."""
    for variant in field.get("anyOf", field.get("oneOf", [field])):
        found, _ = _resolved(variant, top, ())
        if "properties" in found:
            yield variant, ""
        if isinstance(found.get("items"), Mapping):
            yield found["items"], "[]"
        if isinstance(found.get("additionalProperties"), Mapping):
            yield found["additionalProperties"], ".*"


def _resolved(schema: Schema, top: Schema, seen: tuple[str, ...]) -> tuple[Schema, tuple[str, ...]]:
    """The schema that `$ref` within the file names, and the references followed so far."""
    while (place := schema.get("$ref", "")).startswith("#/"):
        found: Any = top
        for key in place[2:].split("/"):
            found = found[key.replace("~1", "/").replace("~0", "~")]
        schema, seen = found, (*seen, place)
    return schema, seen


def _type(field: Schema, top: Schema) -> str:
    """The type as a reader says it: `string`, `list of object`, `integer or null`, the values of an enum."""
    if "const" in field:
        return f"`{json.dumps(field['const'])}`"
    if "enum" in field:
        return " or ".join(f"`{json.dumps(value)}`" for value in field["enum"])
    for union in ("anyOf", "oneOf"):
        if union in field:
            return " or ".join(dict.fromkeys(_type(_resolved(one, top, ())[0], top) for one in field[union]))
    kinds = field.get("type", "any")
    kinds = [kinds] if isinstance(kinds, str) else list(kinds)
    if "array" in kinds and isinstance(field.get("items"), Mapping):
        item, _ = _resolved(field["items"], top, ())
        kinds[kinds.index("array")] = f"list of {_type(item, top)}"
    return " or ".join(kinds)
