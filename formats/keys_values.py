"""Keys and values of a kv record: round them to few bits, widen them again, check them. SPEC §5.5, §5.6.

Letters: L layers, H key/value heads, E width of a head, K rows, G runs of rows, C runs of numbers in a row.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from memvec.formats import fields, limits
from memvec.formats.container import Array
from memvec.formats.refusal import Refusal
from memvec.types import KeysValues

RUN = 64  # rows of a head that share the scales of a channel, and numbers of a row that share a scale
BITS = (4, 8, 16)
BLOCK = 1 << 12  # rows worked on at once
# The arrays of a kv record with numpy's codes, in the order of the record digest (SPEC §5.3).
ARRAYS = {
    "counts": "u4",
    "distances": "u4",
    "keys": "u1",
    "key_scales": "f2",
    "values": "u1",
    "value_scales": "f2",
}

Numbers = npt.NDArray[np.float32]
Codes = npt.NDArray[np.uint8]
Scales = npt.NDArray[np.float16]


def run_lengths(counts: Array) -> npt.NDArray[np.int64]:
    """Return the rows of each run (G,) for the rows of each head, `counts`. A run never reaches into another head."""
    rows = counts.reshape(-1).astype(np.int64)
    runs = -(-rows // RUN)
    lengths = np.full(int(runs.sum()), RUN, np.int64)
    ends = np.cumsum(runs)[runs > 0] - 1
    lengths[ends] = ((rows - 1) % RUN + 1)[runs > 0]
    return lengths


def stored_bytes(counts: Array, width: int, bits: int) -> int:
    """Size of all arrays of a record that keeps so many rows in each head [bytes]."""
    expected = _expected(counts, width, bits).values()
    return sum(np.dtype(code).itemsize * math.prod(shape) for code, shape in expected)


def runs_of_a_row(width: int) -> int:
    """Return C, the runs of numbers in a row of `width` numbers."""
    return -(-width // RUN)


def quantised(keys: Numbers, values: Numbers, counts: Array, bits: int) -> tuple[Codes, Scales, Codes, Scales]:
    """Round keys and values to `bits` a number.

    Of the result every number is `low + step * code`. It differs by half a step at most. SPEC §5.6.

    Args:
        keys: (K, E) float32, ordered by layer, head and place. Not rotated.
        values: (K, E) float32.
        counts: (L, H) rows of each head. Their sum is K.
        bits: 4, 8 or 16. With 16 the numbers become float16 and there are no scales.

    Returns:
        Codes of the keys (K, E * bits / 8), their scales (G, 2, E), codes of the values, their scales (K, C, 2). With 16
        bits there are no scales: (0, 2, E) and (0, C, 2).

    Raises:
        Refusal: The shapes or `bits` do not fit, or a number is not finite or too large for float16.

    Example:
        >>> import numpy as np
        >>> from memvec.formats.keys_values import dequantised, quantised
        >>> from memvec.types import KeysValues
        >>> rows = np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4)
        >>> counts = np.array([[2, 1]], np.uint32)
        >>> made = KeysValues(9, 8, counts, np.array([9, 1, 5], np.uint32), *quantised(rows, rows, counts, 8))
        >>> keys, values = dequantised(made)
        >>> bool(np.abs(keys - rows).max() < 0.01), made.keys.nbytes
        (True, 12)
    """
    if keys.ndim != 2 or keys.shape != values.shape or not keys.shape[1] or int(counts.sum()) != len(keys):
        raise _bad(
            f"keys {keys.shape} and values {values.shape} are not (K, E) of the {int(counts.sum())} rows counted"
        )
    width = keys.shape[1]
    _check_bits(bits, width)
    if bits == 16:
        none = np.zeros((0, 2, width), np.float16), np.zeros((0, runs_of_a_row(width), 2), np.float16)
        return _halves(keys, "key"), none[0], _halves(values, "value"), none[1]
    key_codes, key_scales = _quantised_keys(keys, run_lengths(counts), bits)
    value_codes, value_scales = _quantised_values(values, bits)
    return _packed(key_codes, bits), key_scales, _packed(value_codes, bits), value_scales


def dequantised(kv: KeysValues) -> tuple[Numbers, Numbers]:
    """Return the keys and values (K, E) of a kv record as float32. It must have passed `checked`."""
    if kv.bits == 16:
        keys, values = (codes.view("<f2").astype(np.float32) for codes in (kv.keys, kv.values))
        return keys, values
    run = np.repeat(np.arange(len(kv.key_scales)), run_lengths(kv.counts))
    key_scales, value_scales = kv.key_scales.astype(np.float32), kv.value_scales.astype(np.float32)
    keys, values = (np.empty((kv.rows, kv.width), np.float32) for _ in range(2))
    for block in _blocks(kv.rows):
        low, step = key_scales[run[block], 0], key_scales[run[block], 1]
        np.multiply(_unpacked(kv.keys[block], kv.bits), step, out=keys[block])
        keys[block] += low
        codes = _unpacked(kv.values[block], kv.bits)
        for number, part in enumerate(_parts_of_a_row(kv.width)):
            low, step = value_scales[block, number, :1], value_scales[block, number, 1:]
            np.multiply(codes[:, part], step, out=values[block, part])
            values[block, part] += low
    return keys, values


def checked(kv: KeysValues) -> KeysValues:
    """Return `kv`, or refuse it: arrays that do not fit each other, a number over its limit or not finite. SPEC §5.5."""
    fields.within(kv.positions, "the positions of a kv record", limits.KV_POSITIONS, 1)
    if (kv.counts.ndim, kv.distances.ndim, kv.keys.ndim) != (2, 1, 2) or kv.bits not in BITS:
        shapes = f"counts {kv.counts.shape}, distances {kv.distances.shape} and keys {kv.keys.shape}"
        raise _bad(f"{kv.bits} bits, {shapes} make no keys and values")
    for name, found, most in zip(
        ("layers", "heads", "width of a head", "rows"),
        (*kv.counts.shape, kv.width, len(kv.distances)),
        (limits.KV_LAYERS, limits.KV_HEADS, limits.KV_WIDTH, limits.KV_ROWS),
        strict=True,
    ):
        fields.within(found, f"{name} of a kv record", most, 1)
    _check_bits(kv.bits, kv.width)
    # Before runs are counted: counts that are too large would ask for more memory than the record has bytes.
    if int(kv.counts.sum(dtype=np.uint64)) != len(kv.distances):
        raise _bad(f"the counts of its heads do not add up to {len(kv.distances)} rows")
    for name, (code, shape) in _expected(kv.counts, kv.width, kv.bits).items():
        found = getattr(kv, name)
        if found.dtype != np.dtype(f"<{code}") or found.shape != shape:
            raise _bad(f"{name} is {found.dtype} {found.shape}, expected {np.dtype(code)} {shape}")
    _check_distances(kv)
    numbers = [kv.key_scales, kv.value_scales]
    if kv.bits == 16:
        numbers = [np.ascontiguousarray(codes).view("<f2") for codes in (kv.keys, kv.values)]
    if not all(np.isfinite(part).all() for part in numbers):
        raise Refusal("not-finite", "a number or scale of its keys or values is not finite")
    return kv


def _expected(counts: Array, width: int, bits: int) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Numpy's code and the shape of each array of a record with `counts` (L, H) rows."""
    rows, scaled = int(counts.sum()), bits < 16
    shapes = {
        "counts": counts.shape,
        "distances": (rows,),
        "keys": (rows, width * bits // 8),
        "key_scales": (len(run_lengths(counts)) if scaled else 0, 2, width),
        "values": (rows, width * bits // 8),
        "value_scales": (rows if scaled else 0, runs_of_a_row(width), 2),
    }
    return {name: (code, shapes[name]) for name, code in ARRAYS.items()}


def _check_distances(kv: KeysValues) -> None:
    fields.within(int(kv.distances.min()), "the least distance of a kv record", limits.KV_POSITIONS, 1)
    fields.within(int(kv.distances.max()), "the greatest distance of a kv record", limits.KV_POSITIONS, 1)
    begins = np.zeros(kv.rows + 1, bool)  # is a row the first of its head?
    begins[np.cumsum(kv.counts.reshape(-1), dtype=np.int64)] = True
    if not ((kv.distances[1:] < kv.distances[:-1]) | begins[1:-1]).all():
        raise _bad("the distances of a head do not fall")


def _check_bits(bits: int, width: int) -> None:
    if bits not in BITS:
        raise _bad(f"{bits} bits a number, expected one of {', '.join(map(str, BITS))}")
    if bits == 4 and width % 2:
        raise _bad(f"a head of {width} numbers, expected an even number with 4 bits")


def _halves(numbers: Numbers, what: str) -> Codes:
    with np.errstate(over="ignore"):
        halves = numbers.astype("<f2")
    _check_finite(halves, what)
    return np.ascontiguousarray(halves).view(np.uint8)


def _check_finite(numbers: Array, what: str) -> None:
    if not np.isfinite(numbers).all():
        raise Refusal("not-finite", f"a {what} is not finite, or too large for float16")


def _quantised_keys(keys: Numbers, lengths: npt.NDArray[np.int64], bits: int) -> tuple[Codes, Scales]:
    """Codes (K, E) and scales (G, 2, E): each channel has its own low and step in each run of rows."""
    starts = np.cumsum(lengths) - lengths
    least, greatest = (f.reduceat(keys, starts, axis=0) if len(keys) else keys for f in (np.minimum, np.maximum))
    low, step = _scales(least, greatest, bits, "key")
    run = np.repeat(np.arange(len(lengths)), lengths)
    codes = np.empty(keys.shape, np.uint8)
    for block in _blocks(len(keys)):
        codes[block] = _codes(keys[block], low[run[block]], step[run[block]], bits)
    return codes, np.stack([low, step], axis=1)


def _quantised_values(values: Numbers, bits: int) -> tuple[Codes, Scales]:
    """Codes (K, E) and scales (K, C, 2): each row has its own low and step for each run of its numbers."""
    starts = np.arange(0, values.shape[1], RUN)
    least, greatest = (f.reduceat(values, starts, axis=1) for f in (np.minimum, np.maximum))
    low, step = _scales(least, greatest, bits, "value")
    codes = np.empty(values.shape, np.uint8)
    for block in _blocks(len(values)):
        for number, part in enumerate(_parts_of_a_row(values.shape[1])):
            of_run = low[block, number, None], step[block, number, None]
            codes[block, part] = _codes(values[block, part], *of_run, bits)
    return codes, np.stack([low, step], axis=2)


def _scales(least: Numbers, greatest: Numbers, bits: int, what: str) -> tuple[Scales, Scales]:
    """Low and step of each run. Low is rounded down and step up, so that the codes of all numbers are in range."""
    infinity = np.float16(np.inf)
    with np.errstate(over="ignore", invalid="ignore"):
        low = (least + np.float32(0)).astype(np.float16)  # the sum makes 0 of -0: equal runs, equal bytes
        low = np.where(low > least, np.nextafter(low, -infinity), low)
        exact = np.abs(greatest.astype(np.float64) - low.astype(np.float64)) / (2**bits - 1)  # as above: no -0
        step = exact.astype(np.float16)
        step = np.where(step < exact, np.nextafter(step, infinity), step)
    for scale in (low, step):
        _check_finite(scale, what)
    return low, step


def _blocks(rows: int) -> Iterator[slice]:
    """Yield slices of rows whose numbers fit in a processor's cache."""
    return (slice(start, start + BLOCK) for start in range(0, rows, BLOCK))


def _parts_of_a_row(width: int) -> list[slice]:
    return [slice(start, start + RUN) for start in range(0, width, RUN)]


def _codes(numbers: Numbers, low: Scales, step: Scales, bits: int) -> Codes:
    """Return the nearest codes."""
    codes = np.subtract(numbers, low, dtype=np.float32)
    # Where the step is zero every number is low, and its code 0.
    codes /= np.where(step > 0, step, np.float16(1)).astype(np.float32)
    np.rint(codes, out=codes)
    return np.clip(codes, 0, 2**bits - 1, out=codes).astype(np.uint8)


def _packed(codes: Codes, bits: int) -> Codes:
    return codes if bits == 8 else codes[:, 0::2] | codes[:, 1::2] << np.uint8(4)


def _unpacked(packed: Codes, bits: int) -> Codes:
    if bits == 8:
        return packed
    return np.stack([packed & np.uint8(15), packed >> np.uint8(4)], axis=2).reshape(len(packed), -1)


def _bad(message: str) -> Refusal:
    return Refusal("bad-kv", message)
