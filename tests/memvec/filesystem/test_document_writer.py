"""Files that unpack writes: on disk at its end, after a kill, on a full disk, and on file systems that fold names."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from made import files, put, raw

import memvec
from memvec.cli.main import run
from memvec.errors import PartialError, UsageError, WriteError
from memvec.filesystem import document_writer
from memvec.filesystem.collisions import file_names

COUNT = 30


def data(number: int) -> bytes:
    """The bytes of a document."""
    return b"\xff" + str(number).encode() * 9


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """A store of small raw documents in three folders."""
    return put(tmp_path / "s", *[[r for n in range(COUNT) for r in raw(f"d{n % 3}/{n:02}", data(n))]]).path


def named(tmp_path: Path, *names: str) -> Path:
    """A store of documents of these names, each with bytes of its own."""
    return put(tmp_path / "s", [r for n, name in enumerate(names) for r in raw(name, data(n))]).path


class TestOnDisk:
    """Documents are on disk when unpack returns."""

    def test_flush_order(self, many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Every file is flushed before it gets its name, and each folder once."""
        done: list[tuple[str, int]] = []
        fsync, replace = os.fsync, os.replace

        def noted(handle: int) -> None:
            fsync(handle)
            done.append(("fsync", os.fstat(handle).st_ino))

        def renamed(source: Path, target: Path) -> None:
            done.append(("rename", os.stat(source).st_ino))
            replace(source, target)

        monkeypatch.setattr(os, "fsync", noted)
        monkeypatch.setattr(os, "replace", renamed)
        report = memvec.unpack(many, tmp_path / "out")
        assert report.documents == COUNT == len(report.files)
        for n in range(COUNT):
            file = tmp_path / "out" / f"d{n % 3}" / f"{n:02}"
            assert file.read_bytes() == data(n)
            own = [what for what, inode in done if inode == file.stat().st_ino]
            assert own == ["fsync", "rename"]
        last = max(place for place, (what, _) in enumerate(done) if what == "rename")
        folders = [tmp_path, tmp_path / "out", *(tmp_path / "out" / f"d{n}" for n in range(3))]
        assert sorted(inode for _, inode in done[last + 1 :]) == sorted(folder.stat().st_ino for folder in folders)
        assert len(done) == 2 * COUNT + len(folders)
        assert not [name for name in os.listdir(tmp_path / "out") if name.startswith(".tmp-")]

    @pytest.mark.parametrize("call", ["fsync", "replace"])
    def test_kill(self, call: str, many: Path, tmp_path: Path) -> None:
        """A kill leaves whole files only."""
        program = (
            "import os, sys, memvec, memvec.filesystem.document_writer as w; w.FILES_AT_ONCE = 7\n"
            f"real, left = os.{call}, int(sys.argv[3])\n"
            "def killing(*a, **k):\n"
            "    global left; left -= 1\n"
            "    if left < 0: os.kill(os.getpid(), 9)\n"
            "    return real(*a, **k)\n"
            f"os.{call} = killing; memvec.unpack(sys.argv[1], sys.argv[2])\n"
        )
        out = tmp_path / "out"
        done = subprocess.run([sys.executable, "-c", program, many, out, "17"], check=False)
        assert done.returncode == -signal.SIGKILL
        there = [name for name in files(out) if not name.startswith(".tmp-")]
        assert 7 <= len(there) < COUNT
        for name in there:
            assert (out / name).read_bytes() == data(int(name[-2:]))
        assert memvec.unpack(many, out, overwrite=True).documents == COUNT

    def test_error(self, many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Documents that were verified before an error are kept."""
        from memvec.decoding import unpack as unpacking

        real: Callable[..., Any] = unpacking._restore

        def stopping(*arguments: Any) -> Any:
            for number, found in enumerate(real(*arguments)):
                if number == 5:
                    raise KeyboardInterrupt
                yield found

        monkeypatch.setattr(unpacking, "_restore", stopping)
        with pytest.raises(KeyboardInterrupt):
            memvec.unpack(many, tmp_path / "out")
        assert len(files(tmp_path / "out")) == 5

    def test_changed_on_disk(self, many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A document that another program changes is found when it is read back."""
        real = document_writer.DocumentWriter._sync

        def sync(self: Any) -> None:
            real(self)
            (tmp_path / "out" / "d0" / "00").write_bytes(b"\xff" + b"1" * (len(data(0)) - 1))
            (tmp_path / "out" / "d1" / "01").unlink()
            (tmp_path / "out" / "d2" / "02").unlink()
            (tmp_path / "out" / "d2" / "02").symlink_to("05")

        monkeypatch.setattr(document_writer.DocumentWriter, "_sync", sync)
        with pytest.raises(PartialError) as caught:
            memvec.unpack(many, tmp_path / "out")
        assert [name for name, _ in caught.value.skipped] == ["d0/00", "d1/01", "d2/02"]
        assert caught.value.report is not None and caught.value.report.documents == COUNT - 3


class TestRefusals:
    """The system or memvec refuses an output."""

    @pytest.mark.parametrize("call", ["fsync", "open", "replace"])
    @pytest.mark.parametrize("on_error", ["fail", "skip"])
    def test_full_disk(
        self, on_error: Any, call: str, many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A full disk is an error, also with on_error='skip'."""
        real: Callable[..., Any] = getattr(os, call)
        calls = iter(range(1000))

        def full(*arguments: Any, **options: Any) -> Any:
            ours = call != "open" or (".tmp-" in str(arguments[0]) and arguments[1] & os.O_CREAT)
            if ours and next(calls) >= 9:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(*arguments, **options)

        monkeypatch.setattr(os, call, full)
        with pytest.raises(WriteError, match="No space left"):
            memvec.unpack(many, tmp_path / "out", on_error=on_error)
        monkeypatch.undo()
        for name in files(tmp_path / "out"):
            assert (tmp_path / "out" / name).read_bytes() == data(int(name[-2:]))

    @pytest.mark.parametrize("code", [errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ, errno.EACCES])
    def test_refused_name(self, code: int, many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        real: Callable[..., Any] = os.replace

        def refusing(source: Path, target: Path) -> None:
            if str(target).endswith("07"):
                raise OSError(code, os.strerror(code))
            real(source, target)

        monkeypatch.setattr(os, "replace", refusing)
        with pytest.raises(WriteError, match=os.strerror(code)):
            memvec.unpack(many, tmp_path / "out")
        assert len(files(tmp_path / "out")) == COUNT - 1
        with pytest.raises(PartialError) as caught:
            memvec.unpack(many, tmp_path / "out", on_error="skip", overwrite=True)
        ((name, why),) = caught.value.skipped
        assert name == "d1/07" and os.strerror(code) in why and len(files(tmp_path / "out")) == COUNT - 1

    def test_long_path(self, tmp_path: Path) -> None:
        store = named(tmp_path, "/".join([*["d" * 200] * 20, "e" * 70]), "short")
        out = tmp_path / "out"
        assert run(["unpack", str(store), "-o", str(out), "-q"]) == 10
        assert run(["unpack", str(store), "-o", str(out), "-q", "--on-error", "skip", "--overwrite"]) == 8
        assert files(out) == {"short"}

    def test_pipe(self, many: Path, tmp_path: Path) -> None:
        """A pipe in the output folder does not block: only manifests are looked for."""
        (tmp_path / "out").mkdir()
        os.mkfifo(tmp_path / "out" / "manifest.json")
        assert memvec.unpack(many, tmp_path / "out").documents == COUNT

    def test_output_is_a_file(self, many: Path, tmp_path: Path) -> None:
        (tmp_path / "out").write_bytes(b"mine")
        for output in (tmp_path / "out", tmp_path / "out" / "below"):
            with pytest.raises(UsageError, match="is a file"):
                memvec.unpack(many, output)

    def test_output_in_a_store(self, many: Path, tmp_path: Path) -> None:
        other = put(tmp_path / "other", raw("x", data(1))).path
        before = files(many) | files(other)
        for output in (many, many / "shards", many / "new" / "er", other):
            with pytest.raises(UsageError, match="in the store"):
                memvec.unpack(many, output, overwrite=True)
        own = put(tmp_path / "own", raw("own/manifest.json", data(1))).path
        manifest = (own / "manifest.json").read_bytes()
        with pytest.raises(UsageError, match="into the store"):
            memvec.unpack(own, tmp_path, overwrite=True)
        assert (own / "manifest.json").read_bytes() == manifest and files(many) | files(other) == before


def folding(monkeypatch: pytest.MonkeyPatch, below: Path, fold: Callable[[str], str]) -> None:
    """Take names `below` a folder for those that `fold` makes of them."""

    def folded(path: Any) -> Any:
        text = os.fspath(path) if isinstance(path, str | os.PathLike) else path
        inside = isinstance(text, str) and text.startswith(f"{below}/")
        return f"{below}/{fold(text[len(str(below)) + 1 :])}" if inside else path

    for name, paths in {"open": 1, "stat": 1, "lstat": 1, "mkdir": 1, "replace": 2, "rename": 2, "unlink": 1}.items():
        real: Callable[..., Any] = getattr(os, name)

        def call(*arguments: Any, real: Any = real, paths: int = paths, **options: Any) -> Any:
            return real(*map(folded, arguments[:paths]), *arguments[paths:], **options)

        monkeypatch.setattr(os, name, call)


FOLDS: dict[str, tuple[Callable[[str], str], tuple[str, ...]]] = {
    "case": (str.lower, ("README", "readme", "sub/Notes.txt", "sub/notes.txt", "Readme")),
    "composed": (lambda n: unicodedata.normalize("NFC", n), ("caf\u00e9", "cafe\u0301")),
    "dots": (lambda n: "/".join(part.rstrip(". ") for part in n.split("/")), ("a", "a.")),
    "folder": (str.lower, ("A", "a/b")),
}


def found(path: Path) -> bytes:
    """The bytes of a file, opened through `folding`."""
    handle = os.open(path, os.O_RDONLY)
    try:
        return os.read(handle, 1000)
    finally:
        os.close(handle)


class TestCollisions:
    """Names that are one file on the file system."""

    @pytest.mark.parametrize("kind", list(FOLDS))
    def test_refused_first(self, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        fold, names = FOLDS[kind]
        store = named(tmp_path, *names)
        (tmp_path / "folds").mkdir()
        with monkeypatch.context() as patched:
            folding(patched, tmp_path / "folds", fold)
            with pytest.raises(UsageError, match=r"are one file on the file system.*rename_collisions=True"):
                memvec.unpack(store, tmp_path / "folds" / "out")
            assert not os.listdir(tmp_path / "folds")

    @pytest.mark.parametrize("kind", list(FOLDS))
    def test_renamed(self, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        fold, names = FOLDS[kind]
        store = named(tmp_path, *names)
        (tmp_path / "folds").mkdir()
        with monkeypatch.context() as patched:
            folding(patched, tmp_path / "folds", fold)
            report = memvec.unpack(store, tmp_path / "folds", rename_collisions=True)
            assert report.documents == len(names) and report.renamed
            assert all("~" in file and name in names for name, file in report.renamed.items())
            for number, name in enumerate(names):
                assert found(tmp_path / "folds" / report.renamed.get(name, name)) == data(number)
        assert len(files(tmp_path / "folds")) == len(names)

    @pytest.mark.parametrize("kind", list(FOLDS))
    def test_no_collision(self, kind: str, tmp_path: Path) -> None:
        _, names = FOLDS[kind]
        for rename in (False, True):
            out = tmp_path / f"out-{rename}"
            report = memvec.unpack(named(tmp_path, *names), out, rename_collisions=rename)
            assert files(out) == set(names) and not report.renamed

    def test_unforeseen(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        store = named(tmp_path, "long-name-1", "long-name-2")
        (tmp_path / "folds").mkdir()
        with monkeypatch.context() as patched:
            folding(patched, tmp_path / "folds", lambda name: name.replace("name-2", "name-1"))
            with pytest.raises(PartialError, match="another document's name may lead to the same file") as caught:
                memvec.unpack(store, tmp_path / "folds")
        assert [name for name, _ in caught.value.skipped] == ["long-name-1"]

    def test_new_name(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        folding(monkeypatch, tmp_path, str.lower)
        chosen = file_names(tmp_path, ["a.txt", "A.txt", "a~2.txt", "b"], rename=True)
        assert chosen == {"A.txt": "A.txt", "a.txt": "a~3.txt", "a~2.txt": "a~2.txt", "b": "b"}

    def test_cli(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
        store = named(tmp_path, "README", "readme")
        (tmp_path / "folds").mkdir()
        folding(monkeypatch, tmp_path / "folds", str.lower)
        assert run(["unpack", str(store), "-o", str(tmp_path / "folds")]) == 2
        assert run(["unpack", str(store), "-o", str(tmp_path / "folds"), "--rename-collisions"]) == 0
        assert "readme is in readme~2" in capsys.readouterr().out
