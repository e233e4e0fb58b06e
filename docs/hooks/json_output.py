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
    files = {file.name: json.loads(file.read_text("utf-8")) for file in sorted(folder.glob("*.json"))}
    absolute = {name: _absolute(schema, name) for name, schema in files.items()}
    sections = []
    for name, schema in files.items():
        rows = list(_rows(absolute[name], absolute, ""))
        table = markdown(["field", "type", "always there", "meaning"], rows, right=False)
        whole = json.dumps(schema, indent=2, ensure_ascii=False)
        indented = "\n".join(f"    {line}" for line in ["```json", *whole.splitlines(), "```"])
        title = f"## {schema.get('title', name).removesuffix(' --json')}"
        parts = [title, schema.get("description", ""), table if rows else "", f'??? note "The schema"\n\n{indented}']
        sections.append("\n\n".join(part for part in parts if part))
    return "\n\n".join(sections)


def _absolute(schema: Any, name: str) -> Any:
    """The schema with the name of its file in each reference within it."""
    if isinstance(schema, list):
        return [_absolute(one, name) for one in schema]
    if not isinstance(schema, Mapping):
        return schema
    return {
        key: name + value if key == "$ref" and str(value).startswith("#") else _absolute(value, name)
        for key, value in schema.items()
    }


def _rows(schema: Schema, files: Schema, prefix: str, seen: tuple[str, ...] = ()) -> Iterator[list[str]]:
    """A row for each field, those of objects in it and in its lists below it."""
    schema, seen = _resolved(schema, files, seen)
    if len(set(seen)) < len(seen):  # a schema that refers to itself is shown once
        return
    required = schema.get("required", ())
    for name, given in schema.get("properties", {}).items():
        field, inside = _resolved(given, files, seen)
        said = {**field, **given}.get("description", "")
        yield [f"`{prefix}{name}`", _type(field, files), "yes" if name in required else "no", said]
        for part, mark in _parts(field, files):
            yield from _rows(part, files, f"{prefix}{name}{mark}.", inside)


def _parts(field: Schema, files: Schema) -> Iterator[tuple[Schema, str]]:
    """What a field holds in turn: its own fields, those of a list's items, those of an object's values."""
    for variant in field.get("anyOf", field.get("oneOf", [field])):
        found, _ = _resolved(variant, files, ())
        if "properties" in found:
            yield variant, ""
        if isinstance(found.get("items"), Mapping):
            yield found["items"], "[]"
        if isinstance(found.get("additionalProperties"), Mapping):
            yield found["additionalProperties"], ".*"


def _resolved(schema: Schema, files: Schema, seen: tuple[str, ...]) -> tuple[Schema, tuple[str, ...]]:
    """The schema that `$ref` names, in any of the files, and the references followed so far."""
    while place := schema.get("$ref"):
        name, _, path = place.partition("#")
        found: Any = files[name]
        for key in filter(None, path.split("/")):
            found = found[key.replace("~1", "/").replace("~0", "~")]
        schema, seen = {**found, **{key: value for key, value in schema.items() if key != "$ref"}}, (*seen, place)
    return schema, seen


def _type(field: Schema, files: Schema) -> str:
    """The type as a reader says it: `string`, `list of object`, `integer or null`, the values of an enum."""
    if "const" in field:
        return f"`{json.dumps(field['const'])}`"
    if "enum" in field:
        return " or ".join(f"`{json.dumps(value)}`" for value in field["enum"])
    for union in ("anyOf", "oneOf"):
        if union in field:
            return " or ".join(dict.fromkeys(_type(_resolved(one, files, ())[0], files) for one in field[union]))
    kinds = field.get("type", "any")
    kinds = [kinds] if isinstance(kinds, str) else list(kinds)
    if "array" in kinds and isinstance(field.get("items"), Mapping):
        item, _ = _resolved(field["items"], files, ())
        kinds[kinds.index("array")] = f"list of {_type(item, files)}"
    return " or ".join(kinds)
