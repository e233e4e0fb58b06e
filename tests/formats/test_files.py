"""The one door to the files of a store: what it opens, what it refuses, and that it never waits."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from memvec.errors import MemvecError, ReadError, WriteError
from memvec.formats import files
from memvec.formats.refusal import Refusal


def bound(path: Path) -> None:
    """A socket at `path`, whose length systems limit."""
    before = Path.cwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(before)


OTHERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "nothing": ("missing-file", lambda path: None),
    "folder": ("not-a-file", Path.mkdir),
    "pipe": ("not-a-file", os.mkfifo),
    "socket": ("not-a-file", bound),
    "link": ("symlink", lambda path: path.symlink_to(path.parents[1] / "real")),
    "link-to-nothing": ("symlink", lambda path: path.symlink_to("nowhere")),
    "link-to-itself": ("symlink", lambda path: path.symlink_to(path.name)),
    "link-to-a-device": ("symlink", lambda path: path.symlink_to("/dev/zero")),
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with a file, reached through a link."""
    (tmp_path / "root" / "folder").mkdir(parents=True)
    (tmp_path / "root" / "real").write_bytes(b"content")
    (tmp_path / "way").symlink_to("root")
    return tmp_path / "way"


class TestReading:
    def test_a_file_and_the_first_bytes_of_it(self, root: Path) -> None:
        assert files.read(root, "real") == b"content" and files.read(root, "real", 3) == b"con"

    @pytest.mark.parametrize("kind", list(OTHERS))
    def test_nothing_else_is_opened(self, kind: str, root: Path) -> None:
        code, make = OTHERS[kind]
        make(root / "folder" / "thing")
        for call in (
            lambda: files.read(root, "folder/thing"),
            lambda: files.open_regular(root / "folder" / "thing").__enter__(),
        ):
            with pytest.raises(Refusal) as caught:
                call()
            assert caught.value.code == code

    def test_a_folder_that_is_a_link(self, root: Path) -> None:
        (root / "linked").symlink_to(".")
        with pytest.raises(Refusal) as caught:
            files.read(root, "linked/real")
        assert caught.value.code == "symlink"

    @pytest.mark.parametrize("code", [errno.EACCES, errno.EIO, errno.EMFILE, errno.ESTALE])
    def test_what_the_system_refuses(self, code: int, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: object, **__: object) -> int:
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(os, "open", refuse)
        with pytest.raises(ReadError, match=r"could not read '.*real'") as caught:
            files.read(root, "real")
        assert caught.value.errno == code and caught.value.exit_code == 12 and os.strerror(code) in str(caught.value)

    def test_a_disk_that_fails_in_the_middle(self, root: Path) -> None:
        with pytest.raises(ReadError, match="Input/output"), files.open_regular(root / "real"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    def test_other_errors_pass(self, root: Path) -> None:
        with pytest.raises(MemvecError, match="other"), files.open_regular(root / "real"):
            raise MemvecError("other")

    def test_what_takes_the_place_of_a_file_before_it_is_opened(
        self, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A pipe does not make it wait, and a link is not followed."""
        real: Callable[..., int] = os.open
        for change in (os.mkfifo, lambda path: Path(path).symlink_to("/etc/passwd")):

            def late(path: Any, *rest: Any, change: Any = change, **options: Any) -> int:
                os.unlink(root / "real")
                change(root / "real")
                return real(path, *rest, **options)

            monkeypatch.setattr(os, "open", late)
            with pytest.raises(Refusal) as caught:
                files.read(root, "real")
            assert caught.value.code in ("not-a-file", "symlink")
            monkeypatch.undo()


class TestListing:
    def test_names_in_order(self, root: Path) -> None:
        assert files.listing(root, "") == ["folder", "real"] and files.listing(root, "", "r*") == ["real"]
        assert files.listing(root, "none") == []

    def test_no_folder(self, root: Path) -> None:
        (root / "linked").symlink_to("folder")
        for name, code in (("linked", "symlink"), ("real", "not-a-file")):
            with pytest.raises(Refusal) as caught:
                files.listing(root, name)
            assert caught.value.code == code


class TestWriting:
    @pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
    @pytest.mark.parametrize("call", ["open", "fsync", "replace"])
    def test_a_failed_write_leaves_nothing(
        self, call: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_: object, **__: object) -> None:
            raise OSError(code, os.strerror(code))

        with monkeypatch.context() as patched:
            patched.setattr(os, call, fail)
            with pytest.raises(WriteError, match="could not write") as caught:
                files.write_atomically(tmp_path / "value", b"x" * 100)
        assert caught.value.errno == code and not list(tmp_path.iterdir())

    def test_a_file_in_the_place_of_a_folder_is_said(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_bytes(b"")
        with pytest.raises(WriteError, match="Not a directory"):
            files.write_atomically(tmp_path / "file" / "value", b"x")

    def test_no_folder_of_a_store_is_a_link(self, tmp_path: Path) -> None:
        (tmp_path / "away").mkdir()
        (tmp_path / "shards").symlink_to("away")
        files.make_folder(tmp_path / "shards")
        with pytest.raises(WriteError, match="it is a link"):
            files.make_folder(tmp_path / "shards", inside=True)
