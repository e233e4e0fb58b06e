"""Stores that every reader must refuse for what their manifest is, by name: (code, files)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vectors.building import FINGERPRINT, Files, document, record, sha, shard, store

Case = tuple[str, Callable[[], Files]]
GOOD = shard([document("a", b"\xff")], [record(0, 0, b"\xff")])
ENTRY = {"sha256": sha(b""), "bytes": 1, "records": 1, "documents": 1}
DEEP = {"example.org": {"must_understand": False, "x": 0}}


def text(old: str, new: str) -> Callable[[], Files]:
    """A manifest whose body reads otherwise, its digest right."""

    def change(body: bytes) -> bytes:
        assert old.encode() in body, old
        return body.replace(old.encode(), new.encode("utf-8", "surrogateescape"), 1)

    return lambda: store(text=change)


def said(**changes: Any) -> Callable[[], Files]:
    """A manifest with other values; None takes one away."""
    return lambda: store(body=lambda b: {k: v for k, v in (b | changes).items() if v is not None})


def around(change: Callable[[bytes], bytes]) -> Callable[[], Files]:
    return lambda: store(envelope=change)


def features(**changes: Any) -> Callable[[], Files]:
    return said(features={"optional": [], "required": []} | changes)


def entry(**changes: Any) -> Callable[[], Files]:
    return said(shards=[ENTRY | changes])


def alone(files: Files) -> Files:
    return {name: data for name, data in files.items() if name != "manifest.json"}


def twice() -> Files:
    return store(GOOD, body=lambda b: b | {"shards": b["shards"] * 2})


def fingerprint(**changes: Any) -> Callable[[], Files]:
    return said(fingerprint={k: v for k, v in (FINGERPRINT | changes).items() if v is not None})


def nested(depth: int) -> Callable[[], Files]:
    """`depth` arrays in an extension, which is three deep itself and in an envelope."""
    wrapped = "[" * depth + "]" * depth
    return lambda: store(
        body=lambda b: b | {"extensions": DEEP}, text=lambda t: t.replace(b'"x":0', b'"x":' + wrapped.encode())
    )


STORES: dict[str, Case] = {
    "manifest-missing": ("missing-file", lambda: alone(store(GOOD))),
    "manifest-of-nothing": ("cut-off", around(lambda t: b"")),
    "manifest-cut": ("cut-off", around(lambda t: t[:-9])),
    "manifest-without-newline": ("cut-off", around(lambda t: t[:-1])),
    "manifest-two-newlines": ("not-canonical", around(lambda t: t + b"\n")),
    "manifest-carriage-return": ("not-canonical", around(lambda t: t[:-1] + b"\r\n")),
    "manifest-digest": ("digest-mismatch", around(lambda t: t.replace(b'"tool":"e', b'"tool":"E'))),
    "manifest-digest-upper-case": ("digest-mismatch", around(lambda t: t[:-70] + t[-70:].upper())),
    "manifest-envelope-key": ("bad-field", around(lambda t: t[:-2] + b',"z":1}\n')),
    "manifest-a-list": ("bad-field", around(lambda t: b"[]\n")),
    "manifest-byte-order-mark": ("not-json", around(lambda t: b"\xef\xbb\xbf" + t)),
    "manifest-nothing-but-brackets": ("nested-too-deeply", around(lambda t: b"[" * 3000 + b"\n")),
    "json-space": ("not-canonical", text('"tool":', '"tool": ')),
    "json-order": ("not-canonical", text('"tool":"example","version":[1,0]', '"version":[1,0],"tool":"example"')),
    "json-escape": ("not-canonical", text("example", "ex\\u0061mple")),
    "json-number-form": ("not-canonical", text("1e-05", "0.00001")),
    "json-minus-nought": ("not-canonical", text('"generation":0', '"generation":-0')),
    "json-duplicate-key": ("duplicate-key", text('"tool":"example"', '"tool":"example","tool":"example"')),
    "json-nan": ("not-finite", text("1e-05", "NaN")),
    "json-infinity": ("not-finite", text("1e-05", "-Infinity")),
    "json-beyond-a-double": ("not-finite", text("1e-05", "1e999")),
    "json-integer-of-5000-digits": ("integer-too-large", text('"generation":0', '"generation":' + "9" * 5000)),
    "json-integer-of-65-bits": ("integer-too-large", text('"generation":0', '"generation":18446744073709551616')),
    "json-surrogate": ("surrogate", text("example", "\\ud83d")),
    "json-not-utf8": ("not-utf8", text("example", "\udcff")),
    "json-surrogate-in-utf8": ("not-utf8", text("example", "\udced\udca0\udc80")),
    "json-not-json": ("not-json", text("[1,0]", "[1,0")),
    "json-33-deep": ("nested-too-deeply", nested(29)),
    "format-other": ("wrong-format", said(format="zip")),
    "format-missing": ("bad-field", said(format=None)),
    "version-2": ("unsupported-version", said(version=[2, 0])),
    "version-of-texts": ("bad-field", said(version=["1", "0"])),
    "version-of-three": ("bad-field", said(version=[1, 0, 0])),
    "version-with-fraction": ("bad-field", said(version=[1.0, 0])),
    "feature-unknown": ("unknown-feature", features(required=["tomorrow"])),
    "features-no-lists": ("bad-field", features(required={"context": 1})),
    "features-missing": ("bad-field", said(features=None)),
    "optional-features-no-texts": ("bad-field", features(optional=[1])),
    "extension-to-be-understood": ("unknown-extension", said(extensions={"example.org": {"must_understand": True}})),
    "extension-that-does-not-say": ("bad-field", said(extensions={"example.org": {}})),
    "numerics-bfloat16": ("unsupported-numerics", said(numerics={"attention": "sdpa", "dtype": "bfloat16"})),
    "numerics-eager": ("unsupported-numerics", said(numerics={"attention": "eager", "dtype": "float32"})),
    "numerics-half": ("bad-field", said(numerics={"attention": "sdpa"})),
    "generation-true": ("bad-field", said(generation=True)),
    "generation-negative": ("out-of-range", said(generation=-1)),
    "vocabulary-too-large": ("out-of-range", said(vocabulary=(1 << 24) + 1)),
    "width-too-large": ("out-of-range", fingerprint(width=65537)),
    "fingerprint-without-weights": ("bad-field", fingerprint(weights=None)),
    "fingerprint-of-a-numbered-source": ("bad-field", fingerprint(source=7)),
    "fingerprint-of-a-number": ("bad-field", fingerprint(probe=7)),
    "shards-no-list": ("bad-field", said(shards=3)),
    "shard-name-leads-out": ("bad-digest", entry(sha256="../../../etc/passwd")),
    "shard-name-absolute": ("bad-digest", entry(sha256="/etc/passwd")),
    "shard-name-upper-case": ("bad-digest", entry(sha256="AB" * 32)),
    "shard-of-10-gb": ("file-too-large", entry(bytes=10_000_000_000)),
    "shard-of-10-billion-records": ("out-of-range", entry(records=10_000_000_000)),
    "shard-of-negative-size": ("out-of-range", entry(bytes=-1)),
    "shard-twice": ("duplicate-entry", twice),
    "shard-missing": ("missing-file", lambda: {"manifest.json": store(GOOD)["manifest.json"]}),
    "keys-without-embedder-named": ("bad-field", said(keys=[{"sha256": sha(b""), "bytes": 1, "texts": 1}])),
    "meta-of-numbers": ("bad-field", said(meta={"a": {"page": 1}})),
    "removed-not-ascending": (
        "not-ascending",
        said(removed=[["b", "0" * 64], ["a", "0" * 64]], features={"optional": [], "required": ["removed"]}),
    ),
    "removed-not-named": ("feature-not-named", said(removed=[["a", "0" * 64]])),
    "removed-named-in-vain": ("feature-not-named", features(required=["removed"])),
    "removed-without-digest": (
        "bad-field",
        said(removed=[["a"]], features={"optional": [], "required": ["removed"]}),
    ),
}
