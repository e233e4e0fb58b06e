"""Files of a store may be pipes, links or unreadable: some verbs refuse, others go on, and `repair` keeps the files."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from made import TEXT, content, exact, files, put, raw

import memvec
from memvec.cli.main import run
from memvec.errors import MemvecError, PartialError, ReadError, StoreDamagedError, WriteError
from memvec.formats import files as door
from memvec.store.lock import LOCK_NAME
from memvec.store.store import Store
from memvec.store.transaction import Transaction

FIRST, SECOND = b"\xff the first", b"\xff the second"


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A store of two shards of raw records, which need no model."""
    return put(tmp_path / "s", raw("first", FIRST), raw("second", SECOND)).path


def shard(store: Path) -> Path:
    """The file of the first shard."""
    return store / Store.open(store).manifest.shards[0].path


def device(path: Path) -> None:
    """A device, which only root may make."""
    try:
        os.mknod(path, 0o20666, os.makedev(1, 5))  # that of /dev/zero
    except OSError as error:
        pytest.skip(f"no device can be made here: {error}")


def linked(path: Path) -> None:
    """A link to a copy of the shard that was there."""
    path.symlink_to(path.parents[1] / "copy")


def sparse(path: Path) -> None:
    """A file that says it is 1 TiB."""
    with path.open("wb") as file:
        file.truncate(1 << 40)


THINGS: dict[str, Callable[[Path], object]] = {
    "pipe": os.mkfifo,
    "folder": Path.mkdir,
    "link": linked,
    "device": device,
    "sparse": sparse,
}


@pytest.mark.parametrize("thing", list(THINGS))
def test_no_regular_shard(thing: str, made: Path, tmp_path: Path) -> None:
    """A pipe, link or folder in place of a shard is one damaged file."""
    file = shard(made)
    shutil.copy(file, made / "copy")
    file.unlink()
    THINGS[thing](file)
    before = {path: os.lstat(path) for path in made.rglob("*")}
    location = file.relative_to(made).as_posix()
    assert [p.location for p in memvec.verify(made).problems] == [location]
    with pytest.raises(PartialError) as caught:
        memvec.unpack(made, tmp_path / "out", on_error="skip")
    assert [name for name, _ in caught.value.skipped] == [location]
    assert (tmp_path / "out" / "second").read_bytes() == SECOND
    assert memvec.repair(made).set_apart == (location,) and run(["repair", str(made), "-q"]) == 3
    assert {path: os.lstat(path) for path in made.rglob("*")} == before  # without yes nothing is touched
    report = memvec.repair(made, yes=True)
    assert report.repaired and report.shards == 1 and not report.unreadable
    assert os.path.lexists(made / "damaged" / file.name) and not os.path.lexists(file)
    assert memvec.verify(made).ok and memvec.cat(made, "second") == SECOND
    assert (made / "copy").read_bytes()  # what a link led to is where it was


@pytest.mark.parametrize("folder", ["shards", "keys", "damaged"])
def test_linked_folder(folder: str, made: Path, tmp_path: Path) -> None:
    """Files behind a linked folder are neither read nor moved."""
    put(made, exact("text", TEXT))
    (made / folder).mkdir(exist_ok=True)
    (made / folder).rename(tmp_path / "away")
    (made / folder).symlink_to(tmp_path / "away")
    there = {path: path.stat() for path in (tmp_path / "away").iterdir()}
    for yes in (False, True):
        with pytest.raises(StoreDamagedError, match=f"{folder}.* is a link; a store holds its files itself"):
            memvec.repair(made, yes=yes)
    if folder == "shards":
        with pytest.raises(PartialError) as caught:
            memvec.unpack(made, tmp_path / "out", on_error="skip")
        assert len(caught.value.skipped) == 3
        (tmp_path / "away" / f"{'0' * 64}.safetensors").write_bytes(b"of nobody")
        assert not [name for name in memvec.gc(made).files if name.startswith("shards")]
        with pytest.raises((WriteError, StoreDamagedError)):
            Transaction.open(made).commit(raw("more", FIRST))
    assert all(path.exists() for path in there)


class Unreadable:
    """Some files that the system does not read, for a reason."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.paths: dict[Path, int] = {}
        real: Callable[..., int] = os.open

        def refusing(path: Any, flags: int, *rest: Any, **options: Any) -> int:
            code = self.paths.get(Path(path)) if isinstance(path, str | Path) else None
            if code is not None and not flags & (os.O_WRONLY | os.O_RDWR):
                raise OSError(code, os.strerror(code), str(path))
            return real(path, flags, *rest, **options)

        monkeypatch.setattr(os, "open", refusing)


@pytest.fixture
def unreadable(monkeypatch: pytest.MonkeyPatch) -> dict[Path, int]:
    """What the system does not read: {path: errno}."""
    return Unreadable(monkeypatch).paths


@pytest.mark.parametrize("code", [errno.EIO, errno.EACCES])
class TestAShardThatCannotBeRead:
    def test_is_one_problem_among_good_files(
        self, code: int, made: Path, tmp_path: Path, unreadable: dict[Path, int]
    ) -> None:
        unreadable[shard(made)] = code
        (problem,) = memvec.verify(made).problems
        assert (problem.kind, problem.code) == ("unreadable", "unreadable") and os.strerror(code) in problem.message
        assert run(["verify", str(made), "-q"]) == 3
        assert run(["unpack", str(made), "-o", str(tmp_path / "out"), "--on-error", "skip", "-q"]) == 8
        assert files(tmp_path / "out") == {"second"}
        assert run(["repair", str(made), "-q"]) == 3

    def test_is_a_read_error_where_it_is_needed(self, code: int, made: Path, unreadable: dict[Path, int]) -> None:
        unreadable[shard(made)] = code
        with pytest.raises(ReadError, match=os.strerror(code)):
            memvec.cat(made, "first")
        assert run(["cat", str(made), "first"]) == 12

    def test_is_kept_by_repair_and_can_be_had_back(
        self, code: int, made: Path, tmp_path: Path, unreadable: dict[Path, int]
    ) -> None:
        before, file = content(made), shard(made)
        whole = file.read_bytes()
        unreadable[file] = unreadable[made / "damaged" / file.name] = code
        report = memvec.repair(made, yes=True)
        assert report.unreadable == report.set_apart == (f"shards/{file.name}",) and report.shards == 1
        unreadable.clear()
        assert memvec.verify(made).ok and memvec.cat(made, "second") == SECOND
        assert (made / "damaged" / file.name).read_bytes() == whole and not file.exists()
        (tmp_path / "new" / "shards").mkdir(parents=True)  # as the command says it
        shutil.copy(made / "damaged" / file.name, tmp_path / "new" / "shards")
        assert memvec.repair(tmp_path / "new", yes=True).shards == 1
        memvec.merge([tmp_path / "new"], made)
        assert content(made)["live"] == before["live"]

    def test_if_no_shard_can_be_read_nothing_is_moved(self, code: int, made: Path, unreadable: dict[Path, int]) -> None:
        there = files(made)
        for entry in Store.open(made).manifest.shards:
            unreadable[made / entry.path] = code
        with pytest.raises(ReadError, match="not one shard can be read"):
            memvec.repair(made, yes=True)
        assert files(made) == there

    def test_a_file_of_keys(self, code: int, made: Path, unreadable: dict[Path, int]) -> None:
        put(made, exact("text", TEXT))
        keys = Store.open(made).manifest.keys[0]
        unreadable[made / keys.path] = code
        assert [(p.location, p.code) for p in memvec.verify(made).problems] == [(keys.path, "unreadable")]
        assert memvec.repair(made).keys_dropped == (keys.embedder,)


def test_no_handles(made: Path, tmp_path: Path, unreadable: dict[Path, int]) -> None:
    """A process without free file handles reports no file as damaged."""
    file = shard(made)
    unreadable[file] = errno.EMFILE
    for verb in (
        lambda: memvec.verify(made),
        lambda: memvec.unpack(made, tmp_path / "out", on_error="skip"),
        lambda: memvec.repair(made, yes=True),
    ):
        with pytest.raises(ReadError, match="Too many open files"):
            verb()
    assert file.exists() and not (made / "damaged").exists()


class TestTheManifest:
    def test_that_may_not_be_read_is_not_made_again(self, made: Path, unreadable: dict[Path, int]) -> None:
        unreadable[made / "manifest.json"] = errno.EACCES
        for verb in (memvec.verify, memvec.list, memvec.repair, lambda store: memvec.repair(store, yes=True)):
            with pytest.raises(ReadError, match=r"manifest\.json.*Permission denied"):
                verb(made)
        assert files(made) >= {"manifest.json"} and not (made / "damaged").exists()

    def test_that_a_disk_lost_is_made_again_and_kept(self, made: Path, unreadable: dict[Path, int]) -> None:
        unreadable[made / "manifest.json"] = errno.EIO
        before = (made / "manifest.json").stat().st_ino
        unreadable[made / "damaged" / "manifest.json"] = errno.EIO
        manifest = made / "manifest.json"
        assert memvec.repair(made).manifest_rebuilt and manifest.stat().st_ino == before
        report = memvec.repair(made, yes=True)
        assert report.manifest_rebuilt and report.unreadable == ("manifest.json",)
        unreadable.clear()
        assert (made / "damaged" / "manifest.json").stat().st_ino == before
        assert memvec.verify(made).ok and memvec.cat(made, "first") == FIRST

    @pytest.mark.parametrize("thing", ["pipe", "folder", "device"])
    def test_that_is_no_file(self, thing: str, made: Path) -> None:
        (made / "manifest.json").unlink()
        THINGS[thing](made / "manifest.json")
        assert [p.code for p in memvec.verify(made).problems] == ["not-a-file"]
        for verb in (memvec.list, memvec.compact, lambda store: memvec.rm(store, ["first"])):
            with pytest.raises(StoreDamagedError):
                verb(made)
        assert memvec.repair(made, yes=True).manifest_rebuilt
        assert memvec.verify(made).ok and os.path.lexists(made / "damaged" / "manifest.json")


@pytest.mark.parametrize("thing", ["pipe", "folder", "link", "device"])
def test_linked_lock(thing: str, made: Path, tmp_path: Path) -> None:
    """A linked lock is refused: the next writer would empty the file behind the link."""
    (made / LOCK_NAME).unlink()
    (tmp_path / "precious").write_bytes(b"content")
    if thing == "link":
        (made / LOCK_NAME).symlink_to(tmp_path / "precious")
    else:
        THINGS[thing](made / LOCK_NAME)
    with pytest.raises(MemvecError, match="LOCK"):
        memvec.compact(made)
    assert (tmp_path / "precious").read_bytes() == b"content"
    assert memvec.list(made)


def test_store_is_a_file(tmp_path: Path) -> None:
    """A file in place of a store is refused."""
    (tmp_path / "s").write_bytes(b"no store")
    for words in (["list"], ["verify"], ["repair"], ["unpack", "-o", str(tmp_path / "out")]):
        assert run([words[0], str(tmp_path / "s"), *words[1:]]) == 6


def test_shard_lost_while_read(made: Path) -> None:
    """A salvaged store reads a large shard twice. The shard may be gone at the second time."""
    from memvec.maintenance.salvage import open_salvaged

    opened = open_salvaged(made)
    ref = opened.documents()["first"].records[0]
    shard(made).unlink()
    opened._load.cache_clear(), opened._open_reader.cache_clear()
    with pytest.raises(StoreDamagedError):
        opened.record(ref)


def test_few_handles(made: Path, tmp_path: Path) -> None:
    """No shard is kept open: 40 shards are read with handles for 8."""
    resource = pytest.importorskip("resource")
    put(made, *(raw(f"more-{number}", FIRST + bytes([number])) for number in range(40)))
    used = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 100
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 8, before[1]))
    try:
        assert memvec.verify(made).ok and len(memvec.list(made)) == 42
        assert memvec.unpack(made, tmp_path / "out").documents == 42
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_linked_store(made: Path, tmp_path: Path) -> None:
    """The store itself may be a link."""
    (tmp_path / "way").symlink_to(made)
    assert memvec.verify(tmp_path / "way").ok and memvec.cat(tmp_path / "way", "first") == FIRST
    assert door.size_of(tmp_path / "way", "manifest.json") > 0
