"""One byte changed and every digest made right again: both readers accept it, or refuse it for one reason."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest
import second_reader
from second_bytes import Refused
from vectors.building import canonical, sha

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


def first(store: Path) -> str | None:
    try:
        problems = verify(store).problems
    except FormatTooNewError as error:
        return error.code
    return problems[0].code if problems else None


def second(store: Path) -> str | None:
    try:
        second_reader.read(store)
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
        store = Path(shutil.copytree(CORPUS / name / "store.memvec", tmp_path / "store"))
        damage(store, part, chance)
        code = first(store)
        assert code == second(store), number
        found.add(code)
        shutil.rmtree(store)
    assert len(found) > 4, found
