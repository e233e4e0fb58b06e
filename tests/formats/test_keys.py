"""Files of keys: what is written is what is read, and no changed byte passes."""

from __future__ import annotations

import dataclasses
import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load, save

from memvec.formats import canonical, container, keys, manifest
from memvec.formats.keys import Embedder
from memvec.formats.manifest import KeysEntry, Manifest
from memvec.formats.refusal import Refusal
from memvec.types import Fingerprint

VECTORS, WORDS = Embedder("lm", "0123456789abcdef", 4), Embedder("bm25", "fedcba9876543210", 0)
digests = st.lists(st.binary(min_size=32, max_size=32), max_size=6, unique=True)
found = st.dictionaries(st.integers(0, 2**32 - 1), st.integers(1, 10**6), max_size=5)


@given(digests, st.randoms())
@settings(max_examples=40, deadline=None)
def test_vectors_come_back_as_they_were(texts: list[bytes], chance: object) -> None:
    values = np.random.default_rng(len(texts)).normal(size=(len(texts), 4)).astype(np.float16)
    read = keys.decode(keys.encode(keys.dense(VECTORS, texts, values)))
    assert (read.embedder, [t.tobytes() for t in read.texts]) == (VECTORS, texts)
    assert read.values.tobytes() == values.tobytes() and not len(read.terms)


@given(st.lists(st.tuples(st.binary(min_size=32, max_size=32), found), max_size=6))
@settings(max_examples=40, deadline=None)
def test_terms_come_back_in_order_with_their_counts(pairs: list[tuple[bytes, dict[int, int]]]) -> None:
    read = keys.decode(keys.encode(keys.lexical(WORDS, [p[0] for p in pairs], [p[1] for p in pairs])))
    assert len(read) == len(pairs) and read.embedder == WORDS
    for number, (_, terms) in enumerate(pairs):
        begin, end = read.offsets[number : number + 2].tolist()
        back = dict(zip(read.terms[begin:end].tolist(), read.counts[begin:end].tolist(), strict=True))
        assert back == {term: min(count, keys.MOST_COUNT) for term, count in terms.items()}
        assert read.terms[begin:end].tolist() == sorted(terms)


GOOD = keys.encode(keys.dense(VECTORS, [bytes(32)], np.ones((1, 4))))


def changed(name: str, array: np.ndarray) -> bytes:
    """The good file with another tensor."""
    metadata = container.read_header(GOOD, keys.FORMAT_NAME)[1]
    return save(load(GOOD) | {name: array}, {container.METADATA_KEY: canonical.dumps(metadata).decode()})


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (changed("values", np.ones((1, 5), np.float16)), "shape"),
        (changed("values", np.ones((1, 4), np.float32)), "dtype"),
        (changed("values", np.full((1, 4), np.nan, np.float16)), "not finite"),
        (changed("text_sha256", np.zeros((2, 32), np.uint8)), "shape"),
        (keys.encode(keys.dense(VECTORS, [], np.ones((0, 4)))).replace(b"memvec-keys", b"memvec-kexs"), "memvec-keys"),
    ],
)
def test_files_that_contradict_themselves_are_refused(data: bytes, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        keys.decode(data)


def test_offsets_that_do_not_ascend_are_refused() -> None:
    data = keys.encode(keys.lexical(WORDS, [bytes(32)] * 2, [{1: 1}, {2: 2}]))
    metadata = container.read_header(data, keys.FORMAT_NAME)[1]
    bad = load(data) | {"offsets": np.array([0, 3, 2], np.uint64)}
    with pytest.raises(ValueError, match="ascend"):
        keys.decode(save(bad, {container.METADATA_KEY: canonical.dumps(metadata).decode()}))


@given(st.integers(0, len(GOOD) - 1), st.integers(1, 255))
@settings(max_examples=60, deadline=None)
def test_a_changed_byte_raises_what_the_store_expects_or_changes_no_shape(place: int, flip: int) -> None:
    data = bytearray(GOOD)
    data[place] ^= flip
    try:
        read = keys.decode(bytes(data))
    except Refusal:
        return
    assert read.values.shape == (1, 4) and read.texts.shape == (1, 32)


def test_metadata() -> None:
    state = Manifest(Fingerprint("w", "e", {}, "v", "p", 6), 500)
    said = state.following("t", meta={"a": {"k": "v"}, "b": {}})
    read = manifest.decode(manifest.encode(said))
    assert read.meta == {"a": {"k": "v"}} and not read.foreign
    assert not manifest.decode(manifest.encode(read.following("t", meta={"a": {}}))).meta
    for bad in ([1], {"a": "v"}, {"a": {"k": 1}}):
        with pytest.raises(ValueError, match="meta"):
            manifest.decode(manifest.encode(dataclasses.replace(state, meta=bad)))  # type: ignore[arg-type]


def test_a_manifest_names_keys_under_an_optional_feature_and_only_where_there_are_any() -> None:
    state = Manifest(Fingerprint("w", "e", {}, "v", "p", 6), 500)
    entry = KeysEntry(hashlib.sha256(b"").hexdigest(), 10, 3, "lm", "0123456789abcdef")
    bare, keyed = manifest.encode(state), manifest.encode(state.following("t", keys=[entry]))
    assert b'"keys"' not in bare and manifest.decode(keyed).keys == (entry,)
    assert canonical.loads(keyed[:-1])["manifest"]["features"] == {"optional": ["keys"], "required": []}
    assert not manifest.decode(keyed).foreign
    assert manifest.decode(keyed).following("t", keys=[entry]).keys == (entry,)
