"""One byte changed and every digest made right again: both readers accept it, or refuse it for one reason."""

from __future__ import annotations

import json
import random
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import second_reader
from second_bytes import Refused
from vectors.building import canonical, document, record, sha, shard, store
from vectors.building_kv import NAMES, keys_values
from vectors.reading import reading

from memvec.decoding.verify import verify
from memvec.errors import FormatTooNewError

CORPUS = Path(__file__).parents[1] / "vectors" / "v1" / "accepted"
TELLING = b'0123456789"[]{},:-e'  # of JSON; other bytes are seldom more than no JSON


def changed(data: bytes, chance: random.Random) -> bytes:
    """One byte of `data`, half of the time of its first 4 KiB, turned, taken out or put in."""
    at = chance.randrange(len(data) if chance.random() < 0.5 else min(len(data), 4096))
    new = bytes([chance.choice([chance.randrange(256), *TELLING])])
    before, after = data[:at], data[at + 1 :]
    return chance.choice([before + new + after] * 6 + [before + after, before + new + data[at:]])


def damage(store: Path, part: str, chance: random.Random) -> None:
    """Change one byte of a part of a store behind the back of every digest."""
    body = json.loads((store / "manifest.json").read_bytes())["manifest"]
    text = canonical(body)
    if part == "manifest":
        text = changed(text, chance)
    else:
        entry = chance.choice(body[part])
        file = store / part / f"{entry['sha256']}.safetensors"
        data = changed(file.read_bytes(), chance)
        entry |= {"sha256": sha(data), "bytes": len(data)}
        file.with_name(f"{sha(data)}.safetensors").write_bytes(data)
        text = canonical(body)
    (store / "manifest.json").write_bytes(b'{"manifest":' + text + b',"sha256":"' + sha(text).encode() + b'"}\n')


def first(path: Path) -> str | None:
    try:
        problems = verify(path).problems
    except FormatTooNewError as error:
        return error.code
    return problems[0].code if problems else None


def second(path: Path) -> str | None:
    try:
        second_reader.read(path)
    except Refused as error:
        return str(error)
    return None


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("context", "manifest"),
        ("removed", "manifest"),
        ("keys", "manifest"),
        ("keys", "keys"),
        ("one-raw", "shards"),
        ("context", "shards"),
        ("many-vectors", "shards"),
        ("kv", "manifest"),
        ("kv", "shards"),
        ("kv-of-a-newer-version", "shards"),
    ],
)
def test_both_readers_judge_damage_alike(name: str, part: str, tmp_path: Path) -> None:
    chance = random.Random(f"{name} {part}")
    found = set()
    for number in range(60):
        path = Path(shutil.copytree(CORPUS / name / "store.memvec", tmp_path / "store"))
        damage(path, part, chance)
        code = first(path)
        assert code == second(path), number
        found.add(code)
        shutil.rmtree(path)
    assert len(found) > 4, found


def odd(chance: random.Random) -> dict[str, Any]:
    """The parts of a kv record, one of them changed by a byte or a few."""
    bits = chance.choice([4, 8, 16])
    kv = keys_values(bits, chance.choice([[[2, 0], [1, 1]], [[0, 66], [1, 0]]]), 6)
    name = chance.choice([*NAMES, "counts", "distances", "positions", "bits"])
    if name in ("positions", "bits"):
        return kv | {name: chance.choice([0, 1, 4, 8, 12, 16, 255])}
    at, data = chance.randrange(len(kv[name]) or 1), kv[name]
    each = {"counts": 8, "distances": 4, "key_scales": 24, "value_scales": 4}.get(name, 1)  # bytes of a row
    longer, shorter = data + bytes(each), data[each:]
    flipped = data[:at] + bytes([chance.choice([0, 1, 0x7C, 0x7E, 0xFF])]) + data[at + 1 :]
    return kv | {name: chance.choice([longer, shorter, *[flipped] * 6]) if data else longer}


def test_both_readers_judge_keys_and_values_alike(tmp_path: Path) -> None:
    """The record's own digest is right: nothing but the rules of its arrays tells a bad record."""
    chance = random.Random(5)
    found: Counter[str | None] = Counter()
    for number in range(300):
        made = shard([document("a", b"some text")], [record(0, 3, b"some text", kv=odd(chance))])
        for name, data in store(made, required=["kv"]).items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(data)
        code = first(tmp_path)
        assert code == second(tmp_path), number
        assert code or reading(tmp_path)["records"] == second_reader.read(tmp_path)["records"], number
        found[code] += 1
        shutil.rmtree(tmp_path / "shards")
    assert set(found) == {None, "bad-kv", "out-of-range", "not-finite"}, found
    assert min(found.values()) >= 3, found
