"""Of the second reader: JSON, frames and tensors, written from formats/SPEC.md §3, §5.1, §7 and §10 alone."""

import hashlib
import json
import math

import numpy as np
import zstandard

NUMPY = {"U8": "<u1", "U16": "<u2", "U32": "<u4", "U64": "<u8", "F16": "<f2", "F32": "<f4"}
BOUNDS = {"bytes": 2**63 - 1, "records": 2**20, "documents": 2**20, "texts": 2**24, "width": 2**16, "vocabulary": 2**24}
JSON_ERRORS = {UnicodeDecodeError: "not-utf8", UnicodeEncodeError: "surrogate", RecursionError: "nested-too-deeply"}


class Refused(Exception):
    """Its text is a code of SPEC §12."""


def need(holds, code):
    if not holds:
        raise Refused(code)


def sha(data):
    return hashlib.sha256(data).hexdigest()


def form(value):
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def parse(data, loose=False):  # §3
    def members(pairs):
        need(len(dict(pairs)) == len(pairs), "duplicate-key")
        return dict(pairs)

    def integer(text):
        need(len(text) < 21 and -(2**63) <= int(text) < 2**64, "integer-too-large")
        return int(text)

    def number(text):
        need(math.isfinite(float(text)), "not-finite")
        return float(text)

    def depth(value):
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
        return 0 if inner is None else 1 + max(map(depth, inner), default=0)

    try:
        need(sum(map(data.count, (b",", b"[", b"{"))) <= 2**22, "too-many-values")
        hooks = {"object_pairs_hook": members, "parse_int": integer, "parse_float": number, "parse_constant": number}
        value = json.loads(data.decode(), **hooks)
        need(depth(value) <= 32, "nested-too-deeply")
        need(form(value) == data or loose, "not-canonical")
    except (UnicodeError, RecursionError, json.JSONDecodeError) as error:
        raise Refused(JSON_ERRORS.get(type(error), "not-json")) from None
    return value


def typed(value, **kinds):  # members by exact type; [kind] is a list, {kind} an object of that kind
    for name, kind in kinds.items():
        found, each = value.get(name) if type(value) is dict else None, type(kind) in (list, set)
        options = {list: (list,), set: (dict,), tuple: kind}.get(type(kind), (kind,))
        need(type(value) is dict and name in value and type(found) in options, "bad-field")
        inner = found.values() if type(found) is dict else found
        need(not each or all(type(v) in kind for v in inner), "bad-field")
    return [value[name] for name in kinds]


def bounded(value, *names, most=None, least=0):
    for name in names:
        need(least <= typed(value, **{name: int})[0] <= (most or BOUNDS.get(name, 2**63 - 1)), "out-of-range")


def hexadecimal(text):
    need(len(text) == 64 and not set(text) - set("0123456789abcdef"), "bad-digest")


def version(value, name):
    need(typed(value, format=str) == [name], "wrong-format")
    (found,) = typed(value, version=[int])
    need(len(found) == 2 and found[1] >= 0, "bad-field")
    need(found[0] == 1, "unsupported-version")


def frame(data, limit=2**24):  # §7
    need(len(data) <= 17 * 2**20, "frame-too-large")
    try:
        head, unpack = zstandard.get_frame_parameters(data), zstandard.ZstdDecompressor().decompressobj()
        out, fed = b"", 0
        need(head.content_size < 2**63, "undeclared-size")
        need(head.content_size <= limit, "frame-too-large")
        need(head.has_checksum, "no-checksum")
        while fed < len(data) and not unpack.eof:  # a few bytes at a time: they may unpack to more than was declared
            out, fed = out + unpack.decompress(data[fed : fed + 64]), fed + 64
            need(len(out) <= head.content_size, "damaged-frame")
    except zstandard.ZstdError:
        raise Refused("damaged-frame") from None
    need(unpack.eof and len(out) == head.content_size, "damaged-frame")
    need(fed >= len(data) and not unpack.unused_data, "trailing-bytes")
    return out


def header(data, name):  # §10, step 4
    need(len(data) >= 8, "cut-off")
    size = int.from_bytes(data[:8], "little")
    need(size <= 2**20, "header-too-long")
    need(size <= len(data) - 8, "cut-off")
    need(data[8:9] == b"{", "not-json")
    entries = parse(data[8 : 8 + size], loose=True)
    said = entries.pop("__metadata__", None)
    need(type(said) is dict and list(said) == ["memvec"] and type(said["memvec"]) is str, "bad-metadata")
    said = parse(said["memvec"].encode())
    version(said, name)
    typed(said, digests=dict)
    return said, entries, data[8 + size :]


def tensors(entries, data, wanted, shapes, digests=()):  # §5.1
    reached, out = 0, {}
    for e in entries.values():
        need(type(e) is dict and set(e) == {"dtype", "shape", "data_offsets"} and type(e["dtype"]) is str, "bad-tensor")
        for numbers in (e["shape"], e["data_offsets"]):
            need(type(numbers) is list and all(type(n) is int and n >= 0 for n in numbers), "bad-tensor")
        need(len(e["data_offsets"]) == 2 and e["data_offsets"] == sorted(e["data_offsets"]), "bad-tensor")
    for begin, end in sorted(e["data_offsets"] for e in entries.values()):
        need(begin >= reached, "overlapping-tensors")
        need(begin == reached, "gap-between-tensors")
        reached = end
    need(reached <= len(data), "cut-off")
    need(reached == len(data), "trailing-bytes")
    for name, dtype in wanted.items():
        need(name in entries, "missing-tensor")
        (begin, end), shape, kind = entries[name]["data_offsets"], entries[name]["shape"], np.dtype(NUMPY[dtype])
        need(entries[name]["dtype"] == dtype, "wrong-dtype")
        need(math.prod(shape) * kind.itemsize == end - begin, "bad-tensor")
        out[name] = np.frombuffer(data[begin:end], kind).reshape(shape)
    for name, shape in shapes.items():
        need(
            len(shape) == out[name].ndim and all(n in (None, m) for n, m in zip(shape, out[name].shape, strict=True)),
            "wrong-shape",
        )
    for name in digests:
        need(name not in out or sha(out[name].tobytes()) == digests[name], "digest-mismatch")
    for name in (n for n in out if n.endswith("offsets")):
        at, of = out[name].tolist(), out[name[:-8] or "terms"]
        need(at[0] == 0 and at[-1] == len(of) and at == sorted(at), "bad-offsets")
    return out
