"""Stores that every reader must accept, by name."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from vectors.building import (
    REPORT,
    WIDTH,
    Files,
    Part,
    canonical,
    document,
    frame,
    keys,
    record,
    sha,
    shard,
    store,
)
from vectors.building_kv import keys_values

TEXT = b"It is a truth universally acknowledged."
BYTES = b"\xff\x00\xfe no text"


def raw(name: str, data: bytes, **changes: Any) -> Part:
    """A shard of one raw document."""
    return shard([document(name, data)], [record(0, 0, data, **changes)], whole=name == "a" and data == b"x")


def reasons() -> Files:
    data = [BYTES, b"x", b"\xef\xbb\xbftext", TEXT, b"", b"line\r\nline\r\n"]
    documents = [document(f"{i}.txt", d) for i, d in enumerate(data)]
    records = [record(i, 0, d, reason=(1, 2, 3, 4, 2, 4)[i], tokens=i) for i, d in enumerate(data)]
    return store(shard(documents, records))


def one_vector() -> Files:
    return store(shard([document("a.txt", TEXT)], [record(0, 1, TEXT, vectors=1)]))


def many_vectors() -> Files:
    """M from 1 to 40; corrections from none to varints of several bytes; a raw record between exact ones."""
    pieces = [TEXT * 8, BYTES, TEXT, TEXT * 2]
    corrections = [b"", b"", b"\x00\x05", b"\x00\xab\x02\x01\x07\x00\x00"]
    records, start = [], 0
    for i, data in enumerate(pieces):
        more: dict[str, Any] = {} if i == 1 else {"vectors": (40, 0, 1, 7)[i], "corrections": corrections[i]}
        records.append(record(0, int(i != 1), data, start, **more))
        start += len(data)
    return store(shard([document("a.txt", b"".join(pieces))], records))


def context() -> Files:
    """A memory beside content, cut elsewhere; one of which nothing else is there; a report of what was not measured."""
    nothing = {name: None for name, value in REPORT.items() if isinstance(value, float)} | {"zz": [1]}
    documents = [document("both.txt", BYTES * 3), document("memory.txt", TEXT)]
    records = [
        record(0, 0, BYTES * 3),
        record(0, 2, BYTES),
        record(0, 2, BYTES * 2, len(BYTES), vectors=9),
        record(1, 2, TEXT, vectors=16, payload=frame(canonical(REPORT | nothing))),
    ]
    return store(shard(documents, records, whole=True), required=["context"])


def kept_keys() -> Files:
    """Three memories of 4, 8 and 16 bits beside content and a context memory; empty heads, one row, short runs."""
    size = len(TEXT)
    three = {"kept": [[130, 0, 1], [64, 65, 0]], "width": 70}
    documents = [document("all.txt", TEXT), document("kv.txt", TEXT * 3), document("half.txt", TEXT * 2)]
    nothing = {name: None for name, value in REPORT.items() if isinstance(value, float)} | {"held_out": 0}
    records = [
        record(0, 0, TEXT, reason=4),
        record(0, 3, TEXT, kv=keys_values(4, **three), payload=frame(canonical(REPORT | nothing))),
        record(0, 2, TEXT),
        record(1, 3, TEXT, 2 * size, kv=keys_values(16, [[0, 0, 0], [0, 0, 1]], 70, positions=16_777_216)),
        record(1, 3, TEXT, 0, kv=keys_values(8, positions=9, falling=16_776_800, **three)),
        record(1, 3, TEXT, size, kv=keys_values(8, [[1, 2, 3], [0, 0, 70]], 70), tokens=16_777_216),
        record(2, 3, TEXT, size, kv=keys_values(4, **three)),
    ]
    return store(shard(documents, records, whole=True), required=["context", "kv"])


def kv_beside_nothing() -> Files:
    """A width that is odd, one layer and one head; the newer version of a document has nothing but keys and values."""
    old = raw("a.txt", BYTES)
    new = shard([document("a.txt", TEXT)], [record(0, 3, TEXT, kv=keys_values(8, [[3]], 1))])
    return store(old, new, required=["kv"])


def names() -> Files:
    listed = [
        "ü/ß.txt",
        "文件/你好",
        "😀.md",
        "e\u0301",
        "\u00e9",
        "a\nb\x1b[31m\x7f\x9b",
        "..." + "x" * 252,
        "12:30",
        " ",
    ]
    listed += ["d/" * 400 + "e", "bidi\u202egpj.exe", '"quoted"']
    documents = [document(name, name.encode()) for name in listed]
    return store(shard(documents, [record(i, 0, n.encode()) for i, n in enumerate(listed)]))


def versions() -> Files:
    """Of a.txt the second version counts; of b.txt the first, since the second is not whole; c.txt came back."""
    first, second, half = b"\xff one", b"\xff two", b"\xff half, and the other half"
    old = shard([document("c.txt", first), document("c.txt", second)], [record(0, 0, first), record(1, 0, second)])
    new = shard(
        [document("a.txt", first), document("b.txt", first), document("a.txt", second), document("b.txt", half)],
        [record(0, 0, first), record(1, 0, first), record(2, 0, second), record(3, 0, half[:6])],
    )
    return store(old, new, raw("c.txt", first, reason=3))


def memory_of_a_newer_version() -> Files:
    new = shard([document("a.txt", TEXT)], [record(0, 2, TEXT)])
    return store(raw("a.txt", BYTES), new, required=["context"])


def removed() -> Files:
    gone = [["a.txt", sha(BYTES)], ["never.txt", "0" * 64]]
    return store(
        raw("a.txt", BYTES),
        raw("a.txt", b"\xff other bytes"),
        raw("b.txt", BYTES),
        body=lambda said: said | {"removed": gone},
        required=["removed"],
    )


def extensions() -> Files:
    value = {"example.org/notes": {"must_understand": False, "deep": [[[{"n": 18446744073709551615}]]]}}
    return store(raw("a", b"\xff"), body=lambda said: said | {"extensions": value})


def keyed() -> Files:
    texts = bytes.fromhex(sha(TEXT) + sha(BYTES))
    values = np.array([[0.5] * WIDTH, [0.0] * WIDTH], "<f2").tobytes()
    dense = keys({"text_sha256": ("U8", [2, 32], texts), "values": ("F16", [2, WIDTH], values)}, 2, WIDTH)
    words = {
        "text_sha256": ("U8", [2, 32], texts),
        "terms": ("U32", [3], np.array([5, 4294967295, 2], "<u4").tobytes()),
        "counts": ("U16", [3], np.array([1, 65535, 2], "<u2").tobytes()),
        "offsets": ("U64", [3], np.array([0, 2, 3], "<u8").tobytes()),
    }
    return store(raw("a", BYTES), found=[dense, keys(words, 2, 0)])


def described() -> Files:
    said = {"a": {"language": "en", "title": 'Ä "title", of a document'}, "gone": {}}
    return store(raw("a", b"\xff"), body=lambda b: optional(b, ["meta"]) | {"meta": said})


def explained() -> Files:
    more = {"probe": {"batch": 1, "top": [[1, 0.5]]}, "tensors": {"model.embed": "0" * 16}}
    return store(raw("a", b"\xff"), body=lambda said: optional(said, ["tensors", "probe"]) | more)


def several_shards() -> Files:
    """One document in two shards, the end first, and a record made again: of two with one start the later counts."""
    data = BYTES + TEXT
    end = shard([document("a", data)], [record(0, 0, TEXT, len(BYTES)), record(0, 1, BYTES)], whole=True)
    return store(end, shard([document("a", data)], [record(0, 0, BYTES)], whole=True))


def newer_minor() -> Files:
    part = shard(
        [document("a", BYTES, media="text/plain")],
        [record(0, 0, BYTES)],
        metadata=lambda said: said | {"version": [1, 3], "later": {"x": 0.5}},
        tensors=lambda made: made | {"zz_later": ("F64", [1], bytes(8)), "zz_other": ("X128", [3], bytes(5))},
    )
    return store(part, body=lambda said: said | {"version": [1, 7], "later": [None, True]})


def optional(said: dict[str, Any], listed: list[str]) -> dict[str, Any]:
    return said | {"features": said["features"] | {"optional": listed}}


def any_header() -> Files:
    """Spaces, escapes and another order in the header: it need not be canonical."""

    def loose(entries: dict[str, Any]) -> bytes:
        turned = dict(reversed(entries.items()))
        return json.dumps(turned, indent=1).replace("documents", "\\u0064ocuments", 1).encode()

    return store(shard([document("a", BYTES)], [record(0, 0, BYTES)], header=loose))


STORES = {
    "any-header": any_header,
    "context": context,
    "early": lambda: store(shard([document("a", BYTES)], [record(0, 0, BYTES)])),
    "empty": store,
    "explained": explained,
    "extensions": extensions,
    "keys": keyed,
    "kv": kept_keys,
    "kv-of-a-newer-version": kv_beside_nothing,
    "many-vectors": many_vectors,
    "memory-of-a-newer-version": memory_of_a_newer_version,
    "meta": described,
    "names": names,
    "newer-minor": newer_minor,
    "no-records": lambda: store(shard([], [], whole=True)),
    "one-raw": lambda: store(raw("a", b"x", reason=2, tokens=1)),
    "one-vector": one_vector,
    "raw-reasons": reasons,
    "removed": removed,
    "several-shards": several_shards,
    "unknown-optional-feature": lambda: store(raw("a", BYTES), body=lambda said: optional(said, ["tomorrow"])),
    "versions": versions,
}
