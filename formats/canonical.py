"""Canonical JSON: every value has one byte string. JSON that readers understand differently is refused. SPEC §3."""

from __future__ import annotations

import hashlib
import json
import math
from typing import Any

from memvec.formats import limits
from memvec.formats.refusal import Refusal


def dumps(value: Any) -> bytes:
    """Encode a value as UTF-8 JSON with sorted keys and no spaces. ValueError on NaN or infinity. SPEC §3."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8")


def loads(data: bytes) -> Any:
    """Decode canonical JSON. Refusal unless the bytes are exactly those that `dumps` writes. SPEC §3."""
    value, form = _parsed(data)
    if form != data:
        raise Refusal("not-canonical", "not in canonical form")
    return value


def parse(data: bytes) -> Any:
    """Decode JSON that need not be in canonical form. Otherwise it refuses the same as `loads`."""
    return _parsed(data)[0]


def seal(name: str, value: Any) -> bytes:
    """Encode `value` under `name`, together with its sha256, as canonical JSON."""
    assert name < "sha256", name  # the keys of canonical JSON ascend
    text = dumps(value)
    return b'{"%s":%s,"sha256":"%s"}' % (name.encode(), text, hashlib.sha256(text).hexdigest().encode())


def unseal(name: str, data: bytes) -> Any:
    """Decode the value that `seal` wrote under `name`. Refusal if the JSON is bad or the sha256 does not match."""
    envelope = parse(data)
    if type(envelope) is not dict or name not in envelope:
        raise Refusal("bad-field", f"a field is missing: {name}")
    value = envelope[name]
    if hashlib.sha256(dumps(value)).hexdigest() != envelope.get("sha256"):
        raise Refusal("digest-mismatch", f"{name} does not match its digest")
    return value


def _parsed(data: bytes) -> tuple[Any, bytes]:
    """(value, its canonical form)."""
    # Before it is parsed: an empty list takes two bytes here and fifty in memory.
    if sum(map(data.count, (b",", b"[", b"{"))) > limits.JSON_VALUES:
        raise Refusal("too-many-values", f"JSON could hold more than {limits.JSON_VALUES} values")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Refusal("not-utf8", "not valid UTF-8") from error
    try:
        value = json.loads(
            text, object_pairs_hook=_unique, parse_constant=_constant, parse_float=_finite, parse_int=_integer
        )
    except json.JSONDecodeError as error:
        raise Refusal("not-json", f"no JSON ({error.msg} at character {error.pos})") from error
    except RecursionError as error:
        raise _deep() from error
    _check_depth(value)
    try:
        return value, dumps(value)
    except UnicodeEncodeError as error:
        raise Refusal("surrogate", "a string holds half a surrogate pair") from error


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(limits.JSON_DEPTH + 1):
        level = [v for v in level if isinstance(v, dict | list)]
        if not level:
            return
        level = [inner for v in level for inner in (v.values() if isinstance(v, dict) else v)]
    raise _deep()


def _deep() -> Refusal:
    return Refusal("nested-too-deeply", f"nested too deeply: more than {limits.JSON_DEPTH} arrays or objects")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise Refusal("duplicate-key", "a key stands twice")
    return value


def _constant(name: str) -> float:
    raise Refusal("not-finite", f"{name} is no JSON number")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise Refusal("not-finite", f"{text[:40]} is out of range")
    return number


def _integer(text: str) -> int:
    # Length first: Python refuses integers of thousands of digits, and its limit varies.
    number = int(text) if len(text) <= 20 else limits.MOST_INTEGER + 1
    if not limits.LEAST_INTEGER <= number <= limits.MOST_INTEGER:
        raise Refusal("integer-too-large", f"{text[:40]} is outside -2^63 to 2^64 - 1")
    return number
