"""Stores that every reader must refuse for what a documents table or a record is, by name: (code, files)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
from vectors.building import REPORT, Files, canonical, document, frame, record, shard, store

Case = tuple[str, Callable[[], Files]]
DATA = b"\xff\x00 no text"
TEXT = b"It is a truth universally acknowledged."
DIGEST = hashlib.sha256(DATA).hexdigest()


def table(content: bytes, **changes: Any) -> Callable[[], Files]:
    """A store whose documents table is a frame of `content`."""
    return packed(frame(content, **changes))


def packed(data: bytes) -> Callable[[], Files]:
    return lambda: store(
        shard(
            [document("a", DATA)],
            [record(0, 0, DATA)],
            tensors=lambda made: made | {"documents": ("U8", [len(data)], data)},
        )
    )


def line(**changes: Any) -> bytes:
    return canonical({k: v for k, v in (document("a", DATA) | changes).items() if v is not None}) + b"\n"


def name(text: str) -> Case:
    return "bad-name", table(line(name=text))


def one(of: int, data: bytes = TEXT, owner: dict[str, Any] | None = None, **changes: Any) -> Callable[[], Files]:
    """A store of one record."""
    made = document("a", data, **(owner or {}))
    return lambda: store(shard([made], [record(0, of, data) | changes]), required=["context"] if of == 2 else [])


def raw(**changes: Any) -> Callable[[], Files]:
    return one(0, DATA, **changes)


def corrected(data: bytes, **changes: Any) -> Case:
    return "bad-corrections", one(1, corrections=data, **changes)


def report(code: str, **changes: Any) -> Case:
    value = {k: v for k, v in (REPORT | changes).items() if v != "absent"}
    return code, one(2, payload=frame(canonical(value)))


def column(which: str, dtype: str, value: Any) -> Callable[[], Files]:
    """A value of a record that no digest speaks of."""
    data = np.array([value], dtype).tobytes()
    return lambda: store(
        shard([document("a", DATA)], [record(0, 0, DATA)], tensors=lambda t: t | {which: (*t[which][:2], data)})
    )


def unnamed() -> Files:
    return store(shard([document("a", TEXT)], [record(0, 2, TEXT)]))


STORES: dict[str, Case] = {
    "table-no-frame": ("damaged-frame", packed(b"no frame at all")),
    "table-cut": ("damaged-frame", packed(frame(line())[:-6])),
    "table-flipped": ("damaged-frame", packed(frame(line())[:-9] + b"\0" + frame(line())[-8:])),
    "table-of-10-gb": ("frame-too-large", table(line(), declared=10_000_000_000)),
    "table-a-bomb": ("frame-too-large", table(b"", declared=20 << 20, more=160)),
    "table-a-bomb-that-lies": ("damaged-frame", table(line(), declared=len(line()), more=160)),
    "table-a-bomb-of-nothing": ("damaged-frame", table(b"", declared=0, more=160)),
    "table-of-undeclared-size": ("undeclared-size", table(line(), declared=None)),
    "table-without-checksum": ("no-checksum", table(line(), checksum=False)),
    "table-with-more": ("trailing-bytes", packed(frame(line()) + b"more")),
    "table-without-last-newline": ("cut-off", table(line()[:-1])),
    "table-of-line-ends": ("not-json", table(b"\n" * 9)),
    "line-not-canonical": ("not-canonical", table(line().replace(b":", b": ", 1))),
    "line-key-twice": ("duplicate-key", table(b'{"bytes":1,' + line()[1:])),
    "line-without-digest": ("bad-field", table(line(sha256=None))),
    "line-bytes-a-text": ("bad-field", table(line(bytes="12"))),
    "line-too-long": ("out-of-range", table(line()[:-2] + b',"zz":"', more=1, tail=b'"}\n')),
    "line-of-negative-bytes": ("out-of-range", table(line(bytes=-1))),
    "line-of-2-to-63-bytes": ("out-of-range", table(line(bytes=1 << 63))),
    "line-digest-upper-case": ("bad-digest", table(line(sha256=DIGEST.upper()))),
    "name-of-nothing": name(""),
    "name-absolute": name("/etc/passwd"),
    "name-leads-out": name("../../etc/passwd"),
    "name-dot": name("a/./b"),
    "name-ends-with-slash": name("a/"),
    "name-backslash": name("..\\up"),
    "name-drive": name("C:/x"),
    "name-nul": name("a\0b"),
    "name-part-too-long": name("ü" * 128),
    "name-too-long": name("a/" * 2048 + "a"),
    "name-surrogate": ("surrogate", table(line().replace(b'"name":"a"', b'"name":"\\udcff"'))),
    "too-few-documents": ("wrong-count", table(b"")),
    "too-many-documents": ("wrong-count", table(line() + line(name="b"))),
    "document-not-listed": ("bad-document", column("document", "<u4", 1)),
    "context-not-named": ("feature-not-named", unnamed),
    "kind-unknown": ("unknown-kind", raw(kind=3)),
    "kind-of-tomorrow": ("unknown-kind", raw(kind=4)),
    "reason-unknown": ("unknown-reason", raw(reason=5)),
    "past-the-document": ("past-document", one(0, DATA, {"bytes": 5})),
    "from-2-to-64": ("past-document", raw(start=(1 << 64) - 1)),
    "too-many-tokens": ("out-of-range", one(1, tokens=65_537)),
    "exact-without-vectors": ("mixed-parts", one(1, vectors=0)),
    "exact-without-tokens": ("mixed-parts", one(1, tokens=0)),
    "exact-with-a-payload": ("mixed-parts", one(1, payload=frame(TEXT))),
    "exact-with-a-reason": ("mixed-parts", one(1, reason=4)),
    "raw-without-a-reason": ("mixed-parts", raw(reason=0)),
    "raw-without-a-payload": ("mixed-parts", raw(payload=b"")),
    "raw-with-vectors": ("mixed-parts", raw(vectors=1)),
    "context-with-corrections": ("mixed-parts", one(2, corrections=b"\0\0")),
    "context-without-report": ("mixed-parts", one(2, payload=b"")),
    "record-digest": ("digest-mismatch", one(1, digest=bytes(32))),
    "record-of-another-value": ("digest-mismatch", column("token_steps", "<u8", 901)),
    "corrections-cut": corrected(b"\0"),
    "corrections-needless-byte": corrected(b"\0\x80\0"),
    "corrections-of-6-bytes": corrected(b"\0\xff\xff\xff\xff\xff\x01"),
    "corrections-past-the-tokens": corrected(b"\x63\0"),
    "corrections-outside-the-vocabulary": corrected(b"\0\xac\x02"),
    "corrections-too-many": corrected(b"\0\0" * 6, tokens=1),
    "report-no-frame": ("damaged-frame", one(2, payload=b"no frame")),
    "report-not-canonical": ("not-canonical", one(2, payload=frame(canonical(REPORT) + b"\n"))),
    "report-a-list": ("bad-field", one(2, payload=frame(b"[]"))),
    "report-too-large": (
        "frame-too-large",
        one(2, payload=frame(canonical(REPORT)[:-1] + b',"zz":"', more=1, tail=b'"}')),
    ),
    "report-without-gain": report("bad-field", gain="absent"),
    "report-gain-an-integer": report("bad-field", gain=1),
    "report-held-out-negative": report("out-of-range", held_out=-1),
    "report-nan": ("not-finite", one(2, payload=frame(canonical(REPORT).replace(b"0.625", b"NaN")))),
    "raw-of-10-gb": ("frame-too-large", raw(payload=frame(DATA, declared=10_000_000_000))),
    "raw-flipped": ("damaged-frame", raw(payload=frame(DATA)[:-1] + b"\0")),
    "raw-other-bytes": ("wrong-text", raw(payload=frame(bytes(len(DATA))))),
    "raw-other-length": ("wrong-text", raw(owner={"bytes": 5}, length=5)),
    "raw-other-document": ("wrong-text", raw(owner={"sha256": "0" * 64})),
}
