"""Hostile stores that no corpus of small files can hold: links, large files and bombs. Refused with a code, in little memory."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import second_reader
from second_bytes import Refused
from vectors.building import Files, Part, canonical, container, document, record, sha, shard, store
from vectors.building_kv import keys_values
from vectors.reading import refusals

from memvec.cli.main import run
from memvec.formats import raw
from memvec.store.store import Store

ROOT = Path(__file__).parents[2]
CORPUS = ROOT / "tests" / "vectors" / "v1"
MEBIBYTE = 1 << 20
DATA = b"\xff\x00"
GOOD = shard([document("a", DATA)], [record(0, 0, DATA)])


def write(path: Path, files: Files) -> Path:
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def linked(path: Path, part: str) -> None:
    """A store of which a part lies elsewhere, whole."""
    write(path, store(GOOD))
    shutil.move(path / part, path.parent / f"elsewhere of {path.name}")
    (path / part).symlink_to(path.parent / f"elsewhere of {path.name}")


def shard_of(path: Path) -> Path:
    return path / "shards" / f"{sha(GOOD.data)}.safetensors"


def no_file(path: Path) -> None:
    write(path, store(GOOD))
    shard_of(path).unlink()
    os.mkfifo(shard_of(path))


def sparse(path: Path) -> None:
    write(path, store(GOOD))
    os.truncate(shard_of(path), 10_000_000_000)


def sparse_manifest(path: Path) -> None:
    write(path, store(GOOD))
    os.truncate(path / "manifest.json", 10_000_000_000)


def manifest(text: Callable[[], bytes]) -> Callable[[Path], object]:
    return lambda path: write(path, {"manifest.json": text()})


def one(part: Callable[[], Part]) -> Callable[[Path], object]:
    return lambda path: write(path, store(part()))


def long_header() -> Part:
    size = 100 * MEBIBYTE
    return Part(size.to_bytes(8, "little") + b"{" + b" " * (size - 1), GOOD.entry)


def busy_header() -> Part:
    """Just within the limit, of as many values as fit."""
    text = b"{" + b",".join(b'"%x":{}' % i for i in range(90_000)) + b"}"
    return Part(len(text).to_bytes(8, "little") + text, GOOD.entry)


def table(content: bytes, documents: int = 1) -> Callable[[Path], object]:
    packed = raw.compress(content)
    return one(
        lambda: shard(
            [document("a", DATA)],
            [record(0, 0, DATA)],
            tensors=lambda t: t | {"documents": ("U8", [len(packed)], packed)},
            metadata=lambda said: said | {"documents": documents},
        )
    )


def kept(kv: Callable[[], dict[str, Any]]) -> Callable[[Path], object]:
    """A record of keys and values whose digest is right."""
    return lambda path: write(path, store(shard([document("a", DATA)], [record(0, 3, DATA, kv=kv())]), required=["kv"]))


ONES = [[1] * 1024] * 1024  # rows of each head
LINES = b"".join(canonical(document(f"{i:06}", DATA)) + b"\n" for i in range(40_000))
BOMB = raw.compress(bytes(16 * MEBIBYTE))
CASES: dict[str, tuple[str, Callable[[Path], object]]] = {
    "shard-a-link": ("symlink", lambda path: linked(path, shard_of(Path()).as_posix())),
    "shards-a-link": ("symlink", lambda path: linked(path, "shards")),
    "manifest-a-link": ("symlink", lambda path: linked(path, "manifest.json")),
    "shard-a-pipe": ("not-a-file", no_file),
    "shard-of-10-gb": ("size-mismatch", sparse),
    "manifest-of-10-gb": ("file-too-large", sparse_manifest),
    "header-of-100-mb": ("header-too-long", one(long_header)),
    "header-of-90000-objects": ("bad-metadata", one(busy_header)),
    "manifest-of-lists": ("too-many-values", manifest(lambda: b"[" + b"[]," * (20 * MEBIBYTE) + b"[]]\n")),
    "manifest-of-brackets": ("too-many-values", manifest(lambda: b"[" * (60 * MEBIBYTE) + b"\n")),
    "manifest-of-fewer-brackets": ("nested-too-deeply", manifest(lambda: b"[" * (4 * MEBIBYTE) + b"\n")),
    "manifest-one-integer": ("integer-too-large", manifest(lambda: b"9" * (30 * MEBIBYTE) + b"\n")),
    "manifest-one-text": ("bad-field", manifest(lambda: b'"' + b"x" * (30 * MEBIBYTE) + b'"\n')),
    "table-of-16-mib-of-line-ends": ("not-json", table(b"\n" * (16 * MEBIBYTE))),
    "table-of-16-mib-in-a-line": ("out-of-range", table(b"x" * (16 * MEBIBYTE - 1) + b"\n")),
    "table-of-40000-documents": ("wrong-count", table(LINES)),
    "raw-of-16-mib": ("wrong-text", one(lambda: shard([document("a", DATA)], [record(0, 0, DATA, payload=BOMB)]))),
    "a-million-records-said": (
        "wrong-shape",
        one(lambda: Part(shard([], [], metadata=lambda said: said | {"records": MEBIBYTE}).data, GOOD.entry)),
    ),
    "too-many-vectors": (
        "out-of-range",
        one(lambda: shard([document("a", DATA)], [record(0, 1, DATA, vectors=65_537)])),
    ),
    "kv-of-a-million-full-heads": ("bad-kv", kept(lambda: keys_values(8, ONES, counts=b"\xff" * (4 * MEBIBYTE)))),
    "kv-of-a-million-runs-said": ("bad-kv", kept(lambda: keys_values(8, ONES, key_scales=b"", value_scales=b""))),
    "no-shard-at-all": ("bad-metadata", one(lambda: Part(container({}, b"{}", lambda _: b"{}"), GOOD.entry))),
}


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile")
    for name, (_, make) in CASES.items():
        make(folder / name)
    return folder


@pytest.mark.parametrize("name", CASES)
def test_hostile_stores_are_refused_with_their_code(name: str, hostile: Path) -> None:
    assert refusals(hostile / name) == {CASES[name][0]}


@pytest.mark.parametrize("name", [name for name in CASES if "-a-" in name or name == "too-many-vectors"])
def test_the_second_reader_agrees(name: str, hostile: Path) -> None:
    with pytest.raises(Refused, match=CASES[name][0]):
        second_reader.read(hostile / name)


PROGRAM = """
import json, sys
from pathlib import Path
from vectors.building_kv import keys_values
from vectors.reading import refusals

def mebibytes(name):
    (line,) = [line for line in open("/proc/self/status") if line.startswith(name)]
    return int(line.split()[1]) / 1024

refusals(Path(sys.argv[1]))
base = mebibytes("VmRSS")
for name in sys.argv[2:]:
    refusals(Path(name))
    print(name, round(mebibytes("VmHWM") - base))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="asks Linux for the most memory in use")
def test_refusing_takes_little_memory(hostile: Path) -> None:
    """In a process of its own. VmHWM and not getrusage: that one counts what the parent held before the child began."""
    small = [str(store) for store in (CORPUS / "refused").glob("*/store.memvec")]
    large = [str(hostile / name) for name in CASES]
    paths = [str(ROOT / "tests"), str(ROOT)]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(CORPUS / "accepted" / "one-raw" / "store.memvec"), *small, *large],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    peaks = [(int(line.rsplit(" ", 1)[1]), line) for line in done.stdout.splitlines()]
    assert len(peaks) == len(small) + len(large)
    assert peaks[len(small) - 1][0] < 60, "the corpus alone"
    assert peaks[-1][0] < 200, next(line for peak, line in peaks if peak >= 200)


def test_control_characters_in_names_reach_no_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Such names are legal; what shows them escapes them."""
    packed = CORPUS / "accepted" / "names" / "store.memvec"
    (name,) = [name for name in Store.open(packed).documents() if "\x1b" in name]
    for arguments in (["list", packed], ["show", packed, name], ["verify", packed], ["info", packed]):
        assert run([str(argument) for argument in arguments]) == 0
    shown = "".join(capsys.readouterr())
    assert "x1b" in shown and not set(map(chr, [*range(32), *range(127, 160)])) & set(shown) - {"\n"}


def test_a_name_with_control_characters_is_unpacked_as_it_is(tmp_path: Path) -> None:
    import memvec

    memvec.unpack(CORPUS / "accepted" / "names" / "store.memvec", tmp_path / "out", documents=["a*"])
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["a\nb\x1b[31m\x7f\x9b"]


def test_a_store_behind_a_link_is_read(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(write(tmp_path / "store", store(GOOD)))
    assert refusals(tmp_path / "link") == set()


@pytest.mark.parametrize("kind", [0, 3])
def test_offsets_of_every_kind_stay_within(kind: int, tmp_path: Path) -> None:
    """Random offsets in the header of a shard whose digest is right: always a code, never another error."""
    chance = np.random.default_rng(1)
    good = shard([document("a", DATA)], [record(0, kind, DATA)]).data
    names = [name for name in json.loads(good[8 : 8 + int.from_bytes(good[:8], "little")]) if name[0] != "_"]
    for number in range(100):

        def change(entries: dict, number: int = number) -> dict:
            name = names[number % len(names)]
            offsets = chance.integers(-1, 400, 2).tolist()
            return entries | {name: entries[name] | {"data_offsets": offsets}}

        part = shard([document("a", DATA)], [record(0, kind, DATA)], header=change)
        path = write(tmp_path / str(number), store(part, required=["kv"]))
        assert refusals(path) - {"malformed"} == refusals(path) != set()
