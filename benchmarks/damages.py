"""Ways to damage a store, for benchmarks/damage.py. Each takes its files and the name of one, and returns a description."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from memvec.formats import manifest

Files = Mapping[str, bytes]
Changes = dict[str, bytes | None]  # None: the file is gone
Sort = Callable[[random.Random, Files, str], Changes]


def flip(chance: random.Random, files: Files, name: str) -> Changes:
    """Flip one bit."""
    return {name: _flipped(chance, files[name], 1)}


def flips(chance: random.Random, files: Files, name: str) -> Changes:
    """Flip 2 to 64 bits."""
    return {name: _flipped(chance, files[name], chance.randint(2, 64))}


def blank(chance: random.Random, files: Files, name: str) -> Changes:
    """Set a range to zeros, as after a lost block."""
    begin, end = _range(chance, files[name])
    return {name: files[name][:begin] + bytes(end - begin) + files[name][end:]}


def cut(chance: random.Random, files: Files, name: str) -> Changes:
    """Remove the end."""
    return {name: files[name][: chance.randrange(len(files[name]))]}


def longer(chance: random.Random, files: Files, name: str) -> Changes:
    """Append noise, zeros, or the file once more."""
    size = chance.randint(1, 64)
    return {name: files[name] + chance.choice([chance.randbytes(size), bytes(size), files[name]])}


def swap(chance: random.Random, files: Files, name: str) -> Changes:
    """Exchange two ranges of one length."""
    data = files[name]
    size = chance.randint(1, max(1, len(data) // 4))
    first, second = sorted((chance.randint(0, len(data) - size), chance.randint(0, len(data) - size)))
    if second < first + size:
        return {}
    parts = (data[:first], data[second : second + size], data[first + size : second], data[first : first + size])
    return {name: b"".join(parts) + data[second + size :]}


def patch(chance: random.Random, files: Files, name: str) -> Changes:
    """Copy a range of another file into this one."""
    source = files[chance.choice(sorted(files))]
    begin, end = _range(chance, source)
    at = chance.randint(0, len(files[name]))
    return {name: files[name][:at] + source[begin:end] + files[name][at + end - begin :]}


def exchange(chance: random.Random, files: Files, name: str) -> Changes:
    """Exchange two files."""
    other = chance.choice(sorted(files))
    return {name: files[other], other: files[name]}


def overwrite(chance: random.Random, files: Files, name: str) -> Changes:
    """Replace the file by a copy of another."""
    return {name: files[chance.choice(sorted(files))]}


def copy(chance: random.Random, files: Files, name: str) -> Changes:
    """Add a copy under another name, which no reader uses."""
    stem, dot, ending = name.rpartition(".")
    other = chance.choice(
        [f"{stem} (1){dot}{ending}", f"{name}~", f"{name[:-20]}{chance.randbytes(10).hex()}{dot}{ending}"]
    )
    return {other: files[name]}


def lose(chance: random.Random, files: Files, name: str) -> Changes:
    """Remove the file."""
    return {name: None}


def reseal(chance: random.Random, files: Files, name: str) -> Changes:
    """Flip bits of a shard or of keys, and make its name and the manifest fit."""
    if not name.endswith(".safetensors"):
        return {}
    data = _flipped(chance, files[name], chance.choice([1, 1, 1, 8]))
    digest, folder = hashlib.sha256(data).hexdigest(), name.partition("/")[0]
    state = manifest.decode(files[manifest.FILE_NAME])
    old = Path(name).stem
    state = replace(
        state,
        shards=tuple(replace(entry, sha256=digest) if entry.sha256 == old else entry for entry in state.shards),
        keys=tuple(replace(entry, sha256=digest) if entry.sha256 == old else entry for entry in state.keys),
    )
    return {name: None, f"{folder}/{digest}.safetensors": data, manifest.FILE_NAME: manifest.encode(state)}


SORTS: tuple[Sort, ...] = (flip, flips, blank, cut, longer, swap, patch, exchange, overwrite, copy, lose, reseal)


WEIGHTS = {"shards": 8, "manifest.json": 4, "keys": 4, "LOCK": 1}  # how often files of each kind are damaged


HARMLESS = ("copy", "reseal")  # sorts that verify need not notice


def _flipped(chance: random.Random, data: bytes, bits: int) -> bytes:
    changed = bytearray(data)
    for _ in range(bits if data else 0):
        changed[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def _range(chance: random.Random, data: bytes) -> tuple[int, int]:
    begin = chance.randint(0, len(data))
    return begin, min(len(data), begin + chance.choice([1, 16, 512, len(data)]))
