"""Output files never overwrite a store. Errors of the system get a class, an exit code and the path."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from made import TEXT, exact, memory, put

from memvec.cli.system_errors import as_memvec_error
from memvec.errors import NotFoundError, OutOfMemoryError, ReadError, WriteError


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store of a document with its memory."""
    return put(tmp_path / "s", exact("a", TEXT), memory("a", TEXT)).path


class TestInsideStore:
    """No output overwrites files of a store."""

    @pytest.mark.parametrize("place", ["manifest.json", "new.svg", "shards/new.svg"])
    @pytest.mark.parametrize(
        "words",
        [
            ["export", "{s}", "--overwrite", "-o"],
            ["export", "{s}", "--overwrite", "--to", "npy", "--id", "a", "--prompt", "x", "-o"],
            ["export", "{s}", "--overwrite", "--to", "vllm-chat", "--id", "a", "--prompt", "x", "-o"],
            ["export", "{s}", "--to", "peft-prompt", "--id", "a", "-o"],
            ["unpack", "{s}", "--overwrite", "-o"],
            ["capacity", "--plot"],
        ],
    )
    def test_refused(self, store: Path, words: list[str], place: str, call: Any) -> None:
        before = {file: file.read_bytes() for file in store.rglob("*") if file.is_file()}
        code, _, err = call(*[word.format(s=store) for word in words], store / place)
        assert code == 2 and "in the store" in err
        assert {file: file.read_bytes() for file in store.rglob("*") if file.is_file()} == before

    def test_other_store(self, store: Path, tmp_path: Path, call: Any) -> None:
        """Another store is protected too."""
        other = put(tmp_path / "other", exact("b", TEXT)).path
        assert call("export", store, "-o", other / "manifest.json", "--overwrite")[0] == 2
        assert call("export", store, "-o", tmp_path / "file")[0] == 0


class TestRefusals:
    @pytest.mark.parametrize(
        "error, expected",
        [
            (OSError(errno.ENOSPC, "No space left on device"), WriteError),
            (OSError(errno.EROFS, "Read-only file system", "{}/there"), WriteError),
            (OSError(errno.EFBIG, "File too large", "{}/there"), WriteError),
            (PermissionError(errno.EACCES, "Permission denied", "{}/there"), WriteError),  # it can be read
            (PermissionError(errno.EACCES, "Permission denied", "{}/new"), WriteError),
            (OSError(errno.EIO, "Input/output error", "{}/there"), ReadError),
            (IsADirectoryError(errno.EISDIR, "Is a directory", "{}"), ReadError),
            (NotADirectoryError(errno.ENOTDIR, "Not a directory", "{}/there/x"), ReadError),
            (OSError(errno.ELOOP, "Too many levels of symbolic links", "{}/there"), ReadError),
            (OSError(errno.EMFILE, "Too many open files", "{}/there"), ReadError),
            (FileNotFoundError(errno.ENOENT, "No such file or directory", "{}/gone"), NotFoundError),
            (MemoryError(), OutOfMemoryError),
            (OSError(errno.ENOMEM, "Cannot allocate memory"), OutOfMemoryError),
            (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), OutOfMemoryError),
        ],
    )
    def test_class_and_place(self, tmp_path: Path, error: Any, expected: type[Exception]) -> None:
        (tmp_path / "there").write_text("x")
        if getattr(error, "filename", None):
            error.filename = error.filename.format(tmp_path)
        found = as_memvec_error(error)
        assert type(found) is expected and found.exit_code in (6, 10, 11, 12)  # type: ignore[attr-defined]
        assert str(getattr(error, "filename", None) or "") in str(found)
        assert (getattr(error, "strerror", None) or "") in str(found)

    def test_what_may_not_be_read(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The system is asked who may read what, and root may read everything: so its answer stands in here."""
        (tmp_path / "secret").touch()
        monkeypatch.setattr(os, "access", lambda path, mode: mode == os.X_OK)
        error = PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "secret"))
        assert type(as_memvec_error(error)) is ReadError

    def test_the_open_files_are_limited(self) -> None:
        assert "ulimit -n" in str(as_memvec_error(OSError(errno.EMFILE, "Too many open files", "f")))

    def test_bugs_stay_bugs(self) -> None:
        for error in (RuntimeError("x"), KeyError("x"), ImportError("x"), WriteError("a", "b")):
            assert as_memvec_error(error) is error

    def test_the_program(self, store: Path, monkeypatch: pytest.MonkeyPatch, call: Any) -> None:
        def fail(*_: object) -> None:
            raise OSError(errno.EIO, "Input/output error", "/mnt/disk/file")

        monkeypatch.setattr("memvec.cli.cmd_info.info", fail)
        code, _, err = call("info", store)
        assert code == 12 and err.startswith("memvec: could not read '/mnt/disk/file': Input/output error.")
