"""Of the second reader: keys and values, written from formats/SPEC.md §5.5 and §5.6 alone."""

import math
import struct
from itertools import pairwise

import numpy as np
from second_bytes import bounded, need, sha, typed

ARRAYS = {"counts": "U32", "distances": "U32", "keys": "U8", "key_scales": "F16", "values": "U8", "value_scales": "F16"}
TENSORS = {"kv_positions": "U32", "kv_bits": "U8", **{f"kv_{name}": dtype for name, dtype in ARRAYS.items()}}
TENSORS |= {f"kv_{name}_offsets": "U64" for name in ARRAYS}
LIMITS = {"layers": 1024, "heads": 1024, "width": 4096}
POSITIONS, ROWS = 2**24, 2**26


def read_shape(said):  # §5
    (value,) = typed(said, kv=dict)
    for name, most in LIMITS.items():
        bounded(value, name, most=most, least=1)
    return [value[name] for name in LIMITS]


def shapes(n, shape):  # §5.5
    _, heads, width = shape
    out = {"kv_positions": (n,), "kv_bits": (n,)} | {f"kv_{name}_offsets": (n + 1,) for name in ARRAYS}
    out |= {"kv_counts": (None, heads), "kv_distances": (None,), "kv_keys": (None,), "kv_values": (None,)}
    return out | {"kv_key_scales": (None, 2, width), "kv_value_scales": (None, math.ceil(width / 64), 2)}


class Part:
    """What the kv tensors hold for one record."""

    def __init__(self, t, row, shape):
        self.layers, self.heads, self.width = shape
        self.positions, self.bits = int(t["kv_positions"][row]), int(t["kv_bits"][row])
        ends = {name: t[f"kv_{name}_offsets"][row : row + 2].tolist() for name in ARRAYS}
        self.arrays = {name: t[f"kv_{name}"][slice(*ends[name])] for name in ARRAYS}

    def parts(self, wanted):
        found = {name for name, array in self.arrays.items() if len(array)}
        if wanted:
            return found >= {"counts", "distances", "keys", "values"}
        return not found and not self.positions and not self.bits

    def digested(self):
        head = struct.pack("<IBIII", self.positions, self.bits, self.layers, self.heads, self.width)
        return [head, *(array.tobytes() for array in self.arrays.values())]

    def read(self):
        """What the corpus writes down of it; the numbers of keys and values by digest."""
        self.check()
        said = {"positions": self.positions, "bits": self.bits, "counts": self.arrays["counts"].tolist()}
        said["distances"] = self.arrays["distances"].tolist()
        return said | {name: sha(np.array(rows, "<f4").tobytes()) for name, rows in self.numbers().items()}

    def check(self):
        a, bits, width = self.arrays, self.bits, self.width
        need(0 < self.positions <= POSITIONS, "out-of-range")
        need(bits in (4, 8, 16) and width * bits % 8 == 0, "bad-kv")
        rows, size, scaled = len(a["distances"]), width * bits // 8, bits != 16
        need(len(a["counts"]) == self.layers and len(a["keys"]) == len(a["values"]) == rows * size, "bad-kv")
        need(rows <= ROWS, "out-of-range")
        counts = [int(count) for count in a["counts"].flat]
        need(sum(counts) == rows, "bad-kv")
        need(len(a["key_scales"]) == sum(math.ceil(n / 64) for n in counts) * scaled, "bad-kv")
        need(len(a["value_scales"]) == rows * scaled, "bad-kv")
        distances, first = a["distances"].tolist(), 0
        need(all(0 < distance <= POSITIONS for distance in distances), "out-of-range")
        for n in counts:
            need(all(x > y for x, y in pairwise(distances[first : first + n])), "bad-kv")
            first += n
        finite = [a["key_scales"], a["value_scales"]]
        finite += [] if scaled else [self.codes(name, row) for name in ("keys", "values") for row in range(rows)]
        need(all(np.isfinite(part).all() for part in finite), "not-finite")

    def numbers(self):  # §5.6, number by number
        keys, values, run = [], [], 0
        for n in map(int, self.arrays["counts"].flat):
            for place in range(n):
                row, scales = len(keys), self.arrays["key_scales"][run + place // 64 :][:1]
                codes = self.codes("keys", row)
                keys.append(
                    [self.number(code, scales[0, :, e]) if len(scales) else code for e, code in enumerate(codes)]
                )
                scales = self.arrays["value_scales"][row : row + 1]
                codes = self.codes("values", row)
                values.append(
                    [self.number(code, scales[0, e // 64]) if len(scales) else code for e, code in enumerate(codes)]
                )
            run += math.ceil(n / 64)
        return {"keys": keys, "values": values}

    def codes(self, name, row):
        size = self.width * self.bits // 8
        data = self.arrays[name][row * size : (row + 1) * size]
        if self.bits == 16:
            return np.frombuffer(data.tobytes(), "<f2").astype("<f4")
        if self.bits == 8:
            return data.astype("<f4")
        return np.array([half for byte in data.tolist() for half in (byte % 16, byte // 16)], "<f4")

    @staticmethod
    def number(code, scales):
        low, step = scales.astype("<f4")
        return low + step * code
