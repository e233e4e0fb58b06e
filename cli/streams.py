"""Standard input, output and error of the program. Everything that a command prints goes through `emit`.

A stream may take only a part of a write: the disk is full, or a pipe does not block. Python hides that behind a buffer,
unless PYTHONUNBUFFERED is set, and a failure of the last flush comes after the exit code.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import select
import sys
import time
from typing import Any, BinaryIO, TextIO

from memvec.errors import ReadError, WriteError

CLOSED_PIPE = 128 + 13  # the exit code that shells give for a program ended by SIGPIPE
AT_ONCE = 1 << 20  # bytes of one read
PAUSE_SECONDS = 0.05  # between tries on a stream that has no file descriptor to wait for
CLOSED = "it is closed"
NAMES = {0: "standard input", 1: "standard output", 2: "standard error"}


class ReaderGoneError(Exception):
    """The program that read standard output has ended. No OSError: click would exit with 1."""


def prepare() -> None:
    """Make the three streams safe to use. Called once, before anything else.

    A closed stream is opened again, because otherwise a file of a store could get its number and be overwritten. It still
    raises an error when it is read or written. Characters that an encoding lacks are escaped.
    """
    for number, mode in ((0, os.O_WRONLY), (1, os.O_RDONLY), (2, os.O_RDONLY)):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, mode)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
    if sys.stdin is None:
        sys.stdin = io.TextIOWrapper(io.FileIO(0, closefd=False), "utf-8", "surrogateescape")
    sys.stdout = _text(1, sys.stdout)
    sys.stderr = _text(2, sys.stderr)


def emit(data: str | bytes, *, err: bool = False) -> None:
    """Write all of `data` to standard output, or to standard error, before this returns.

    Nothing is raised for standard error: a message that cannot be shown must not change the result of the command.

    Raises:
        WriteError: Standard output cannot be written.
        ReaderGoneError: The program that read it has ended.
    """
    if err:
        with contextlib.suppress(OSError, ValueError, ReaderGoneError):
            _put(sys.stderr, data)
        return
    with _typed():
        _put(sys.stdout, data)


def read_input() -> bytes:
    """Read standard input to its end.

    Raises:
        ReadError: It is closed, it is a folder, or reading failed.
    """
    blocks = []
    try:
        binary = sys.stdin.buffer
        source: Any = getattr(binary, "raw", binary)  # a buffer cannot tell the end from "nothing yet"
        while (block := source.read(AT_ONCE)) != b"":
            if block is None:
                _wait(source, writing=False)
            else:
                blocks.append(block)
    except (AttributeError, ValueError) as error:  # None, or closed
        raise ReadError(NAMES[0], CLOSED) from error
    except OSError as error:
        raise ReadError(NAMES[0], CLOSED if error.errno == errno.EBADF else reason(error)) from error
    return b"".join(blocks)


def is_terminal(*, err: bool = True) -> bool:
    """Is standard error, or standard output, a terminal?"""
    try:
        return (sys.stderr if err else sys.stdout).isatty()
    except (AttributeError, ValueError):  # None, or closed
        return False


def reason(error: Exception) -> str:
    """The system's message in `error`, without its number and path."""
    return (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__


class _Whole(io.RawIOBase):
    """An unbuffered stream of bytes. A write takes all the data, or raises an error."""

    def __init__(self, number: int) -> None:
        self._number = number

    def write(self, data: Any) -> int:
        """Write all of `data`. Nothing is raised for standard error."""
        view = memoryview(data).cast("B")
        if self._number == 2:
            with contextlib.suppress(OSError):
                _write_whole(_Descriptor(2), view)
        else:
            with _typed():
                _write_whole(_Descriptor(self._number), view)
        return len(view)

    def writable(self) -> bool:
        """Always True."""
        return True

    def fileno(self) -> int:
        """The number of the stream."""
        return self._number

    def isatty(self) -> bool:
        """Is it a terminal?"""
        return os.isatty(self._number)

    def close(self) -> None:
        """Do nothing: the descriptor belongs to the system."""


class _Descriptor:
    """A file descriptor with the methods that `_write_whole` calls."""

    def __init__(self, number: int) -> None:
        self._number = number

    def write(self, data: Any) -> int:
        """Write as much as the system takes."""
        return os.write(self._number, data)

    def flush(self) -> None:
        """There is no buffer."""

    def fileno(self) -> int:
        """The number of the stream."""
        return self._number


def _text(number: int, old: TextIO | None) -> TextIO:
    """The stream of that number for texts, in the encoding of `old`."""
    encoding = old.encoding if old is not None and old.encoding else "utf-8"
    return io.TextIOWrapper(_Whole(number), encoding, "backslashreplace", write_through=True)  # type: ignore[type-var]


def _put(stream: TextIO | None, data: str | bytes) -> None:
    if stream is None:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    stream.flush()  # the output of other code comes first
    binary: BinaryIO | None = getattr(stream, "buffer", None)
    if binary is not None:
        if isinstance(data, str):
            data = data.encode(stream.encoding or "utf-8", "backslashreplace")
        _write_whole(binary, memoryview(data))
    elif isinstance(data, str):  # a host's own stream, of texts only
        stream.write(data)
        stream.flush()
    else:
        raise OSError(errno.EINVAL, "this stream takes texts, no bytes")


def _write_whole(target: Any, view: memoryview) -> None:
    """Write all of `view` and flush it, in as many parts as needed. Wait if `target` would block."""
    while view:
        try:
            count = target.write(view)
        except BlockingIOError as error:
            count = getattr(error, "characters_written", 0)
            view = view[count:]
            _wait(target)
            continue
        if count is None:
            _wait(target)
        else:
            view = view[count:]
    while True:
        try:
            target.flush()
            return
        except BlockingIOError:
            _wait(target)


def _wait(stream: Any, writing: bool = True) -> None:
    """Wait until a stream takes or gives more."""
    try:
        number = stream.fileno()
        select.select([] if writing else [number], [number] if writing else [], [])
    except (OSError, ValueError):
        time.sleep(PAUSE_SECONDS)


@contextlib.contextmanager
def _typed() -> Any:
    """Turn the system's errors on standard output into errors of memvec."""
    try:
        yield
    except WriteError:
        raise
    except BrokenPipeError as error:
        raise ReaderGoneError(NAMES[1]) from error
    except (OSError, ValueError) as error:  # ValueError: closed by the host program
        closed = not isinstance(error, OSError) or error.errno == errno.EBADF
        raise _cut_short(CLOSED if closed else reason(error)) from error


def _cut_short(said: str) -> WriteError:
    error, place = WriteError(NAMES[1], said), NAMES[1]
    message = f"could not write to {place}: {said}. What was written there is cut short, so do not use it. "
    error.args = (message + "Check where the output goes and the space left, and run the same command again.",)
    return error
