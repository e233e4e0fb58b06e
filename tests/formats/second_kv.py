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
        """What the corpus writes down of it; the numbers of keys and values one by one."""
        a, bits, width = self.arrays, self.bits, self.width
        need(0 < self.positions <= POSITIONS, "out-of-range")
        need(bits in (4, 8, 16) and width * bits % 8 == 0, "bad-kv")
        rows, size = len(a["distances"]), width * bits // 8
        need(len(a["counts"]) == self.layers and len(a["keys"]) == len(a["values"]) == rows * size, "bad-kv")
        need(rows <= ROWS, "out-of-range")
        counts = [int(count) for count in a["counts"].flat]
        need(sum(counts) == rows, "bad-kv")
        scaled = bits != 16
        need(
            len(a["key_scales"]) == sum(math.ceil(n / 64) for n in counts) * scaled
            and len(a["value_scales"]) == rows * scaled,
            "bad-kv",
        )
        need(all(0 < d <= POSITIONS for d in a["distances"].tolist()), "out-of-range")
        first, keys, run = 0, [], 0
        for n in counts:
            head = a["distances"][first : first + n].tolist()
            need(all(x > y for x, y in pairwise(head)), "bad-kv")
            for place in range(n):
                codes = self.codes("keys", first + place)
                keys.append(self.scaled(codes, *a["key_scales"][run + place // 64]) if scaled else codes)
            first, run = first + n, run + math.ceil(n / 64)
        values = [self.codes("values", row) for row in range(rows)]
        if scaled:
            need(np.isfinite(a["key_scales"]).all() and np.isfinite(a["value_scales"]).all(), "not-finite")
            values = [
                np.concatenate(
                    [self.scaled(codes[at : at + 64], *a["value_scales"][row][at // 64]) for at in range(0, width, 64)]
                )
                for row, codes in enumerate(values)
            ]
        else:
            need(np.isfinite(keys).all() and np.isfinite(values).all(), "not-finite")
        said = {"positions": self.positions, "bits": bits, "counts": a["counts"].tolist()}
        numbers = {"keys": sha(np.array(keys, "<f4").tobytes()), "values": sha(np.array(values, "<f4").tobytes())}
        return said | {"distances": a["distances"].tolist()} | numbers

    def codes(self, name, row):
        size = self.width * self.bits // 8
        data = self.arrays[name][row * size : (row + 1) * size]
        if self.bits == 16:
            return np.frombuffer(data.tobytes(), "<f2").astype("<f4")
        if self.bits == 8:
            return data.astype("<f4")
        return np.array([half for byte in data.tolist() for half in (byte % 16, byte // 16)], "<f4")

    @staticmethod
    def scaled(codes, low, step):
        return np.asarray(low, "<f4") + np.asarray(step, "<f4") * codes
