"""Stores that every reader must refuse for what a shard or its header is, by name: (code, files)."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
from vectors.building import FINGERPRINT, Files, Part, canonical, document, frame, keys, record, sha, shard, store

Case = tuple[str, Callable[[], Files]]
DATA = b"\xff\x00"
DOCUMENT = document("a", DATA)
GOOD = shard([DOCUMENT], [record(0, 0, DATA)])
NAME = f"shards/{sha(GOOD.data)}.safetensors"


def shards(**changes: Any) -> Callable[[], Files]:
    return lambda: store(shard([DOCUMENT], [record(0, 0, DATA)], **changes))


def file(change: Callable[[bytes], bytes]) -> Callable[[], Files]:
    """Bytes of the file changed, its digest right."""
    return shards(file=change)


def found(data: Callable[[bytes], bytes]) -> Callable[[], Files]:
    """Bytes of the file changed after the manifest was written."""
    return lambda: store(GOOD) | {NAME: data(GOOD.data)}


def header(old: str, new: str) -> Callable[[], Files]:
    """A header that reads otherwise."""

    def change(entries: dict[str, Any]) -> bytes:
        text = json.dumps(entries, separators=(",", ":"))
        assert old in text, old
        return text.replace(old, new, 1).encode("utf-8", "surrogateescape")

    return shards(header=change)


def entry(name: str, change: Callable[[dict[str, Any]], Any]) -> Callable[[], Files]:
    return shards(header=lambda entries: entries | {name: change(entries[name])})


def moved(name: str, begin: int, end: int) -> Callable[[], Files]:
    """A tensor whose bytes lie elsewhere by as many bytes."""
    offsets = "data_offsets"
    return entry(name, lambda e: e | {offsets: [e[offsets][0] + begin, e[offsets][1] + end]})


def metadata(**changes: Any) -> Callable[[], Files]:
    return shards(metadata=lambda said: {k: v for k, v in (said | changes).items() if v is not None})


def tensor(name: str, dtype: str, shape: list[int], data: bytes) -> Callable[[], Files]:
    return shards(tensors=lambda made: made | {name: (dtype, shape, data)})


def counts(**changes: int) -> Callable[[], Files]:
    return lambda: store(Part(GOOD.data, GOOD.entry | changes))


def spread(entries: dict[str, Any]) -> dict[str, Any]:
    """Every tensor 8 bytes further on."""
    return {
        name: e if name == "__metadata__" else e | {"data_offsets": [at + 8 for at in e["data_offsets"]]}
        for name, e in entries.items()
    }


def two(*offsets: int) -> bytes:
    return np.array(offsets, "<u8").tobytes()


def keyed(change: Callable[[dict[str, Any]], Any] = lambda t: t, said: Any = lambda m: m) -> Callable[[], Files]:
    """A store with vectors as keys, their tensors or metadata changed."""
    made = {"text_sha256": ("U8", [1, 32], bytes(32)), "values": ("F16", [1, 4], np.ones(4, "<f2").tobytes())}
    return lambda: store(GOOD, found=[keys(change(made), 1, 4, said)])


def words(terms: list[int], offsets: list[int]) -> Callable[[], Files]:
    made = {
        "text_sha256": ("U8", [2, 32], bytes(64)),
        "terms": ("U32", [len(terms)], np.array(terms, "<u4").tobytes()),
        "counts": ("U16", [len(terms)], bytes(2 * len(terms))),
        "offsets": ("U64", [3], np.array(offsets, "<u8").tobytes()),
    }
    return lambda: store(GOOD, found=[keys(made, 2, 0)])


ORIGIN = FINGERPRINT | {"probe": "1" * 8}
TENSOR = '"kind":{"dtype":"U8","shape":[1],'
STORES: dict[str, Case] = {
    "file-is-a-folder": (
        "not-a-file",
        lambda: {"manifest.json": store(GOOD)["manifest.json"], f"{NAME}/file": b"x"},
    ),
    "file-cut": ("size-mismatch", found(lambda data: data[:-1])),
    "file-longer": ("size-mismatch", found(lambda data: data + b"\0")),
    "file-flipped": ("digest-mismatch", found(lambda data: data[:-1] + bytes([data[-1] ^ 1]))),
    "file-of-7-bytes": ("cut-off", file(lambda data: data[:7])),
    "file-without-its-end": ("cut-off", file(lambda data: data[:-5])),
    "file-with-more": ("trailing-bytes", file(lambda data: data + b"more")),
    "header-of-10-gb": ("header-too-long", file(lambda data: struct.pack("<Q", 10_000_000_000) + data[8:])),
    "header-of-2-to-64": ("header-too-long", file(lambda data: b"\xff" * 8 + data[8:])),
    "header-past-the-end": ("cut-off", file(lambda data: struct.pack("<Q", 900_000) + data[8:])),
    "header-no-json": ("not-json", header('"shape"', "shape")),
    "header-not-utf8": ("not-utf8", header("payload", "payloa\udcff")),
    "header-nan": ("not-finite", header('"shape":[1]', '"shape":[NaN]')),
    "header-tensor-twice": ("duplicate-key", header(TENSOR, f'{TENSOR}"data_offsets":[0,0]}},{TENSOR}')),
    "header-metadata-twice": ("duplicate-key", header('{"memvec":', '{"memvec":"","memvec":')),
    "header-deep": ("nested-too-deeply", header('"shape":[1]', f'"shape":{"[" * 40}{"]" * 40}')),
    "header-surrogate": ("surrogate", header('"kind"', '"\\ud800"')),
    "header-two-metadata-keys": ("bad-metadata", header('{"memvec":', '{"more":"","memvec":')),
    "header-without-metadata": ("bad-metadata", header("__metadata__", "__metadatum__")),
    "metadata-not-canonical": ("not-canonical", shards(metadata=lambda said: canonical(said) + b" ")),
    "metadata-a-list": ("bad-field", shards(metadata=lambda said: b"[]")),
    "metadata-other-format": ("wrong-format", metadata(format="memvec-keys")),
    "metadata-version-2": ("unsupported-version", metadata(version=[2, 0])),
    "metadata-without-version": ("bad-field", metadata(version=None)),
    "metadata-count-a-text": ("bad-field", metadata(records="1")),
    "metadata-10-billion-records": ("out-of-range", metadata(records=10_000_000_000)),
    "metadata-generation-a-text": ("bad-field", metadata(generation="1")),
    "metadata-origin-a-text": ("bad-field", metadata(origin="somewhere")),
    "metadata-origin-half": ("bad-field", metadata(origin={"weights": "a"})),
    "metadata-origin-of-another": ("origin-mismatch", metadata(origin=ORIGIN)),
    "other-fingerprint": ("manifest-mismatch", metadata(fingerprint="0" * 16)),
    "other-width": (
        "manifest-mismatch",
        shards(metadata=lambda s: s | {"width": 5}, tensors=lambda t: t | {"vectors": ("F16", [0, 5], b"")}),
    ),
    "other-vocabulary": ("manifest-mismatch", metadata(vocabulary=301)),
    "other-number-of-records": ("manifest-mismatch", counts(records=2)),
    "tensor-missing": ("missing-tensor", shards(tensors=lambda t: {k: v for k, v in t.items() if k != "seconds"})),
    "tensor-of-other-dtype": ("wrong-dtype", tensor("start", "I64", [1], bytes(8))),
    "tensor-of-other-shape": ("wrong-shape", tensor("tokens", "U32", [2], bytes(8))),
    "tensor-of-vectors-flat": ("wrong-shape", tensor("vectors", "F16", [8], bytes(16))),
    "tensor-with-another-key": ("bad-tensor", entry("kind", lambda e: e | {"more": 1})),
    "tensor-of-fewer-bytes": ("bad-tensor", entry("start", lambda e: e | {"shape": [2]})),
    "tensor-of-2-to-120-bytes": ("bad-tensor", entry("start", lambda e: e | {"shape": [1 << 60, 1 << 60]})),
    "tensor-of-shape-minus-1": ("bad-tensor", entry("start", lambda e: e | {"shape": [-1, -1]})),
    "tensor-from-minus-8": ("bad-tensor", entry("start", lambda e: e | {"data_offsets": [-8, 0]})),
    "tensor-ends-before-it-begins": ("bad-tensor", entry("start", lambda e: e | {"data_offsets": [16, 8]})),
    "tensors-overlap": ("overlapping-tensors", moved("start", -1, 0)),
    "tensors-apart": ("gap-between-tensors", moved("start", 1, 0)),
    "tensors-after-a-gap": ("gap-between-tensors", shards(header=spread, file=lambda data: data + bytes(8))),
    "tensor-at-10-gb": ("gap-between-tensors", moved("text_sha256", 10_000_000_000, 10_000_000_000)),
    "tensor-of-10-gb": ("cut-off", moved("text_sha256", 0, 10_000_000_000)),
    "offsets-do-not-begin-at-0": ("bad-offsets", tensor("payload_offsets", "U64", [2], two(1, len(frame(DATA))))),
    "offsets-fall": ("bad-offsets", tensor("vectors_offsets", "U64", [2], two(2, 0))),
    "offsets-of-10-gb": ("bad-offsets", tensor("payload_offsets", "U64", [2], two(0, 10_000_000_000))),
    "keys-missing": (
        "missing-file",
        lambda: {name: data for name, data in keyed()().items() if not name.startswith("keys/")},
    ),
    "keys-flipped": (
        "digest-mismatch",
        lambda: {n: d[:-1] + b"\7" if n.startswith("keys/") else d for n, d in keyed()().items()},
    ),
    "keys-of-other-format": ("wrong-format", keyed(said=lambda m: m | {"format": "memvec-shard"})),
    "keys-without-embedder": ("bad-field", keyed(said=lambda m: {k: v for k, v in m.items() if k != "embedder"})),
    "keys-of-negative-width": ("out-of-range", keyed(said=lambda m: m | {"width": -1})),
    "keys-of-another-embedder": ("manifest-mismatch", keyed(said=lambda m: m | {"embedder_id": "0" * 16})),
    "keys-not-finite": (
        "not-finite",
        keyed(lambda t: t | {"values": ("F16", [1, 4], np.array([1, 1, np.inf, 1], "<f2").tobytes())}),
    ),
    "keys-without-texts": ("missing-tensor", keyed(lambda t: {"values": t["values"]})),
    "terms-fall": ("not-ascending", words([5, 3], [0, 2, 2])),
    "terms-past-the-end": ("bad-offsets", words([5, 3], [0, 1, 3])),
}
