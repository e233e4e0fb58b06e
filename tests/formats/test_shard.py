"""Shards and manifests: what is written is what is read, and no changed byte passes."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError

from memvec.errors import FormatTooNewError
from memvec.formats import canonical, manifest, shard
from memvec.formats.manifest import Manifest, ShardEntry
from memvec.records import raw_bytes, raw_records
from memvec.types import Document, Fingerprint, FitReport, Kind, RawReason, Record

WIDTH, VOCABULARY = 6, 500
FINGERPRINT = Fingerprint("w", "e", {"hidden_size": WIDTH, "eps": 1e-5}, "v", "p", WIDTH, "somewhere")


def exact(document: Document, start: int, length: int, vectors: Any, pairs: list[tuple[int, int]]) -> Record:
    report = FitReport(7, 700, 40.0, 0.5, len(pairs), 0, 0.25, 1.5)
    digest = hashlib.sha256(b"%d" % start).digest()
    return Record(document, Kind.EXACT, start, length, 64, vectors, tuple(pairs), b"", digest, RawReason.NONE, report)


names = st.text("abcäß字 .-_", min_size=1, max_size=12).filter(lambda s: s not in (".", ".."))


@st.composite
def records(draw: st.DrawFn) -> list[Record]:
    """Records of a few documents, exact ones with any M ≥ 1, raw ones with any bytes."""
    out: list[Record] = []
    for name in draw(st.lists(names, min_size=1, max_size=4, unique=True)):
        document = Document(name, 10_000, hashlib.sha256(name.encode()).hexdigest(), 3, 100)
        for number in range(draw(st.integers(1, 3))):
            if draw(st.booleans()):
                data = draw(st.binary(max_size=50))
                out += raw_records(document, number * 100, data, 0, RawReason.NOT_TEXT, WIDTH)
                continue
            count = draw(st.integers(1, 5))
            bits = draw(st.binary(min_size=2 * count * WIDTH, max_size=2 * count * WIDTH))
            pairs = draw(st.dictionaries(st.integers(0, 63), st.integers(0, VOCABULARY - 1), max_size=4))
            vectors = np.frombuffer(bits, np.float16).reshape(count, WIDTH)  # any bits at all, NaN too
            out.append(exact(document, number * 100, 100, vectors, sorted(pairs.items())))
    return out


@given(records())
@settings(max_examples=60, deadline=None)
def test_records_come_back_as_they_were(value: list[Record]) -> None:
    read = list(shard.Shard(shard.encode(value, FINGERPRINT.id, WIDTH, VOCABULARY)))
    assert len(read) == len(value)
    for was, now in zip(value, read, strict=True):
        assert now.vectors.tobytes() == was.vectors.tobytes()
        for field in (
            "document",
            "kind",
            "start",
            "length",
            "tokens",
            "corrections",
            "payload",
            "text_sha256",
            "reason",
        ):
            assert getattr(now, field) == getattr(was, field)
        assert now.report == was.report
        if now.kind == Kind.RAW:
            assert len(raw_bytes(now)) == now.length


@given(records(), st.data())
@settings(max_examples=100, deadline=None)
def test_no_changed_byte_of_the_data_passes(value: list[Record], data: st.DataObject) -> None:
    good = shard.encode(value, FINGERPRINT.id, WIDTH, VOCABULARY)
    at = data.draw(st.integers(0, len(good) - 1))
    bad = bytearray(good)
    bad[at] ^= data.draw(st.integers(1, 255))
    try:
        read = list(shard.Shard(bytes(bad)))
    except (ValueError, SafetensorError, OverflowError):
        return
    # Only the header may change without notice here, and then not what it means; the file's own digest covers it.
    assert [r.vectors.tobytes() for r in read] == [r.vectors.tobytes() for r in value]
    assert at < 8 + int.from_bytes(good[:8], "little")


def test_the_same_records_make_the_same_bytes() -> None:
    document = Document("d", 200, "0" * 64, 3, 100)
    value = [exact(document, 0, 100, np.ones((2, WIDTH), np.float16), [(1, 2)])]
    first, second = (shard.encode(value, "f", WIDTH, VOCABULARY) for _ in range(2))
    assert first == second
    assert first.count(b"__metadata__") == 1


@pytest.mark.parametrize(
    "name", ["", "/etc/passwd", "../up", "a/../b", "a//b", ".", "a/", "nul\0", "back\\slash", "C:/x", "x" * 5000]
)
def test_names_that_could_leave_the_folder_are_refused(name: str) -> None:
    table = shard.encode_documents([Document(name, 1, "0" * 64, 1, 1)])
    with pytest.raises(ValueError, match="name"):
        shard.decode_documents(table)


ENTRY = ShardEntry("ab" * 32, 10, 2, 1)
STATE = Manifest(FINGERPRINT, VOCABULARY, generation=3, shards=(ENTRY,), tool="test")


def test_manifest_round_trip() -> None:
    assert manifest.decode(manifest.encode(STATE)) == STATE


def test_no_changed_byte_of_a_manifest_passes() -> None:
    good = manifest.encode(STATE)
    for at in range(len(good)):
        for flip in (1, 0x20, 0x80):
            bad = bytearray(good)
            bad[at] ^= flip
            with pytest.raises(ValueError, match=r".+"):  # never FormatTooNewError: damage is damage
                manifest.decode(bytes(bad))
    for cut in (good[:-1], good[: len(good) // 2], b"", good + b"\n"):
        with pytest.raises(ValueError, match=r".+"):
            manifest.decode(cut)


def sealed(**changes: Any) -> bytes:
    body = canonical.loads(manifest.encode(STATE)[:-1])["manifest"] | changes
    digest = hashlib.sha256(canonical.dumps(body)).hexdigest()
    return canonical.dumps({"manifest": body, "sha256": digest}) + b"\n"


def test_a_newer_store_says_what_it_needs() -> None:
    assert manifest.decode(sealed(version=[1, 7])) == STATE
    with pytest.raises(FormatTooNewError, match=r"format 2\.0"):
        manifest.decode(sealed(version=[2, 0]))
    with pytest.raises(FormatTooNewError, match="kv"):
        manifest.decode(sealed(features={"optional": [], "required": ["kv"]}))
    assert manifest.decode(sealed(features={"optional": ["kv"], "required": []})) == STATE


@pytest.mark.parametrize(
    "changes",
    [{"format": "zip"}, {"shards": [{"sha256": "../x"}]}, {"fingerprint": {}}, {"shards": 3}, {"features": None}],
)
def test_an_intact_manifest_that_makes_no_sense_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r".+"):
        manifest.decode(sealed(**changes))
