"""Shards and manifests: what is written is what is read, and no changed byte passes."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load, save

from memvec.errors import FormatTooNewError
from memvec.formats import canonical, container, manifest, shard
from memvec.formats.documents import decode_documents
from memvec.formats.manifest import Manifest, ShardEntry
from memvec.formats.raw import raw_bytes
from memvec.formats.refusal import Refusal
from memvec.packing.records import raw_records
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
def test_a_changed_byte_is_located(value: list[Record], data: st.DataObject) -> None:
    good = shard.encode(value, FINGERPRINT.id, WIDTH, VOCABULARY)
    entries, _ = container.read_header(good, shard.FORMAT_NAME)
    header = 8 + int.from_bytes(good[:8], "little")
    at = data.draw(st.integers(0, len(good) - 1))
    bad = bytearray(good)
    bad[at] ^= data.draw(st.integers(1, 255))
    places = [f"tensor {n!r}" for n, e in entries.items() if e["data_offsets"][0] <= at - header < e["data_offsets"][1]]
    expected = places or ["header"]
    found = container.damaged_place(bytes(bad), shard.FORMAT_NAME)
    # A changed header may also move a tensor, which is then the first to look wrong.
    assert found in expected if places else found


@given(records(), st.data())
@settings(max_examples=150, deadline=None)
def test_no_changed_record_is_read(value: list[Record], data: st.DataObject) -> None:
    """Also without the file's digest: a record whose parts were changed is refused, never a crash of another type."""
    good = shard.encode(value, FINGERPRINT.id, WIDTH, VOCABULARY)
    at = data.draw(st.integers(0, len(good) - 1))
    bad = bytearray(good)
    bad[at] ^= data.draw(st.integers(1, 255))
    try:
        read = list(shard.Shard(bytes(bad)))
    except Refusal:
        return
    for was, now in zip(value, read, strict=False):
        assert (now.vectors.tobytes(), now.corrections, now.text_sha256) == (
            was.vectors.tobytes(),
            was.corrections,
            was.text_sha256,
        )


def contradictory() -> list[tuple[str, Record]]:
    document = Document("d", 100, "0" * 64, 3, 100)
    good = exact(document, 0, 100, np.ones((2, WIDTH), np.float16), [(1, 2)])
    (bytes_,) = raw_records(document, 0, b"x" * 100, 0, RawReason.NOT_TEXT, WIDTH)
    change = dataclasses.replace
    return [
        ("no vectors", change(good, vectors=good.vectors[:0])),
        ("no tokens", change(good, tokens=0, corrections=())),
        ("endless", change(good, tokens=4_000_000_000)),
        ("payload", change(good, payload=b"x")),
        ("reason", change(good, reason=RawReason.NO_FIT)),
        ("raw vectors", change(bytes_, vectors=good.vectors)),
        ("raw no reason", change(bytes_, reason=RawReason.NONE)),
        ("past the end", change(good, start=1)),
    ]


@pytest.mark.parametrize(("name", "record"), contradictory())
def test_records_that_contradict_themselves_are_refused(name: str, record: Record) -> None:
    read = shard.Shard(shard.encode([record], FINGERPRINT.id, WIDTH, VOCABULARY))
    with pytest.raises(ValueError, match="record 0"):
        read.record(0)


def resaved(change: Any) -> bytes:
    """A shard whose tensors and metadata went through `change`."""
    document = Document("d", 100, "0" * 64, 3, 100)
    good = shard.encode(
        [exact(document, 0, 100, np.ones((2, WIDTH), np.float16), [(1, 2)])], FINGERPRINT.id, WIDTH, VOCABULARY
    )
    tensors, metadata = dict(load(good)), shard.read_metadata(good)
    before = metadata["digests"]
    change(tensors, metadata)
    if metadata.get("digests") is before:
        metadata["digests"] = {name: hashlib.sha256(tensor.tobytes()).hexdigest() for name, tensor in tensors.items()}
    return save(tensors, {container.METADATA_KEY: canonical.dumps(metadata).decode()})


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda t, m: t.pop("start"), "missing-tensor"),
        (lambda t, m: t.update(start=t["start"].astype(np.uint32)), "wrong-dtype"),
        (lambda t, m: t.update(tokens=np.zeros(5, np.uint32)), "wrong-shape"),
        (lambda t, m: t.update(payload=np.zeros((), np.uint8)), "wrong-shape"),
        (lambda t, m: t.update(vectors=np.zeros(12, np.float16)), "wrong-shape"),
        (lambda t, m: t.update(vectors_offsets=np.array([0, 9], np.uint64)), "bad-offsets"),
        (lambda t, m: t.update(vectors_offsets=np.array([2, 0], np.uint64)), "bad-offsets"),
        (lambda t, m: t.update(document=np.array([7], np.uint32)), "bad-document"),
        (lambda t, m: t.update(documents=np.zeros(9, np.uint8)), "damaged-frame"),
        (lambda t, m: m.pop("fingerprint"), "bad-field"),
        (lambda t, m: m.update(records="many"), "bad-field"),
        (lambda t, m: m.update(records=-1), "out-of-range"),
        (lambda t, m: m.update(records=True), "bad-field"),
        (lambda t, m: m.update(documents=2), "wrong-count"),
        (lambda t, m: m.update(digests=[]), "bad-field"),
        (lambda t, m: m.update(version=[2, 0]), "unsupported-version"),
        (lambda t, m: m.update(version=None), "bad-field"),
        (lambda t, m: m.update(format="zip"), "wrong-format"),
        (lambda t, m: m.update(generation=-1), "out-of-range"),
        (lambda t, m: m.update(generation="3"), "bad-field"),
        (lambda t, m: m.update(origin={}), "bad-field"),
        (lambda t, m: m.update(origin=dataclasses.asdict(FINGERPRINT) | {"probe": 3}), "bad-field"),
        (lambda t, m: m.update(origin=dataclasses.asdict(FINGERPRINT) | {"probe": "q"}), "origin-mismatch"),
    ],
)
def test_shards_that_make_no_sense_are_refused(change: Any, code: str) -> None:
    shard.Shard(resaved(lambda t, m: None))
    with pytest.raises(Refusal) as caught:
        shard.Shard(resaved(change))
    assert caught.value.code == code


def test_unknown_tensors_are_passed_over() -> None:
    data = resaved(lambda t, m: t.update(zz_new=np.zeros(3, np.int16)))
    assert len(list(shard.Shard(data))) == 1


def test_the_same_records_make_the_same_bytes() -> None:
    document = Document("d", 200, "0" * 64, 3, 100)
    value = [exact(document, 0, 100, np.ones((2, WIDTH), np.float16), [(1, 2)])]
    first, second = (shard.encode(value, "f", WIDTH, VOCABULARY) for _ in range(2))
    assert first == second
    assert first.count(b"__metadata__") == 1


@pytest.mark.parametrize(
    "name",
    [
        "",
        "/etc/passwd",
        "../up",
        "a/../b",
        "a//b",
        ".",
        "a/",
        "nul\0",
        "back\\slash",
        "C:/x",
        "x" * 256,
        "a/" * 2500 + "a",
        "\udcff",
    ],
)
def test_names_that_could_leave_the_folder_are_neither_written_nor_read(name: str) -> None:
    document = Document(name, 1, "0" * 64, 1, 1)
    with pytest.raises(ValueError, match=r"name|Unicode"):
        shard.encode(raw_records(document, 0, b"x", 0, RawReason.NOT_TEXT, WIDTH), FINGERPRINT.id, WIDTH, VOCABULARY)
    line = json.dumps(
        dataclasses.asdict(document), sort_keys=True, separators=(",", ":"), ensure_ascii=name == "\udcff"
    )
    with pytest.raises(ValueError, match=r"name|Unicode|surrogate"):
        decode_documents(line.encode() + b"\n")


@pytest.mark.parametrize("name", ["Re: hello.eml", "12:30.txt", "deep/er/ü.txt", "...", "a b"])
def test_usual_names_are_fine(name: str) -> None:
    document = Document(name, 1, "0" * 64, 1, 1)
    data = shard.encode(raw_records(document, 0, b"x", 0, RawReason.NOT_TEXT, WIDTH), FINGERPRINT.id, WIDTH, VOCABULARY)
    assert shard.Shard(data).record(0).document == document


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
    minor = manifest.decode(sealed(version=[1, 7], extra={"new": 1}))
    assert dataclasses.replace(minor, foreign="") == STATE
    assert "1.7" in minor.foreign  # readable, but not to be rewritten by this version
    optional = manifest.decode(sealed(features={"optional": ["tomorrow"], "required": []}))
    assert "tomorrow" in optional.foreign
    for changes, said in (
        ({"version": [2, 0]}, r"format 2\.0"),
        ({"features": {"optional": [], "required": ["tomorrow"]}}, "tomorrow"),
        ({"numerics": {"dtype": "bfloat16", "attention": "sdpa"}}, "bfloat16"),
    ):
        with pytest.raises(FormatTooNewError, match=said):
            manifest.decode(sealed(**changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"format": "zip"},
        {"shards": [{"sha256": "../x"}]},
        {"fingerprint": {}},
        {"shards": 3},
        {"features": None},
        {"generation": "3"},
        {"vocabulary": None},
        {"numerics": []},
        {"version": ["1", 0]},
        {"shards": [dataclasses.asdict(ENTRY) | {"records": "2"}]},
        {"shards": [dataclasses.asdict(ENTRY) | {"sha256": ["a"]}]},
    ],
)
def test_an_intact_manifest_that_makes_no_sense_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r".+"):
        manifest.decode(sealed(**changes))
