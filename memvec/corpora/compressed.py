"""Read files that may be compressed with gzip or zstd, as a stream."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, BinaryIO, cast

import zstandard

from memvec.filesystem.sources import UnfitError

BLOCK = 1024 * 1024  # bytes read at once
# Compressed bytes that are given to zstd at once. It returns all they hold: up to 128 KiB for each 4 of them.
ZSTD_AT_ONCE = 1024
MOST_WINDOW = 128 * 1024**2  # bytes that decompressing may refer back to; `zstd` needs --long to write more


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """Open a file, decompressed by its suffix. Reading raises UnfitError where it is damaged or cut off, and OSError."""
    with open(path, "rb") as file:
        if path.suffix.lower() in (".gz", ".tgz"):
            yield cast(BinaryIO, io.BufferedReader(_Checked(gzip.GzipFile(fileobj=file)), BLOCK))
        elif path.suffix.lower() == ".zst":
            yield cast(BinaryIO, io.BufferedReader(_Zstd(file), BLOCK))
        else:
            yield file


class _Checked(io.RawIOBase):
    """A gzip stream whose errors are UnfitErrors."""

    def __init__(self, stream: gzip.GzipFile) -> None:
        self._stream = stream

    def readable(self) -> bool:
        """Always True."""
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Fill `buffer`."""
        try:
            data = self._stream.read1(len(buffer))  # `readinto` would lose what stands before a cut
        except EOFError as error:
            raise UnfitError("its gzip stream is cut off") from error
        except (gzip.BadGzipFile, zlib.error) as error:
            raise UnfitError(f"its gzip stream is damaged: {error}") from error
        buffer[: len(data)] = data
        return len(data)


class _Zstd(io.RawIOBase):
    """A zstd stream of any number of frames. The library's own reader takes a frame that is cut off for the end."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._frame: zstandard.ZstdDecompressionObj | None = None
        self._ready = memoryview(b"")
        self._rest = b""  # read, and not decompressed yet

    def readable(self) -> bool:
        """Always True."""
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Fill `buffer`."""
        while not self._ready:
            block = self._rest or self._file.read(BLOCK)
            block, self._rest = block[:ZSTD_AT_ONCE], block[ZSTD_AT_ONCE:]
            if not block:
                if self._frame is not None:
                    raise UnfitError("its zstd stream is cut off")
                return 0
            self._ready = memoryview(self._decompressed(block))
        count = min(len(buffer), len(self._ready))
        buffer[:count], self._ready = self._ready[:count], self._ready[count:]
        return count

    def _decompressed(self, block: bytes) -> bytes:
        frame = self._frame or zstandard.ZstdDecompressor(max_window_size=MOST_WINDOW).decompressobj()
        try:
            data = frame.decompress(block)
        except zstandard.ZstdError as error:
            raise UnfitError(f"its zstd stream is damaged: {error}") from error
        self._frame = None if frame.eof else frame
        if frame.eof:
            self._rest = frame.unused_data + self._rest
        return data
