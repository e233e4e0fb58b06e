"""Context records in shards and manifests: what is written is what is read, and nothing malformed passes."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memvec.errors import FormatTooNewError
from memvec.formats import canonical, conditioning, manifest, raw, shard
from memvec.formats.manifest import Manifest, ShardEntry
from memvec.formats.refusal import Refusal
from memvec.packing.records import context_record, raw_records
from memvec.types import Conditioning, Document, Fingerprint, FitReport, Kind, RawReason, Record

WIDTH, VOCABULARY = 6, 500
REPORT = Conditioning(0.625, 0.03, 0.4, -0.001, 3.5, 2.0, 2.5, 12, "questions", 7)
DOCUMENT = Document("d", 1000, "0" * 64, 3, 100)


def context(start: int = 0, report: Conditioning = REPORT, count: int = 2) -> Record:
    vectors = np.full((count, WIDTH), 0.5, np.float16)
    return context_record(DOCUMENT, start, b"x" * 100, 30, vectors, report, FitReport(steps=9, token_steps=900))


def encoded(*records: Record) -> bytes:
    return shard.encode(records, "f", WIDTH, VOCABULARY)


numbers = st.floats(allow_nan=False, allow_infinity=False)
reports = st.builds(
    Conditioning,
    gain=st.none() | numbers,
    shuffled=st.none() | numbers,
    text=st.none() | numbers,
    harm=st.none() | numbers,
    nll_none=st.none() | numbers,
    nll_text=st.none() | numbers,
    nll_memory=st.none() | numbers,
    held_out=st.integers(0, 2**40),
    recipe=st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    seed=st.integers(-(2**63), 2**64 - 1),
)


@st.composite
def records(draw: st.DrawFn) -> list[Record]:
    """Context records with any M ≥ 1 and any finite report, some raw ones between."""
    out: list[Record] = []
    for number in range(draw(st.integers(1, 5))):
        if draw(st.integers(0, 3)) == 0:
            out += raw_records(DOCUMENT, number * 100, draw(st.binary(max_size=50)), 0, RawReason.NOT_TEXT, WIDTH)
            continue
        out.append(context(number * 100, draw(reports), draw(st.integers(1, 4))))
    return out


@given(records())
@settings(max_examples=60, deadline=None)
def test_context_records_come_back_as_they_were(value: list[Record]) -> None:
    read = list(shard.Shard(encoded(*value)))
    for was, now in zip(value, read, strict=True):
        assert now.vectors.tobytes() == was.vectors.tobytes()
        for field in dataclasses.fields(Record):
            if field.name != "vectors":
                assert getattr(now, field.name) == getattr(was, field.name), field.name
        assert (now.conditioning is None) == (now.kind != Kind.CONTEXT)


@given(records(), st.data())
@settings(max_examples=150, deadline=None)
def test_no_changed_byte_changes_a_context_record(value: list[Record], data: st.DataObject) -> None:
    """Also without the file's digest: what is read is what was written, or refused by an error of a known type."""
    good = encoded(*value)
    bad = bytearray(good)
    bad[data.draw(st.integers(0, len(good) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        read = list(shard.Shard(bytes(bad)))
    except Refusal:
        return
    for was, now in zip(value, read, strict=False):
        assert (now.kind, now.conditioning, now.vectors.tobytes()) == (
            was.kind,
            was.conditioning,
            was.vectors.tobytes(),
        )


def test_the_report_is_part_of_the_record_digest() -> None:
    other = dataclasses.replace(REPORT, gain=0.9)
    assert shard.record_digest(context()) != shard.record_digest(context(report=other))


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("no vectors", {"vectors": np.zeros((0, WIDTH), np.float16)}),
        ("no tokens", {"tokens": 0}),
        ("corrections", {"corrections": ((1, 2),)}),
        ("a reason", {"reason": RawReason.NO_FIT}),
        ("no payload", {"payload": b""}),
        ("no frame", {"payload": b"nonsense"}),
        ("other bytes", {"payload": raw.compress(b"some text")}),
        ("exact with a report", {"kind": Kind.EXACT}),
        ("raw with vectors", {"kind": Kind.RAW, "reason": RawReason.NO_FIT}),
    ],
)
def test_context_records_that_contradict_themselves_are_refused(name: str, changes: dict[str, Any]) -> None:
    read = shard.Shard(encoded(dataclasses.replace(context(), **changes)))
    with pytest.raises(ValueError, match="record 0"):
        read.record(0)


def frame(**changes: Any) -> bytes:
    return raw.compress(canonical.dumps(dataclasses.asdict(REPORT) | changes))


def test_the_report_is_canonical_json_in_a_frame() -> None:
    assert conditioning.encode(REPORT) == frame()
    assert canonical.loads(raw.decompress(frame()))["gain"] == 0.625
    assert conditioning.decode(frame()) == REPORT


def test_unknown_keys_of_a_report_are_passed_over() -> None:
    assert conditioning.decode(frame(zz_new=[1, 2])) == REPORT


@pytest.mark.parametrize(
    "changes",
    [
        {"gain": 1},
        {"gain": "0.5"},
        {"shuffled": True},
        {"nll_text": 2},
        {"held_out": 3.0},
        {"held_out": True},
        {"held_out": -1},
        {"recipe": None},
        {"seed": "7"},
    ],
)
def test_reports_of_the_wrong_types_are_neither_read_nor_written(changes: dict[str, Any]) -> None:
    (name,) = changes
    with pytest.raises(ValueError, match=name):
        conditioning.decode(frame(**changes))
    with pytest.raises(ValueError, match=name):
        conditioning.encode(dataclasses.replace(REPORT, **changes))


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Conditioning)])
def test_a_report_without_one_of_its_fields_is_refused(name: str) -> None:
    value = dataclasses.asdict(REPORT)
    del value[name]
    with pytest.raises(ValueError, match=name):
        conditioning.decode(raw.compress(canonical.dumps(value)))


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_none_is_neither_read_nor_written(number: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        conditioning.encode(dataclasses.replace(REPORT, shuffled=number))
    text = raw.decompress(frame()).replace(b"0.03", str(number).replace("inf", "Infinity").encode())
    with pytest.raises(ValueError, match=r".+"):
        conditioning.decode(raw.compress(text))


@pytest.mark.parametrize("text", [b"[]", b"{}", b"3", b"", b'{"a": 1}', b"\xff"])
def test_a_payload_that_is_no_report_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        conditioning.decode(raw.compress(text))


FINGERPRINT = Fingerprint("w", "e", {"hidden_size": WIDTH}, "v", "p", WIDTH, "somewhere")
FIRST, SECOND = (ShardEntry(hashlib.sha256(name).hexdigest(), 10, 2, 1) for name in (b"1", b"2"))
STATE = Manifest(FINGERPRINT, VOCABULARY)


def test_a_manifest_names_the_feature_and_keeps_it() -> None:
    assert STATE.following("t", FIRST).required == ()
    marked = STATE.following("t", FIRST, required={manifest.CONTEXT})
    assert marked.required == marked.following("t", SECOND).required == (manifest.CONTEXT,)
    assert manifest.decode(manifest.encode(marked)) == marked
    assert b'"features":{"optional":[],"required":["context"]}' in manifest.encode(marked)


def test_a_reader_without_the_feature_refuses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    data = manifest.encode(dataclasses.replace(STATE, required=(manifest.CONTEXT,)))
    monkeypatch.setattr(manifest, "FEATURES", frozenset())
    with pytest.raises(FormatTooNewError, match="context"):
        manifest.decode(data)


@pytest.mark.parametrize("required", ["context", {"context": 1}, None, 3, [["context"]]])
def test_features_that_are_no_list_of_names_are_refused(required: Any) -> None:
    body = canonical.loads(manifest.encode(STATE)[:-1])["manifest"]
    body["features"]["required"] = required
    digest = hashlib.sha256(canonical.dumps(body)).hexdigest()
    with pytest.raises(ValueError, match="wrong type"):
        manifest.decode(canonical.dumps({"manifest": body, "sha256": digest}) + b"\n")
