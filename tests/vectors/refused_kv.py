"""Stores that every reader must refuse for what their kv records are, by name: (code, files)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from vectors.building import Files, document, frame, record, same, shard, store
from vectors.building_kv import keys_values

Case = tuple[str, Callable[[], Files]]
TEXT = b"It is a truth universally acknowledged."
DOCUMENTS = [document("a", TEXT)]


def one(metadata: Any = same, tensors: Any = same, **changes: Any) -> Callable[[], Files]:
    """A store of one kv record."""
    return lambda: store(
        shard(DOCUMENTS, [record(0, 3, TEXT) | changes], metadata=metadata, tensors=tensors), required=["kv"]
    )


def kv(*arguments: Any, **changes: Any) -> Callable[[], Files]:
    """A store of one kv record whose digest is right and whose arrays are given."""
    return one(kv=keys_values(*arguments, **changes))


def numbers(dtype: str, *values: float) -> bytes:
    return np.array(values, dtype).tobytes()


def longer(name: str, more: int) -> Callable[[], Files]:
    """An array that is longer, or shorter, by some bytes."""
    good = keys_values()[name]
    return kv(**{name: good + bytes(more) if more > 0 else good[:more]})


def said(**changes: Any) -> Callable[[], Files]:
    """Metadata that say otherwise of layers, heads or width."""
    return one(metadata=lambda value: value | {"kv": value["kv"] | changes})


def tensor(name: str, change: Callable[[Any], Any]) -> Callable[[], Files]:
    return one(tensors=lambda made: made | {name: change(made[name])})


def beside(kind: int, **changes: Any) -> Callable[[], Files]:
    """A record of another kind beside a kv record. It holds a part of one."""
    mixed = [record(0, 3, TEXT), record(0, kind, TEXT)]

    def changed(made: Any) -> Any:
        for name, value in changes.items():
            dtype, shape, data = made[name]
            made |= {name: (dtype, shape, data[: len(data) // 2] + value)}
        return made

    return lambda: store(shard(DOCUMENTS, mixed, tensors=changed), required=["context", "kv"])


def flipped(name: str) -> Callable[[], Files]:
    """A byte of an array that no digest of the header speaks of."""
    return tensor(name, lambda t: (*t[:2], bytes([t[2][0] ^ 1]) + t[2][1:]))


NAN, INFINITE = float("nan"), float("inf")
STORES: dict[str, Case] = {
    "kv-not-named": ("feature-not-named", lambda: store(shard(DOCUMENTS, [record(0, 3, TEXT)]), required=["context"])),
    "kv-not-declared": ("unknown-kind", one(metadata=lambda m: {k: v for k, v in m.items() if k != "kv"})),
    "kv-metadata-a-list": ("bad-field", one(metadata=lambda m: m | {"kv": [2, 2, 6]})),
    "kv-layers-a-text": ("bad-field", said(layers="2")),
    "kv-of-no-layers": ("out-of-range", said(layers=0)),
    "kv-of-1025-layers": ("out-of-range", said(layers=1025)),
    "kv-of-1025-heads": ("out-of-range", said(heads=1025)),
    "kv-of-width-0": ("out-of-range", said(width=0)),
    "kv-of-width-4097": ("out-of-range", said(width=4097)),
    "kv-tensor-missing": (
        "missing-tensor",
        one(tensors=lambda made: {k: v for k, v in made.items() if k != "kv_distances"}),
    ),
    "kv-tensor-of-other-dtype": ("wrong-dtype", tensor("kv_counts", lambda t: ("I32", *t[1:]))),
    "kv-tensor-of-other-shape": ("wrong-shape", tensor("kv_counts", lambda t: (t[0], [t[1][0] * 2], t[2]))),
    "kv-of-another-width": ("wrong-shape", said(width=7)),
    "kv-of-other-heads": ("wrong-shape", said(heads=4)),
    "kv-positions-too-few": ("wrong-shape", tensor("kv_positions", lambda t: (t[0], [0], b""))),
    "kv-offsets-fall": ("bad-offsets", tensor("kv_keys_offsets", lambda t: (*t[:2], numbers("<u8", 24, 0)))),
    "kv-offsets-of-10-gb": (
        "bad-offsets",
        tensor("kv_values_offsets", lambda t: (*t[:2], numbers("<u8", 0, 10_000_000_000))),
    ),
    "kv-without-tokens": ("mixed-parts", one(tokens=0)),
    "kv-with-vectors": ("mixed-parts", one(vectors=1)),
    "kv-with-corrections": ("mixed-parts", one(corrections=b"\0\0")),
    "kv-with-a-reason": ("mixed-parts", one(reason=4)),
    "kv-without-report": ("mixed-parts", one(payload=b"")),
    "kv-without-counts": ("mixed-parts", kv(counts=b"")),
    "kv-without-rows": ("mixed-parts", kv(8, [[0, 0], [0, 0]])),
    "kv-without-keys": ("mixed-parts", kv(keys=b"")),
    "kv-without-values": ("mixed-parts", kv(values=b"")),
    "raw-with-kv-bits": ("mixed-parts", beside(0, kv_bits=b"\x08")),
    "exact-with-kv-positions": ("mixed-parts", beside(1, kv_positions=b"\1\0\0\0")),
    "context-with-distances": (
        "mixed-parts",
        lambda: store(
            shard(
                DOCUMENTS,
                [record(0, 3, TEXT), record(0, 2, TEXT)],
                tensors=lambda t: (
                    t
                    | {
                        "kv_distances": ("U32", [5], t["kv_distances"][2] + numbers("<u4", 1)),
                        "kv_distances_offsets": ("U64", [3], numbers("<u8", 0, 4, 5)),
                    }
                ),
            ),
            required=["context", "kv"],
        ),
    ),
    "kv-of-too-many-tokens": ("out-of-range", one(tokens=16_777_217)),
    "kv-report-no-frame": ("damaged-frame", one(payload=b"no frame")),
    "kv-report-half": ("bad-field", one(payload=frame(b"{}"))),
    "kv-digest": ("digest-mismatch", one(digest=bytes(32))),
    **{
        f"kv-flipped-{name}": ("digest-mismatch", flipped(f"kv_{name.replace('-', '_')}"))
        for name in ("positions", "bits", "counts", "distances", "keys", "key-scales", "values", "value-scales")
    },
    "kv-of-no-positions": ("out-of-range", kv(positions=0)),
    "kv-of-too-many-positions": ("out-of-range", kv(positions=16_777_217)),
    "kv-of-no-bits": ("bad-kv", one(kv=keys_values() | {"bits": 0})),
    "kv-of-5-bits": ("bad-kv", one(kv=keys_values() | {"bits": 5})),
    "kv-of-4-bits-said-8": ("bad-kv", one(kv=keys_values(4) | {"bits": 8})),
    "kv-of-8-bits-said-16": ("bad-kv", one(kv=keys_values(8) | {"bits": 16})),
    "kv-of-4-bits-and-odd-width": ("bad-kv", kv(4, [[2]], 7)),
    "kv-counts-too-few": ("bad-kv", kv(counts=numbers("<u4", 2, 2))),
    "kv-counts-too-many": ("bad-kv", kv(counts=numbers("<u4", 2, 0, 1, 1, 0, 0))),
    "kv-counts-more-than-rows": ("bad-kv", kv(counts=numbers("<u4", 2, 1, 1, 1))),
    "kv-counts-less-than-rows": ("bad-kv", kv(counts=numbers("<u4", 2, 0, 1, 0))),
    "kv-counts-of-16-billion": ("bad-kv", kv(counts=numbers("<u4", *[(1 << 32) - 1] * 4))),
    "kv-counts-that-wrap": ("bad-kv", kv(counts=numbers("<u4", 1 << 31, 1 << 31, 2, 2))),
    "kv-distances-too-few": ("bad-kv", longer("distances", -4)),
    "kv-keys-too-short": ("bad-kv", longer("keys", -1)),
    "kv-keys-too-long": ("bad-kv", longer("keys", 6)),
    "kv-values-too-short": ("bad-kv", longer("values", -6)),
    "kv-key-scales-of-a-run-less": ("bad-kv", longer("key_scales", -24)),
    "kv-key-scales-of-a-run-more": ("bad-kv", longer("key_scales", 24)),
    "kv-key-scales-of-runs-across-heads": ("bad-kv", kv(8, [[40, 40], [1, 1]], key_scales=bytes(24 * 3))),
    "kv-value-scales-too-short": ("bad-kv", longer("value_scales", -4)),
    "kv-scales-with-16-bits": ("bad-kv", kv(16, key_scales=bytes(24 * 3))),
    "kv-scales-of-values-with-16-bits": ("bad-kv", kv(16, value_scales=bytes(16))),
    "kv-distance-0": ("out-of-range", kv(distances=numbers("<u4", 4, 1, 1, 0))),
    "kv-distance-too-great": ("out-of-range", kv(distances=numbers("<u4", 16_777_217, 1, 1, 1))),
    "kv-distances-equal": ("bad-kv", kv(distances=numbers("<u4", 4, 4, 1, 1))),
    "kv-distances-rise": ("bad-kv", kv(8, [[1, 0], [0, 3]], distances=numbers("<u4", 9, 7, 3, 4))),
    "kv-key-scale-nan": ("not-finite", kv(key_scales=keys_values()["key_scales"][:-2] + numbers("<f2", NAN))),
    "kv-key-step-infinite": (
        "not-finite",
        kv(4, key_scales=keys_values()["key_scales"][:-2] + numbers("<f2", INFINITE)),
    ),
    "kv-value-scale-infinite": (
        "not-finite",
        kv(value_scales=numbers("<f2", -INFINITE) + keys_values()["value_scales"][2:]),
    ),
    "kv-key-of-16-bits-nan": ("not-finite", kv(16, keys=keys_values(16)["keys"][:-2] + numbers("<f2", NAN))),
    "kv-value-of-16-bits-infinite": (
        "not-finite",
        kv(16, values=numbers("<f2", INFINITE) + keys_values(16)["values"][2:]),
    ),
}
