"""Keys and values: how far rounding moves a number, and every array that does not fit the others."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memvec.formats import keys_values, limits
from memvec.formats.container import Array
from memvec.formats.keys_values import checked, dequantised, quantised, run_lengths
from memvec.formats.refusal import Refusal
from memvec.types import KeysValues


def falling(counts: Array) -> Array:
    """Distances of that many rows a head."""
    heads = [np.arange(3 * n, 0, -3) for n in counts.reshape(-1).tolist()]
    return np.concatenate(heads).astype(np.uint32)


def made(keys: Array, values: Array, counts: Array, bits: int) -> KeysValues:
    return checked(KeysValues(500, bits, counts, falling(counts), *quantised(keys, values, counts, bits)))


@st.composite
def originals(draw: st.DrawFn) -> tuple[Array, Array, Array, int]:
    """Keys, values, counts and bits. Heads may be empty, channels far from zero or all the same, steps tiny."""
    bits = draw(st.sampled_from([4, 8, 16]))
    width = draw(st.sampled_from([2, 6, 64, 66, 130] if bits == 4 else [1, 3, 64, 65]))
    layers, heads = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    counts = np.array(draw(st.lists(st.integers(0, 140), min_size=layers * heads, max_size=layers * heads)), np.uint32)
    counts[draw(st.integers(0, len(counts) - 1))] += 1
    noise = np.random.default_rng(draw(st.integers(0, 2**32)))
    scale = 10.0 ** draw(st.integers(-6, 3))
    keys, values = noise.standard_normal((2, int(counts.sum()), width)) * scale
    keys += noise.standard_normal(width) * 10.0 ** draw(st.integers(-3, 3))
    if draw(st.booleans()):
        keys[:, 0], values[:, 0] = 0.1, -700.3
    return keys.astype(np.float32), values.astype(np.float32), counts.reshape(layers, heads), bits


@given(originals())
@settings(max_examples=80, deadline=None)
def test_no_number_moves_by_more_than_half_a_step(given_: tuple[Array, Array, Array, int]) -> None:
    keys, values, counts, bits = given_
    kv = made(*given_)
    found = dequantised(kv)
    assert kv.rows == counts.sum() and kv.width == keys.shape[1] and kv.keys.shape == kv.values.shape
    for was, now in zip((keys, values), found, strict=True):
        assert now.dtype == np.float32 and now.shape == was.shape
    if bits == 16:
        assert not len(kv.key_scales) and not len(kv.value_scales)
        assert all((now == was.astype(np.float16)).all() for was, now in zip((keys, values), found, strict=True))
        return
    run = np.repeat(np.arange(len(kv.key_scales)), run_lengths(counts))
    key_steps = kv.key_scales[run, 1].astype(np.float64)
    value_steps = np.repeat(kv.value_scales[:, :, 1].astype(np.float64), 64, axis=1)[:, : kv.width]
    for was, now, steps in ((keys, found[0], key_steps), (values, found[1], value_steps)):
        slack = 2.0**-22 * (np.abs(was) + steps * 2**bits)  # of float32
        assert (np.abs(now.astype(np.float64) - was) <= steps / 2 + slack).all()


@given(originals())
@settings(max_examples=60, deadline=None)
def test_steps_are_as_small_as_float16_allows(given_: tuple[Array, Array, Array, int]) -> None:
    """So that a codec with steps of any size does not pass the test above."""
    keys, values, counts, bits = given_
    if bits == 16:
        return
    kv, most = made(*given_), 2**bits - 1
    ends = np.cumsum(run_lengths(counts))
    for run, end in enumerate(ends.tolist()):
        part = keys[end - run_lengths(counts)[run] : end].astype(np.float64)
        check_scales(kv.key_scales[run], part.min(axis=0), part.max(axis=0), most)
    for run, at in enumerate(range(0, kv.width, 64)):
        part = values[:, at : at + 64].astype(np.float64)
        check_scales(kv.value_scales[:, run].T, part.min(axis=1), part.max(axis=1), most)


def check_scales(scales: Array, least: Array, greatest: Array, most: int) -> None:
    """Low is the next float16 below the least number, step the next above what reaches the greatest."""
    low, step = scales.astype(np.float64)
    next_low, last_step = np.nextafter(scales[0], np.float16(np.inf)), np.nextafter(scales[1], np.float16(-1))
    assert (low <= least).all() and (next_low.astype(np.float64) > least).all()
    assert (low + step * most >= greatest).all()
    assert ((step == 0) | (low + last_step.astype(np.float64) * most < greatest)).all()


@pytest.mark.parametrize("bits", [4, 8])
def test_a_channel_far_from_zero_loses_nothing(bits: int) -> None:
    """Biases of some models put single channels of keys hundreds away from the others."""
    noise = np.random.default_rng(0).standard_normal((100, 8)).astype(np.float32)
    far = noise + np.array([900, 0, 0, 0, -600, 0, 0, 0], np.float32)
    counts = np.array([[100]], np.uint32)
    (near, _), (moved, _) = (dequantised(made(keys, noise, counts, bits)) for keys in (noise, far))
    step = (noise.max() - noise.min()) / (2**bits - 1)
    assert np.abs(moved - far).max() < 0.5 * (step + 1 / (2**bits - 1))  # low is rounded by at most a half
    assert (moved[:, 1:4] == near[:, 1:4]).all()


def test_a_run_ends_with_its_head() -> None:
    """Rows of a head do not change the scales of another, however many rows there are."""
    noise = np.random.default_rng(1).standard_normal((200, 4)).astype(np.float32)
    counts = np.array([[0, 70, 1], [0, 0, 129]], np.uint32)
    assert run_lengths(counts).tolist() == [64, 6, 1, 64, 64, 1]
    whole = made(noise, noise, counts, 8)
    first = 0
    for head, count in enumerate(counts.reshape(-1).tolist()):
        if count:
            alone = made(noise[first : first + count], noise[:count], np.array([[count]], np.uint32), 8)
            assert (alone.keys == whole.keys[first : first + count]).all(), head
        first += count
    changed = noise.copy()
    changed[70] *= 100
    assert (made(changed, noise, counts, 8).keys[np.arange(200) != 70] == whole.keys[np.arange(200) != 70]).all()


def test_two_codes_share_a_byte() -> None:
    """The code of the even channel is the low half."""
    rows = np.array([[0, 15, 3, 9], [15, 0, 0, 0]], np.float32)
    kv = made(rows, rows, np.array([[2]], np.uint32), 4)
    assert kv.values.tolist() == [[0xF0, 0x93], [0x0F, 0x00]]
    assert kv.value_scales.tolist() == [[[0, 1]], [[0, 1]]]
    assert kv.key_scales.tolist() == [[[0, 0, 0, 0], pytest.approx([1, 1, 0.2, 0.6], rel=1e-3)]]
    assert (dequantised(kv)[1] == rows).all()


@pytest.mark.parametrize("bits", [4, 8])
def test_the_sign_of_zero_changes_no_byte(bits: int) -> None:
    counts = np.array([[3]], np.uint32)
    signs = [np.array(pair * 3, np.float32).reshape(3, 2) for pair in ([0.0, 0.0], [-0.0, 0.0])]
    one, other = (quantised(rows, rows, counts, bits) for rows in signs)
    assert [part.tobytes() for part in one] == [part.tobytes() for part in other]


@pytest.mark.parametrize("bits", [4, 8, 16])
@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf, -70_000.0, 1e30])
@pytest.mark.parametrize("of", ["key", "value"])
def test_numbers_that_float16_cannot_hold_are_refused(of: str, bits: int, number: float) -> None:
    good, bad = np.zeros((2, 2, 2), np.float32)
    bad[1, 1] = number
    keys, values = (bad, good) if of == "key" else (good, bad)
    with pytest.raises(Refusal, match=f"a {of} is not finite") as caught:
        quantised(keys, values, np.array([[2]], np.uint32), bits)
    assert caught.value.code == "not-finite"


@pytest.mark.parametrize(
    ("keys", "values", "counts", "bits", "match"),
    [
        ((3, 4), (3, 4), [[3]], 5, "5 bits"),
        ((3, 5), (3, 5), [[3]], 4, "even"),
        ((3, 4), (2, 4), [[3]], 8, r"\(3, 4\) and values \(2, 4\)"),
        ((3, 4), (3, 4), [[2]], 8, "2 rows counted"),
        ((3, 0), (3, 0), [[3]], 8, r"\(3, 0\)"),
        ((12,), (12,), [[12]], 8, r"\(12,\)"),
    ],
)
def test_shapes_that_do_not_fit_are_not_rounded(keys: Any, values: Any, counts: Any, bits: int, match: str) -> None:
    with pytest.raises(Refusal, match=match) as caught:
        quantised(np.ones(keys, np.float32), np.ones(values, np.float32), np.array(counts, np.uint32), bits)
    assert caught.value.code == "bad-kv"


def good(bits: int = 8) -> KeysValues:
    noise = np.random.default_rng(2).standard_normal((2, 70, 4)).astype(np.float32)
    return made(*noise, np.array([[2, 0, 0], [66, 1, 1]], np.uint32), bits)


def changed(**parts: Any) -> KeysValues:
    return dataclasses.replace(good(parts.pop("of", 8)), **parts)


def with_number(array: Array, value: float) -> Array:
    out = array.copy()
    out.reshape(-1)[-1] = value
    return out


REFUSED: dict[str, tuple[str, KeysValues]] = {
    "no positions": ("out-of-range", changed(positions=0)),
    "too many positions": ("out-of-range", changed(positions=limits.KV_POSITIONS + 1)),
    "bits": ("bad-kv", changed(bits=2)),
    "no layers": ("out-of-range", changed(counts=np.zeros((0, 3), np.uint32))),
    "too many layers": ("out-of-range", changed(counts=np.zeros((limits.KV_LAYERS + 1, 1), np.uint32))),
    "too many heads": ("out-of-range", changed(counts=np.zeros((1, limits.KV_HEADS + 1), np.uint32))),
    "too wide": ("out-of-range", changed(keys=np.zeros((70, limits.KV_WIDTH + 1), np.uint8))),
    "no width": ("out-of-range", changed(keys=np.zeros((70, 0), np.uint8))),
    "no rows": ("out-of-range", changed(distances=np.zeros(0, np.uint32))),
    "flat counts": ("bad-kv", changed(counts=good().counts.reshape(-1))),
    "flat keys": ("bad-kv", changed(keys=good().keys.reshape(-1))),
    "distances of two axes": ("bad-kv", changed(distances=good().distances[None])),
    "more counted": ("bad-kv", changed(counts=good().counts + np.uint32(1))),
    "counts of 64 bits": ("bad-kv", changed(counts=good().counts.astype(np.uint64))),
    "distances of signed numbers": ("bad-kv", changed(distances=good().distances.astype(np.int32))),
    "keys of a row less": ("bad-kv", changed(keys=good().keys[1:])),
    "values of a row less": ("bad-kv", changed(values=good().values[1:])),
    "values of other bits": ("bad-kv", changed(values=good(4).values)),
    "a run less": ("bad-kv", changed(key_scales=good().key_scales[1:])),
    "runs across heads": ("bad-kv", changed(key_scales=good().key_scales[:2])),
    "scales of float32": ("bad-kv", changed(key_scales=good().key_scales.astype(np.float32))),
    "scales of another width": ("bad-kv", changed(key_scales=good().key_scales[:, :, 1:])),
    "scales of more runs of numbers": ("bad-kv", changed(value_scales=good().value_scales.repeat(2, 1))),
    "no scales of values": ("bad-kv", changed(value_scales=good().value_scales[:0])),
    "scales with 16 bits": ("bad-kv", changed(of=16, key_scales=good().key_scales)),
    "a distance of 0": ("out-of-range", changed(distances=with_number(good().distances, 0))),
    "too great a distance": (
        "out-of-range",
        changed(distances=with_number(good().distances, limits.KV_POSITIONS + 1)),
    ),
    "equal distances": ("bad-kv", changed(distances=np.maximum(good().distances, np.uint32(7)))),
    "rising distances": ("bad-kv", changed(distances=good().distances[::-1])),
    "a scale that is no number": ("not-finite", changed(key_scales=with_number(good().key_scales, np.nan))),
    "an infinite scale": ("not-finite", changed(value_scales=with_number(good().value_scales, np.inf))),
    "an infinite number of 16 bits": ("not-finite", changed(of=16, keys=np.full((70, 8), 0x7C, np.uint8))),
}


@pytest.mark.parametrize("name", REFUSED)
def test_arrays_that_do_not_fit_are_refused(name: str) -> None:
    code, kv = REFUSED[name]
    with pytest.raises(Refusal) as caught:
        checked(kv)
    assert caught.value.code == code


@pytest.mark.parametrize("bits", [4, 8, 16])
def test_right_arrays_are_given_back(bits: int) -> None:
    kv = good(bits)
    assert checked(kv) is kv


def test_rows_over_the_limit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "KV_ROWS", 69)
    with pytest.raises(Refusal, match="rows of a kv record is 70") as caught:
        checked(good())
    assert caught.value.code == "out-of-range"


def test_great_counts_take_no_memory() -> None:
    """Counts that ask for 24 billion rows are refused before a run is counted."""
    with pytest.raises(Refusal, match="add up"):
        checked(changed(counts=np.full((2, 3), 2**32 - 1, np.uint32)))


def test_the_arrays_are_those_of_the_type() -> None:
    names = [field.name for field in dataclasses.fields(KeysValues)]
    assert names == ["positions", "bits", *keys_values.ARRAYS]
