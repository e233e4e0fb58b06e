"""Tell text that vectors can carry from other bytes, and make names safe to show in messages and on terminals."""

from __future__ import annotations

import codecs
import re

# Bytes below a space that texts hold: bell, backspace, tab, line end, form feed, carriage return, escape. As in `file`.
CONTROLS = bytes(byte for byte in (*range(32), 127) if byte not in b"\a\b\t\n\f\r\x1b")
MOST_CONTROLS = 0.3  # share of control characters in a text
LONGEST_RUN = 64  # control characters in a row, as in the padding of a disk image or an archive
_RUN = re.compile(b"[" + re.escape(CONTROLS) + b"]{%d}" % LONGEST_RUN)


def as_text(data: bytes) -> str | None:
    """Decode `data` as UTF-8. None if it is not UTF-8, or has too many control characters.

    A file of NULs is valid UTF-8. Fitting it would take as long as prose, and zstd reduces it to almost nothing.
    """
    if len(data) - len(data.translate(None, CONTROLS)) > MOST_CONTROLS * len(data) or _RUN.search(data):
        return None
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return None


def may_be_text(beginning: bytes) -> bool:
    """Can a file that begins like this be text? False only if `as_text` gives None for it, however it goes on."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(beginning)  # a character may be cut at the end
    except UnicodeDecodeError:
        return False
    return not _RUN.search(beginning)


def printable(name: str) -> str:
    """Escape control characters and bytes that are not UTF-8 in a name, so that it cannot steer a terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)
