"""Read text files of users: UTF-8, with or without a byte order mark. An error names the line and what to do."""

from __future__ import annotations

import codecs
import os
from pathlib import Path

from memvec.errors import NotFoundError, ReadError, UsageError

# The marks that other encodings of Unicode begin with. UTF-32's come first: UTF-16's is the beginning of one of them.
MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
ADVICE = "Save it as UTF-8, for instance with `iconv -f {encoding} -t UTF-8`."


def read_text(path: str | Path) -> str:
    """Read a text file as UTF-8. A byte order mark is left out, line ends stay as they are.

    Args:
        path: A file, or a pipe such as `/dev/stdin`.

    Returns:
        The text.

    Raises:
        NotFoundError: No such file.
        ReadError: The system refused to read it.
        UsageError: It is a folder, or no UTF-8 text. The message names the first wrong line.
    """
    data, shown = _bytes(Path(path)), repr(os.fspath(path))
    if encoding := next((name for mark, name in MARKS.items() if data.startswith(mark)), None):
        raise UsageError(f"{shown} is {encoding} text, expected UTF-8. {ADVICE.format(encoding=encoding)}")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UsageError(
            f"{shown} line {line}: byte 0x{data[error.start]:02x} is not UTF-8 ({error.reason}). "
            f"{ADVICE.format(encoding='LATIN1')}"
        ) from error
    if (at := text.find("\0")) >= 0:
        line = text.count("\n", 0, at) + 1
        raise UsageError(
            f"{shown} line {line}: found a NUL character, so it is binary or UTF-16, expected UTF-8 text. "
            f"{ADVICE.format(encoding='UTF-16LE')}"
        )
    return text


def read_lines(path: str | Path) -> list[str]:
    """The lines of a text file without their ends, which are LF or CRLF and nothing else. Raises as `read_text` does.

    U+2028 and other characters that `str.splitlines` splits at may stand in a JSON string.
    """
    return [line.removesuffix("\r") for line in read_text(path).split("\n")]


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFoundError(f"no file {str(path)!r}. Check its name.") from error
    except IsADirectoryError as error:
        raise UsageError(f"{str(path)!r} is a folder, expected a text file.") from error
    except OSError as error:
        raise ReadError(str(path), error.strerror or type(error).__name__) from error
