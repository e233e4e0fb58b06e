"""Kv records in shards and manifests: what is written is what is read, and no changed byte gives other numbers."""

from __future__ import annotations

import dataclasses
import hashlib
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memvec.errors import FormatTooNewError
from memvec.formats import conditioning, container, keys_values, manifest, raw, shard
from memvec.formats.kv_tensors import TENSORS
from memvec.formats.manifest import Manifest
from memvec.formats.partial import ShardReader
from memvec.formats.refusal import Refusal
from memvec.formats.shard import Shard
from memvec.packing.records import context_record, raw_records
from memvec.store.store import Store
from memvec.types import Conditioning, Document, Fingerprint, KeysValues, Kind, RawReason, Record

VECTORS = Path(__file__).parents[1] / "vectors" / "v1" / "accepted"
WIDTH, VOCABULARY, ROWS = 6, 500, 100
UNMEASURED = Conditioning(None, None, None, None, None, None, None, 0, "none", 0)
MEASURED = dataclasses.replace(UNMEASURED, gain=0.5, nll_none=3.0, held_out=8)
DOCUMENT = Document("d", 10_000, "0" * 64, 3, 100)


def kept(counts: list[list[int]], bits: int = 8, width: int = 4, seed: int = 0) -> KeysValues:
    noise = np.random.default_rng(seed)
    rows = np.array(counts, np.uint32)
    numbers = noise.standard_normal((2, int(rows.sum()), width)).astype(np.float32)
    places = [np.sort(noise.choice(1000, n, replace=False)) for n in rows.reshape(-1).tolist()]
    distances = (1000 - np.concatenate(places)).astype(np.uint32)
    return KeysValues(100 + seed, bits, rows, distances, *keys_values.quantised(*numbers, rows, bits))


def kv(start: int = 0, report: Conditioning = UNMEASURED, **changes: Any) -> Record:
    made = changes.pop("kv", None) or kept([[2, 0], [70, 1]])
    base = context_record(DOCUMENT, start, b"x" * 100, 1000, np.zeros((0, WIDTH), np.float16), report)
    return dataclasses.replace(base, kind=Kind.KV, kv=made, **changes)


def context(start: int = 0) -> Record:
    return context_record(DOCUMENT, start, b"x" * 100, 30, np.ones((2, WIDTH), np.float16), MEASURED)


def encoded(*records: Record) -> bytes:
    return shard.encode(records, "f", WIDTH, VOCABULARY)


@st.composite
def records(draw: st.DrawFn) -> list[Record]:
    """Records of one shape and any bits, with records of other kinds between them; at least one of each."""
    layers, heads, width = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.sampled_from([2, 4, 64, 66]))
    out: list[Record] = []
    for number in range(draw(st.integers(1, 4))):
        counts = np.array(draw(st.lists(st.integers(0, 70), min_size=layers * heads, max_size=layers * heads)))
        counts[draw(st.integers(0, len(counts) - 1))] += 1
        made = kept(counts.reshape(layers, heads).tolist(), draw(st.sampled_from([4, 8, 16])), width, number)
        out.append(kv(number * 100, draw(st.sampled_from([MEASURED, UNMEASURED])), kv=made))
    for number in range(draw(st.integers(0, 2))):
        out.append(context(number * 100))
        out += raw_records(DOCUMENT, number * 100, b"\xff bytes", 0, RawReason.NOT_TEXT, WIDTH)
    return draw(st.permutations(out))


def parts(record: Record) -> list[Any]:
    """Everything a record says of keys and values."""
    if record.kv is None:
        return [record.kind, None]
    arrays = [getattr(record.kv, name) for name in keys_values.ARRAYS]
    whole = [(array.dtype, array.shape, array.tobytes()) for array in arrays]
    return [record.kind, record.kv.positions, record.kv.bits, whole, record.conditioning, record.tokens]


@given(records())
@settings(max_examples=60, deadline=None)
def test_kv_records_come_back_as_they_were(tmp_path_factory: pytest.TempPathFactory, value: list[Record]) -> None:
    data = encoded(*value)
    file = tmp_path_factory.mktemp("shard") / "file"
    file.write_bytes(data)
    for read in (Shard(data), ShardReader(file)):
        assert [parts(record) for record in read] == [parts(record) for record in value]
        assert [read.digest(row) for row in range(len(read))] == [shard.record_digest(record) for record in value]
        assert manifest.KV in read.required
        positions, sizes = read.kv_sizes()
        assert positions.tolist() == [r.kv.positions if r.kv else 0 for r in value]
        assert sizes.tolist() == [r.kv.nbytes if r.kv else 0 for r in value]


@given(records(), st.data())
@settings(max_examples=100, deadline=None)
def test_no_changed_byte_changes_keys_or_values(value: list[Record], data: st.DataObject) -> None:
    """Also without the digests of the file and of its tensors, as when a damaged store is saved."""
    good = encoded(*value)
    bad = bytearray(good)
    header = 8 + int.from_bytes(good[:8], "little")
    bad[data.draw(st.integers(header, len(good) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(Refusal):
        list(Shard(bytes(bad)))
    try:
        part = Shard(bytes(bad), strict=False)
    except Refusal:
        return
    for row, was in enumerate(value):
        try:
            now = part.record(row)
        except Refusal:
            continue
        assert parts(now) == parts(was)


def test_a_changed_file_read_in_parts_gives_the_same_or_an_error(tmp_path: Path) -> None:
    value = [kv(), context(100), kv(200, kv=kept([[0, 1], [3, 0]], 4))]
    good, chance, file = encoded(*value), random.Random(3), tmp_path / "file"
    header, refused = 8 + int.from_bytes(good[:8], "little"), 0
    for _ in range(300):
        bad = bytearray(good)
        bad[chance.randrange(header, len(bad))] ^= 1 << chance.randrange(8)
        file.write_bytes(bad)
        try:
            assert [parts(record) for record in ShardReader(file)] == [parts(record) for record in value]
        except Refusal:
            refused += 1
    assert refused > 250


def test_records_of_other_kinds_read_nothing_of_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(encoded(context(), kv()))
    reader, asked = ShardReader(tmp_path / "file"), []
    rows = reader._file.rows
    monkeypatch.setattr(reader._file, "rows", lambda name, *ends: asked.append(name) or rows(name, *ends))
    reader.record(0)
    assert set(asked) == {"vectors", "corrections", "payload"}
    reader.record(1)
    assert {f"kv_{name}" for name in keys_values.ARRAYS} <= set(asked)


def test_damage_to_one_record_leaves_the_others(tmp_path: Path) -> None:
    value = [kv(), kv(100, kv=kept([[5, 5], [5, 5]], 4)), context(200)]
    data = encoded(*value)
    entries, _ = container.read_header(data, shard.FORMAT_NAME)
    bad, begin = bytearray(data), 8 + int.from_bytes(data[:8], "little")
    bad[begin + entries["kv_values"]["data_offsets"][0]] ^= 1
    (tmp_path / "file").write_bytes(bad)
    for read in (Shard(bytes(bad), strict=False), ShardReader(tmp_path / "file")):
        with pytest.raises(Refusal, match="record 0: it does not match its digest"):
            read.record(0)
        assert [parts(read.record(row)) for row in (1, 2)] == [parts(record) for record in value[1:]]


class TestWithout:
    """A shard without kv records is as it was before there were any."""

    def test_it_has_no_new_tensor_and_no_new_key(self) -> None:
        data = encoded(context(), *raw_records(DOCUMENT, 0, b"x", 0, RawReason.NOT_TEXT, WIDTH))
        entries, metadata = container.read_header(data, shard.FORMAT_NAME)
        assert set(entries) == set(shard.TENSORS) == set(shard.expected_tensors(metadata))
        keys = {"digests", "documents", "fingerprint", "format", "generation", "records", "version"}
        assert set(metadata) == keys | {"vocabulary", "width"}
        assert Shard(data).required == {manifest.CONTEXT}
        assert not Shard(data).kv_sizes()[1].any()

    def test_its_bytes_are_those_of_a_committed_shard(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Written before there were kv records. The table's frame is kept, since compressors differ."""
        (file,) = (VECTORS / "packed" / "store.memvec" / "shards").iterdir()
        data = file.read_bytes()
        old, origin = Shard(data), Store.open(file.parents[1]).manifest.fingerprint
        monkeypatch.setattr(raw, "compress", lambda _: old.tensors["documents"].tobytes())
        said = old.metadata
        again = shard.encode(
            list(old), said["fingerprint"], said["width"], said["vocabulary"], origin, said["generation"]
        )
        assert hashlib.sha256(again).hexdigest() == file.stem and again == data

    def test_digests_of_other_kinds_are_the_same_beside_a_kv_record(self) -> None:
        alone, beside = Shard(encoded(context())), Shard(encoded(context(), kv()))
        assert alone.digest(0) == beside.digest(0)


@pytest.mark.parametrize("name", ["positions", *keys_values.ARRAYS])
def test_the_digest_covers(name: str) -> None:
    """Each array by itself, though its values would pass every other check."""
    good = kept([[2, 0], [70, 1]], 16)
    value = getattr(good, name)
    if name == "positions":
        other: Any = value + 1
    elif name == "counts":
        other = np.array([[1, 1], [70, 1]], np.uint32)
    elif not value.size:
        other = np.zeros((1, *value.shape[1:]), value.dtype)
    else:
        other = value + value.dtype.type(1)
    assert shard.record_digest(kv(kv=good)) != shard.record_digest(kv(kv=dataclasses.replace(good, **{name: other})))


def test_the_digest_covers_bits_and_shape() -> None:
    """The same bytes as 8 rows of 4 bits and width 4, or of 8 bits and width 2, are not one record."""
    four = kept([[8]], 4, 4)
    eight = dataclasses.replace(four, bits=8)
    flat = dataclasses.replace(four, counts=four.counts.reshape(1, 1), keys=four.keys.reshape(4, 4))
    assert len({shard.record_digest(kv(kv=each)) for each in (four, eight, flat)}) == 3


@pytest.mark.parametrize(
    ("code", "made"),
    [
        ("mixed-parts", lambda: [dataclasses.replace(kv(), kv=None)]),
        ("mixed-parts", lambda: [dataclasses.replace(context(), kv=kept([[1]]))]),
        ("bad-kv", lambda: [kv(), kv(100, kv=kept([[1]]))]),
        ("bad-kv", lambda: [kv(), kv(100, kv=kept([[2, 0], [70, 1]], width=6))]),
        ("bad-kv", lambda: [kv(kv=dataclasses.replace(kept([[2]]), distances=np.array([3, 3], np.uint32)))]),
        ("out-of-range", lambda: [kv(kv=dataclasses.replace(kept([[2]]), positions=0))]),
        ("not-finite", lambda: [kv(kv=dataclasses.replace(kept([[2]], 16), keys=np.full((2, 8), 255, np.uint8)))]),
    ],
)
def test_what_a_reader_would_refuse_is_not_written(code: str, made: Any) -> None:
    with pytest.raises(Refusal) as caught:
        encoded(*made())
    assert caught.value.code == code


@pytest.mark.parametrize(
    "changes",
    [
        {"vectors": np.ones((1, WIDTH), np.float16)},
        {"corrections": ((1, 2),)},
        {"payload": b""},
        {"tokens": 0},
        {"reason": RawReason.NO_FIT},
    ],
)
def test_parts_of_other_kinds_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(Refusal, match="kv but lacks a part or mixes") as caught:
        Shard(encoded(dataclasses.replace(kv(), **changes))).record(0)
    assert caught.value.code == "mixed-parts"


def test_a_text_may_be_longer_than_an_exact_record() -> None:
    """Nothing decodes a kv record, so its tokens bound no time."""
    assert Shard(encoded(kv(tokens=131_072))).record(0).tokens == 131_072
    with pytest.raises(Refusal, match="tokens"):
        Shard(encoded(dataclasses.replace(context(), tokens=131_072))).record(0)


def test_a_record_holds_no_view_of_its_file() -> None:
    """Else one record would keep a shard of gigabytes in memory."""
    record = Shard(encoded(kv(), kv(100))).record(0)
    assert record.kv is not None
    for name in keys_values.ARRAYS:
        array = getattr(record.kv, name)
        while array.base is not None:
            array = array.base
        assert isinstance(array, np.ndarray) and array.nbytes <= record.kv.nbytes, name


class TestUnmeasured:
    """A report may say that nothing was measured."""

    def test_it_is_written_and_read(self) -> None:
        assert conditioning.decode(conditioning.encode(UNMEASURED)) == UNMEASURED
        assert Shard(encoded(kv())).record(0).conditioning == UNMEASURED

    def test_nothing_measured_is_no_zero(self) -> None:
        zero = dataclasses.replace(UNMEASURED, gain=0.0)
        assert shard.record_digest(kv()) != shard.record_digest(kv(report=zero))


class TestFeature:
    """A reader without kv records refuses a store with them."""

    state = Manifest(Fingerprint("w", "e", {}, "v", "p", WIDTH), VOCABULARY)

    def test_it_is_named_and_kept(self) -> None:
        marked = self.state.following("t", required={manifest.KV})
        assert marked.following("t", required={manifest.CONTEXT}).required == (manifest.CONTEXT, manifest.KV)
        assert manifest.decode(manifest.encode(marked)).required == (manifest.KV,)

    def test_an_older_reader_refuses_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        data = manifest.encode(dataclasses.replace(self.state, required=(manifest.KV,)))
        monkeypatch.setattr(manifest, "FEATURES", manifest.FEATURES - {manifest.KV})
        with pytest.raises(FormatTooNewError, match="'kv'"):
            manifest.decode(data)


def test_a_shard_of_kv_records_has_exactly_their_tensors() -> None:
    data = encoded(kv())
    entries, metadata = container.read_header(data, shard.FORMAT_NAME)
    assert set(entries) == set(shard.TENSORS) | set(TENSORS) == set(metadata["digests"])
    assert metadata["kv"] == {"layers": 2, "heads": 2, "width": 4}
