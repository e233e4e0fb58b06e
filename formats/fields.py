"""Read values from JSON by exact type, within bounds. A field that is missing or of another type is refused."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar

from memvec.formats import limits
from memvec.formats.refusal import Refusal
from memvec.types import Fingerprint

T = TypeVar("T")

KINDS = {"str": str, "int": int, "Mapping[str, Any]": dict, "Fingerprint": Fingerprint}


def bad(what: str) -> Refusal:
    """Return the refusal of a field."""
    return Refusal("bad-field", f"a field is missing or of the wrong type: {what}")


def one(value: Any, name: str, kind: type[T]) -> T:
    """Return member `name` of an object. It has exactly this type: True is no number."""
    if type(value) is not dict or type(value.get(name)) is not kind:
        found = reprlib.repr(value.get(name)) if isinstance(value, dict) else "no object around it"
        raise bad(f"{name}: expected {kind.__name__}, found {found}")
    found = value[name]
    assert isinstance(found, kind)
    return found


def several(value: Any, name: str, kind: type[T], default: list[T] | None = None) -> list[T]:
    """Return member `name` of an object, a list of exactly this type. If it is absent, return `default`."""
    if default is not None and name not in value:
        return default
    found = one(value, name, list)
    if any(type(member) is not kind for member in found):
        raise bad(f"{name}: expected only {kind.__name__} in it")
    return found


def mapping(value: Any, name: str, kind: type[T]) -> dict[str, T]:
    """Return member `name` of an object, an object with values of exactly this type. If it is absent, return {}."""
    if name not in value:
        return {}
    found = one(value, name, dict)
    if any(type(member) is not kind for member in found.values()):
        raise bad(f"{name}: expected only {kind.__name__} in it")
    return found


def dataclass_of(cls: type[T], value: Any) -> T:
    """Make a dataclass from an object. Unknown keys are ignored; fields with a default may be absent."""
    if not isinstance(value, dict):
        raise bad(f"{cls.__name__} is no object")
    chosen: dict[str, Any] = {}
    for item in fields(cls):  # type: ignore[arg-type]
        if item.name in value:
            kind = KINDS.get(str(item.type))
            if kind is None:
                raise bad(f"{item.name} of {cls.__name__}")
            chosen[item.name] = one(value, item.name, kind)
    try:
        return cls(**chosen)
    except TypeError as error:  # the constructor names the missing fields
        raise bad(str(error)) from error


def fingerprint(value: Any) -> Fingerprint:
    """Return a complete fingerprint whose width is within the limits."""
    found = dataclass_of(Fingerprint, value)
    within(found.width, "width", limits.WIDTH, 1)
    return found


def within(value: int, name: str, most: int, least: int = 0) -> int:
    """Return `value`, or refuse it unless it is from `least` to `most`."""
    if not least <= value <= most:
        raise Refusal("out-of-range", f"{name} is {value}, expected {least} to {most}")
    return value


def counts(value: Mapping[str, Any], bounds: Mapping[str, int]) -> None:
    """Refuse members that are not integers from 0 to their bound."""
    for name, most in bounds.items():
        within(one(value, name, int), name, most)


def digest(text: str, name: str) -> str:
    """Return `text`, or refuse it unless it is a sha256 in lower-case hex."""
    if len(text) != 64 or set(text) - set("0123456789abcdef"):
        raise Refusal("bad-digest", f"{name} {reprlib.repr(text)} is no sha256 in hex")
    return text
