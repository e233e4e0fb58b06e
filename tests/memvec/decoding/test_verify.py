"""verify: any one changed byte is found and named, what is missing too, and intact stores pass."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest

import memvec
from memvec.errors import NotFoundError, StoreDamagedError
from memvec.formats.container import read_header
from memvec.formats.shard import FORMAT_NAME
from memvec.store.store import Store


def files_of(store: Path) -> list[Path]:
    return [store / "manifest.json", *sorted((store / "shards").iterdir())]


def test_an_intact_store_passes(packed: Path, documents: dict[str, bytes]) -> None:
    report = memvec.verify(packed, decode=True)
    assert report.ok and report.problems == ()
    assert report.documents == len(documents)
    assert report.decoded == report.records == memvec.info(packed).records


def test_any_changed_byte_is_found_and_its_file_named(store: Path) -> None:
    rng = random.Random(1)
    for file in files_of(store):
        good = file.read_bytes()
        places = {0, 7, 8, len(good) - 1, *(rng.randrange(len(good)) for _ in range(60))}
        for place in places:
            bad = bytearray(good)
            bad[place] ^= 1 << rng.randrange(8)
            file.write_bytes(bad)
            report = memvec.verify(store)
            assert not report.ok, (file.name, place)
            assert report.problems[0].location.startswith(file.relative_to(store).as_posix()[:40])
        file.write_bytes(good)
    assert memvec.verify(store).ok


def test_a_changed_tensor_is_named(store: Path) -> None:
    (file,) = (store / "shards").iterdir()
    good = file.read_bytes()
    entries, _ = read_header(good, FORMAT_NAME)
    start = 8 + int.from_bytes(good[:8], "little")
    for name, entry in entries.items():
        begin, end = entry["data_offsets"]
        if begin == end:  # a fit without corrections: there is no byte to change
            continue
        bad = bytearray(good)
        bad[start + begin] ^= 1
        file.write_bytes(bad)
        (problem,) = memvec.verify(store).problems
        assert problem.location.endswith(f"tensor {name!r}"), (name, problem)


@pytest.mark.parametrize(
    ("damage", "code"),
    [
        ("cut", "size-mismatch"),
        ("longer", "size-mismatch"),
        ("missing", "missing-file"),
        ("no-manifest", "missing-file"),
        ("swapped", "digest-mismatch"),
    ],
)
def test_whole_files_gone_wrong(store: Path, tiny: str, damage: str, code: str) -> None:
    manifest, shard = files_of(store)
    if damage == "cut":
        shard.write_bytes(shard.read_bytes()[:-10])
    elif damage == "longer":
        shard.write_bytes(shard.read_bytes() + b"\0")
    elif damage == "missing":
        shard.unlink()
    elif damage == "no-manifest":
        manifest.unlink()
    else:
        shard.write_bytes(bytes(len(shard.read_bytes())))
    report = memvec.verify(store)
    assert not report.ok and [problem.code for problem in report.problems] == [code]
    with pytest.raises(StoreDamagedError):
        memvec.cat(store, "prose.txt", model=tiny)
    with pytest.raises(StoreDamagedError):
        memvec.list(store)


def test_a_changed_column_is_an_error_of_its_place_wherever_it_is_read(store: Path, tiny: str) -> None:
    """Also one that says nothing of where records lie, and is first read when they are decoded or found."""
    (file,) = (store / "shards").iterdir()
    good = file.read_bytes()
    entries, _ = read_header(good, FORMAT_NAME)
    start = 8 + int.from_bytes(good[:8], "little")
    for name, read in (
        ("tokens", lambda: memvec.cat(store, "prose.txt", model=tiny)),
        ("reason", lambda: memvec.search(store, "a fortune", model=tiny)),
    ):
        bad = bytearray(good)
        bad[start + entries[name]["data_offsets"][0]] ^= 1
        file.write_bytes(bad)
        with pytest.raises(StoreDamagedError, match=f"tensor '{name}'"):
            read()


def test_damage_in_one_shard_does_not_hide_the_other(store: Path, tiny: str) -> None:
    memvec.pack([memvec.Source("more", b"x")], store, model=tiny)
    for file in files_of(store)[1:]:
        file.write_bytes(file.read_bytes()[:-1])
    assert len(memvec.verify(store).problems) == 2


def test_a_store_that_is_not_there(tmp_path: Path) -> None:
    for call in (memvec.verify, memvec.info, memvec.list):
        with pytest.raises(NotFoundError, match="no store"):
            call(tmp_path / "nothing")


def test_verify_needs_no_model(packed: Path) -> None:
    program = "import sys, memvec; r = memvec.verify(sys.argv[1]); print(r.ok, 'torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", program, packed], capture_output=True, text=True, check=True)
    assert out.stdout.split() == ["True", "False"]


def test_orphans_and_unfinished_writes_are_ignored(store: Path) -> None:
    (store / "shards" / ".tmp-abc").write_bytes(b"half")
    (store / "shards" / ("0" * 64 + ".safetensors")).write_bytes(b"orphan")
    assert memvec.verify(store).ok


def test_shards_of_another_store_do_not_count(store: Path) -> None:
    """A shard's fingerprint must be the manifest's, also when every digest is right."""
    import dataclasses

    from memvec.formats import manifest

    opened = Store.open(store)
    other = dataclasses.replace(opened.manifest.fingerprint, vocabulary="0" * 64)
    (store / "manifest.json").write_bytes(manifest.encode(dataclasses.replace(opened.manifest, fingerprint=other)))
    (problem,) = memvec.verify(store).problems
    assert "fingerprint" in problem.message
