"""As much of JSON Schema as formats/schemas/ needs: what is wrong with a value, by path."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

TYPES = {"object": dict, "array": list, "string": str, "null": type(None)}
KNOWN = {
    *("$schema", "title", "type", "const", "enum", "pattern", "minLength", "maxLength", "minimum", "maximum"),
    *("required", "properties", "additionalProperties", "items", "prefixItems", "minItems", "maxItems"),
}


def _is(value: Any, kind: str) -> bool:
    if kind in ("integer", "number"):
        return type(value) is int or (kind == "number" and type(value) is float)
    return isinstance(value, TYPES[kind])


def problems(value: Any, schema: dict[str, Any], path: str = "$") -> Iterator[str]:
    """Where and how `value` breaks `schema`."""
    assert set(schema) <= KNOWN, set(schema) - KNOWN
    kinds = schema.get("type", [])
    if kinds and not any(_is(value, kind) for kind in ([kinds] if isinstance(kinds, str) else kinds)):
        yield f"{path}: no {kinds}"
        return
    if "const" in schema and (type(value), value) != (type(schema["const"]), schema["const"]):
        yield f"{path}: not {schema['const']!r}"
    if "enum" in schema and value not in schema["enum"]:
        yield f"{path}: none of {schema['enum']}"
    if type(value) in (int, float) and not schema.get("minimum", value) <= value <= schema.get("maximum", value):
        yield f"{path}: out of range"
    if isinstance(value, str):
        if not re.search(schema.get("pattern", ""), value):
            yield f"{path}: no {schema['pattern']}"
        if not schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", len(value)):
            yield f"{path}: too short or too long"
    if isinstance(value, list):
        if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)):
            yield f"{path}: too few or too many"
        first = schema.get("prefixItems", [])
        for number, item in enumerate(value):
            yield from problems(
                item, first[number] if number < len(first) else schema.get("items", {}), f"{path}[{number}]"
            )
    if isinstance(value, dict):
        yield from (f"{path}: no {name}" for name in schema.get("required", []) if name not in value)
        others = schema.get("additionalProperties", {})
        for name, item in value.items():
            inner = schema.get("properties", {}).get(name, others)
            yield from [f"{path}: {name}"] if inner is False else problems(item, inner, f"{path}.{name}")
