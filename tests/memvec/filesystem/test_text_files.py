"""Text files of users are read, or refused with the reason."""

from __future__ import annotations

import codecs
import os
from pathlib import Path

import pytest

from memvec.cli.main import run
from memvec.errors import NotFoundError, ReadError, UsageError
from memvec.evaluation.questions import read_questions
from memvec.filesystem.text_files import read_lines, read_text

WORDS = "déjà vu 😀\u2028 on\r\nthe next line\n"

REFUSED = {
    "utf-16": (codecs.BOM_UTF16_LE + WORDS.encode("utf-16-le"), "is UTF-16 text, expected UTF-8. .*iconv -f UTF-16 "),
    "utf-16-be": (codecs.BOM_UTF16_BE + WORDS.encode("utf-16-be"), "is UTF-16 text, expected UTF-8"),
    "utf-32": (WORDS.encode("utf-32"), "is UTF-32 text, expected UTF-8"),
    "no mark": ("Plain words\n".encode("utf-16-le"), "line 1: found a NUL character, so it is binary or UTF-16"),
    "latin-1": (b"one\r\ntwo\n" + "déjà".encode("latin-1"), "line 3: byte 0xe9 is not UTF-8 .*iconv -f LATIN1 -t UTF-8"),
    "binary": (b"\x89PNG\r\n\x1a\n", "line 1: byte 0x89 is not UTF-8"),
    "cut off": ("words\n😀".encode()[:-1], "line 2: byte 0xf0 is not UTF-8"),
}  # fmt: skip


def test_byte_order_mark(tmp_path: Path) -> None:
    """A byte order mark is left out. Nothing else changes."""
    file = tmp_path / "words.txt"
    for data in (WORDS.encode(), codecs.BOM_UTF8 + WORDS.encode()):
        file.write_bytes(data)
        assert read_text(file) == read_text(str(file)) == WORDS
        assert read_lines(file) == ["déjà vu 😀\u2028 on", "the next line", ""]
    file.write_bytes(b"")
    assert read_text(file) == "" and read_lines(file) == [""]


@pytest.mark.parametrize("name", REFUSED)
def test_encodings(name: str, tmp_path: Path, tiny: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Every reader of a user's text gives the same error for other encodings, with the next step."""
    data, expected = REFUSED[name]
    file = tmp_path / "words.txt"
    file.write_bytes(data)
    for reader in (read_text, read_lines, read_questions):
        with pytest.raises(UsageError, match=f"words.txt'.*{expected}"):
            reader(file)
    for command in (["capacity", "--text"], ["calibrate", "--text"], ["evaluate", "no/store", "--questions"]):
        assert run([*command, str(file), "-m", tiny]) == 2
        assert "words.txt'" in capsys.readouterr().err


def test_unreadable(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A missing file, a folder and a refused one give typed errors."""
    (tmp_path / "words.txt").write_text("words")
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    for file, error, said in (
        (tmp_path / "missing", NotFoundError, "no file"),
        (tmp_path / "words.txt" / "below", NotFoundError, "no file"),
        (tmp_path, UsageError, "is a folder"),
        (loop, ReadError, "Too many levels of symbolic links"),
        (tmp_path / ("x" * 300), ReadError, "File name too long"),
    ):
        for reader in (read_text, read_questions):
            with pytest.raises(error, match=said):
                reader(file)
    assert run(["evaluate", "no/store", "--questions", str(loop)]) == 12
    assert "could not read" in capsys.readouterr().err


def test_pipe(tmp_path: Path) -> None:
    """A pipe is read, as in `--questions <(made by another program)`."""
    read, write = os.pipe()
    os.write(write, b'{"document": "a", "question": "q?", "answer": "x"}\n')
    os.close(write)
    try:
        assert len(read_questions(f"/dev/fd/{read}")) == 1
    finally:
        os.close(read)
