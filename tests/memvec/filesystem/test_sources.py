"""A pack reads the right files under the right names."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from memvec.corpora.choose import gathered
from memvec.errors import NotFoundError, UsageError
from memvec.filesystem import sources
from memvec.filesystem.sources import Source, UnfitError, gather, read_file
from memvec.settings import CorpusSettings


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.txt", "b.py", "sub/a.txt", "sub/deep/c.md", ".hidden", "s.memvec/manifest.json"):
        file = tmp_path / "tree" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(name)
    return tmp_path / "tree"


def names(*args: object, **kwargs: object) -> list[str]:
    return gather(*args, **kwargs).names  # type: ignore[arg-type]


def test_names(folder: Path) -> None:
    """Names are relative to the folder, in order."""
    assert names([folder], store=folder / "s.memvec") == [".hidden", "a.txt", "b.py", "sub/a.txt", "sub/deep/c.md"]
    assert names([folder / "b.py", folder / "sub"]) == ["a.txt", "b.py", "deep/c.md"]


def test_globs(folder: Path) -> None:
    assert names([folder], include=["*.txt"]) == ["a.txt", "sub/a.txt"]
    assert names([folder], exclude=["sub/*", ".*", "manifest.json"]) == ["a.txt", "b.py"]
    assert names([folder], include=["*.txt", "*.md"], exclude=["sub/a*"]) == ["a.txt", "sub/deep/c.md"]


def test_excluded(folder: Path) -> None:
    """Excluded files are not reported as skipped."""
    os.mkfifo(folder / "pipe")
    (folder / "loop").symlink_to(folder)
    assert sorted(name for name, _ in gather([folder]).skipped) == ["loop", "pipe"]
    found = gather([folder], exclude=["pipe", "loop", "sub", "s.memvec"])
    assert found.names == [".hidden", "a.txt", "b.py"] and found.skipped == []
    assert gather([folder], include=["*.py"]).skipped == []


def test_control_characters(folder: Path) -> None:
    """Names with control characters are shown escaped."""
    os.mkfifo(folder / "\x1b[31mred\n")
    ((name, _),) = gather([folder]).skipped
    assert name == "\\x1b[31mred\\n"


def test_same_name(folder: Path) -> None:
    """Two files with one name are refused."""
    with pytest.raises(UsageError, match=r"a\.txt"):
        gather([folder / "a.txt", folder / "sub"])


def test_missing(tmp_path: Path) -> None:
    """A missing path is named in the error."""
    with pytest.raises(NotFoundError, match="nothing-here"):
        gather([tmp_path / "nothing-here"])


def test_invalid_names(tmp_path: Path) -> None:
    """Files whose names no store can hold are skipped."""
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "good").write_bytes(b"x")
    (tree / "back\\slash").write_bytes(b"x")
    with open(os.path.join(os.fsencode(tree), b"latin-\xe9"), "wb") as file:
        file.write(b"x")
    found = gather([tree])
    assert found.names == ["good"]
    assert len(found.skipped) == 2
    "".join(name + why for name, why in found.skipped).encode()  # can be printed


class TestExcludes:
    """Patterns exclude the files that gitignore would."""

    @pytest.mark.parametrize("pattern", ["sub/", "./sub", "/sub", "sub", "sub/**", "./sub/", "sub//"])
    def test_a_folder(self, folder: Path, pattern: str) -> None:
        assert [n for n in names([folder], exclude=[pattern, "s.memvec"]) if n.startswith("sub")] == []

    def test_anchored_ones_leave_other_folders(self, folder: Path) -> None:
        assert "sub/a.txt" in names([folder], exclude=["/a.txt"])
        assert "sub/a.txt" not in names([folder], exclude=["a.txt"])

    def test_files_that_are_named_too(self, folder: Path) -> None:
        assert names([folder / "a.txt", folder / "b.py"], exclude=["*.py"]) == ["a.txt"]
        assert names([folder / "a.txt", folder / "b.py"], include="*.py") == ["b.py"]

    def test_taken_in_again(self, folder: Path) -> None:
        assert names([folder / "sub"], exclude=["*", "!*.txt"]) == ["a.txt"]
        assert names([folder / "sub"], exclude=["*", "!deep/"]) == []  # the folder is, what is in it is not
        assert names([folder / "sub"], exclude=["*", "!deep/", "!*.md"]) == ["deep/c.md"]
        assert names([folder / "sub"], exclude=["deep", "!c.md"]) == ["a.txt"]  # nothing in an excluded folder is

    def test_patterns_without_use_are_told(self, folder: Path) -> None:
        found = gather([folder], ["*.txt", "*.rst"], ["secret", "deep/", "!nothing"])
        assert found.unmatched == ("*.rst", "secret", "!nothing")
        assert gather([folder], (), ["loop"]).unmatched == ("loop",)

    def test_excluded_folders_are_not_entered(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        seen = []
        scan = os.scandir

        def scandir(path: str) -> object:
            seen.append(os.path.basename(path))
            return scan(path)

        monkeypatch.setattr(os, "scandir", scandir)
        gather([folder], exclude=["sub/"])
        assert "deep" not in seen and "sub" not in seen and "s.memvec" in seen

    def test_an_empty_pattern_is_refused(self, folder: Path) -> None:
        for options in ({"include": [""]}, {"exclude": ""}):
            with pytest.raises(UsageError, match="expected a name or a pattern"):
                gather([folder], **options)  # type: ignore[arg-type]


class TestOneDoor:
    """Only regular files are read, and no pipe is waited for."""

    @pytest.mark.parametrize("kind", ["pipe", "socket", "dangling", "loop", "device"])
    def test_what_is_no_file_is_skipped_under_its_own_name_too(
        self, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)  # the path of a socket has to be short

        def bind() -> None:
            with socket.socket(socket.AF_UNIX) as made:
                made.bind("odd")

        make: dict[str, Callable[[], object]] = {
            "pipe": lambda: os.mkfifo("odd"),
            "socket": bind,
            "dangling": lambda: os.symlink("nowhere", "odd"),
            "loop": lambda: os.symlink("odd", "odd"),
            "device": lambda: os.symlink("/dev/zero", "odd"),
        }
        make[kind]()
        Path("good").write_bytes(b"x")
        for given in (["odd", "good"], ["."]):
            found = gather(given)
            assert [source.name for source in found] == ["good"]
            assert [name for name, _ in found.skipped] == ["odd"]

    def test_a_file_that_becomes_a_pipe_is_not_waited_for(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real, file = os.stat(__file__), tmp_path / "p"
        os.mkfifo(file)
        monkeypatch.setattr(sources.os, "stat", lambda *_: real)
        with pytest.raises(UnfitError, match="a pipe"):
            read_file(file)

    def test_a_file_at_rest_is_read_whole(self, tmp_path: Path) -> None:
        (tmp_path / "f").write_bytes(bytes(range(256)) * 300)
        assert read_file(tmp_path / "f") == bytes(range(256)) * 300
        (tmp_path / "f").write_bytes(b"")
        assert read_file(tmp_path / "f") == b""

    @pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc")
    def test_files_that_say_they_are_empty(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert read_file(Path("/proc/self/status")).startswith(b"Name:")
        monkeypatch.setattr(sources, "MOST_UNSIZED", 10)
        with pytest.raises(UnfitError, match="how long"):
            read_file(Path("/proc/self/status"))

    def test_a_file_that_is_written_to(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        file = tmp_path / "log"
        file.write_bytes(b"begun\n")
        real, grown = os.fstat, []

        def fstat(handle: int) -> os.stat_result:
            found = real(handle)
            if len(grown) < writes:
                grown.append(1)
                with file.open("ab") as other:
                    other.write(b"more\n")
            return found

        monkeypatch.setattr(sources.os, "fstat", fstat)
        writes = 1  # it comes to rest
        assert read_file(file) == b"begun\nmore\n"
        writes = 10**6
        with pytest.raises(UnfitError, match="writes to it"):
            read_file(file)

    def test_a_file_that_vanishes(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def gone(path: Path) -> bytes:
            path.unlink()
            return read_file(path)

        monkeypatch.setattr(sources, "read_file", gone)
        found = gather([folder / "sub"])
        assert list(found) == [] and found.skipped == [("a.txt", "it is gone"), ("deep/c.md", "it is gone")]

    def test_unreadable_ones_leave_the_others(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        real = os.open

        def refuse(path: str, *rest: int) -> int:
            if str(path).endswith("b.py"):
                raise PermissionError(13, "Permission denied")
            return real(path, *rest)

        monkeypatch.setattr(sources.os, "open", refuse)
        found = gather([folder], exclude=["s.memvec"])
        assert len(list(found)) == 4 and found.skipped == [("b.py", "Permission denied")]
        assert len(list(found)) == 4 and len(found.skipped) == 1  # it is not tried again

    def test_an_unreadable_folder_is_told_although_files_are_chosen(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real = os.scandir

        def refuse(path: str) -> object:
            if str(path).endswith("deep"):
                raise PermissionError(13, "Permission denied", str(path))
            return real(path)

        monkeypatch.setattr(os, "scandir", refuse)
        assert gather([folder], include=["*.md"]).skipped == [("sub/deep", "Permission denied")]


class TestReading:
    """Bytes are read one document at a time."""

    def test_listing_reads_nothing(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        read: list[str] = []
        monkeypatch.setattr(sources, "read_file", lambda path: read.append(path.name) or b"xy")
        found = gather([folder], exclude=["s.memvec"])
        assert read == [] and found.bytes == sum(map(len, found.names))
        first = next(iter(found))
        assert (first.name, first.data, read) == (".hidden", b"xy", [".hidden"])
        assert (found.reached, found.reached_bytes) == (1, len(".hidden"))

    def test_without_some(self, folder: Path) -> None:
        found = gather([folder], exclude=["s.memvec"])
        assert [s.name for s in found.read(without={"a.txt", "sub/a.txt"})] == [".hidden", "b.py", "sub/deep/c.md"]
        assert found.reached == 5

    def test_a_digest_is_computed_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        source, real, hashed = Source("x", b"abc"), sources.hashlib.sha256, []
        monkeypatch.setattr(sources.hashlib, "sha256", lambda data: hashed.append(data) or real(data))
        assert source.sha256 == source.sha256 == real(b"abc").hexdigest() and hashed == [b"abc"]

    def test_parts(self, tmp_path: Path) -> None:
        (tmp_path / "f").write_bytes(bytes(range(100)))
        for entry in (gather(tmp_path / "f").entries[0], sources.Entry("g", 100, Source("g", bytes(range(100))))):
            assert entry.part(90, 5) == bytes(range(90, 95)) and entry.part(98, 5) == bytes([98, 99])


class TestNamedPaths:
    """Paths that are empty, named twice, or the store's own."""

    def test_empty_paths(self, folder: Path) -> None:
        for given in ([""], "", [folder, ""]):
            with pytest.raises(UsageError, match="empty"):
                gather(given)  # type: ignore[arg-type]

    def test_a_lone_path_is_one(self, folder: Path) -> None:
        assert names(str(folder / "a.txt")) == names(folder / "a.txt") == ["a.txt"]
        assert gathered(Source("x", b""), (), (), folder / "no", CorpusSettings()).names == ["x"]

    def test_one_file_named_twice_is_one_document(self, folder: Path) -> None:
        assert names([folder / "a.txt", folder / "a.txt", folder / "sub" / ".." / "a.txt"]) == ["a.txt"]
        assert names([folder, folder / "a.txt"], exclude=["s.memvec"]).count("a.txt") == 1

    def test_the_store_and_what_lies_in_it(self, folder: Path) -> None:
        (folder / "link").symlink_to(folder / "s.memvec")
        for inside in ("s.memvec", "s.memvec/manifest.json", "link", "link/manifest.json"):
            with pytest.raises(UsageError, match="the store itself"):
                gather([folder / inside], store=folder / "s.memvec")
        assert "link/manifest.json" not in names([folder], store=folder / "link")
        assert "s.memvec/manifest.json" not in names([folder], store=folder / "link")

    def test_nothing_to_pack_names_the_pattern(self, folder: Path, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match=r"No file matches '\*\.rst'"):
            gathered([folder], ["*.rst"], (), tmp_path / "s.memvec", CorpusSettings())

    @pytest.mark.parametrize("source", [Source("a", "text"), Source(b"a", b""), Source("../a", b"")])  # type: ignore[arg-type]
    def test_sources_that_are_none(self, source: Source, tmp_path: Path) -> None:
        with pytest.raises(UsageError):
            gathered([source], (), (), tmp_path / "s.memvec", CorpusSettings())

    def test_paths_the_system_takes_for_none(self, tmp_path: Path) -> None:
        for odd in ("a\0b", "x" * 5000, str(tmp_path / "no" / "such")):
            with pytest.raises(NotFoundError, match="no file or folder"):
                gather([odd])
            with pytest.raises(NotFoundError, match="no file or folder"):  # also where corpora are looked for
                gathered([odd], (), (), tmp_path / "s.memvec", CorpusSettings())
