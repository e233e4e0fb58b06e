"""Raw bytes as zstd frames, and zstd -19 as the baseline. The only module that imports zstandard. SPEC §7."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import zstandard

from memvec.formats import limits
from memvec.formats.refusal import Refusal
from memvec.types import Record

MAX_RAW_BYTES = limits.CONTENT_BYTES  # of one record or documents table, before compression
LEVEL = 19
LONGEST_EMPTY = 25  # bytes of an empty frame: the longest header, an empty block, the checksum


class Compressor:
    """Makes one zstd frame after the other in the same working memory of some 100 MiB. For one thread."""

    def __init__(self) -> None:
        self._zstd = zstandard.ZstdCompressor(level=LEVEL, write_checksum=True, write_content_size=True)

    def __call__(self, data: bytes) -> bytes:
        """One zstd frame that declares its size and carries a checksum; Refusal for more than a frame may hold."""
        if len(data) > MAX_RAW_BYTES:
            raise _too_large(f"{len(data)} bytes are over the limit of {MAX_RAW_BYTES} for one zstd frame")
        return self._zstd.compress(data)


def compress(data: bytes) -> bytes:
    """One zstd frame that declares its size and carries a checksum; Refusal for more than a frame may hold."""
    return Compressor()(data)


def decompress(frame: bytes, limit: int = MAX_RAW_BYTES) -> bytes:
    """Decompress exactly one frame. Refusal if it is damaged, without a size, over `limit` bytes, or followed by more."""
    if len(frame) > limits.FRAME_BYTES:
        raise _too_large(f"zstd frame is {len(frame)} bytes, at most {limits.FRAME_BYTES} are allowed")
    try:
        parameters = zstandard.get_frame_parameters(frame)
        declared = parameters.content_size
        # zstandard allocates the declared size whatever its limit, so that size is checked first.
        if declared in (zstandard.CONTENTSIZE_UNKNOWN, zstandard.CONTENTSIZE_ERROR):
            raise Refusal("undeclared-size", "zstd frame does not declare its content size")
        if declared > limit:
            raise _too_large(f"zstd frame declares {declared} bytes, at most {limit} are allowed here")
        if not parameters.has_checksum:
            raise Refusal("no-checksum", "zstd frame carries no checksum")
        return _content(frame) if declared else _nothing(frame)
    except zstandard.ZstdError as error:
        raise Refusal("damaged-frame", f"zstd frame is damaged ({error})") from error


def _content(frame: bytes) -> bytes:
    # One call into memory of the declared size: a frame with more content fails.
    unpacker = zstandard.ZstdDecompressor()
    try:
        return bytes(unpacker.decompress(frame, allow_extra_data=False))
    except zstandard.ZstdError as error:
        unpacker.decompress(frame, allow_extra_data=True)  # fails again unless the extra bytes are the only fault
        raise _followed() from error


def _nothing(frame: bytes) -> bytes:
    # For a declared size of 0 the call above reads no block. A stream could unpack more than declared, so it gets no
    # more bytes than an empty frame has.
    unpacker = zstandard.ZstdDecompressor().decompressobj()
    data = unpacker.decompress(frame[:LONGEST_EMPTY])
    if data or not unpacker.eof:
        raise Refusal("damaged-frame", "zstd frame declares 0 bytes but has content")
    if unpacker.unused_data or len(frame) > LONGEST_EMPTY:
        raise _followed()
    return b""


def _followed() -> Refusal:
    return Refusal("trailing-bytes", "zstd frame is followed by other bytes")


def _too_large(message: str) -> Refusal:
    return Refusal("frame-too-large", message)


def stream_size(pieces: Iterable[bytes]) -> int:
    """Return the size of one zstd -19 stream over all pieces: the baseline for the same documents."""
    stream = zstandard.ZstdCompressor(level=LEVEL).compressobj()
    return sum(len(stream.compress(piece)) for piece in pieces) + len(stream.flush())


def raw_bytes(record: Record) -> bytes:
    """Return the bytes of a raw record. Refusal if the frame is damaged or its length contradicts the record."""
    data = decompress(record.payload)
    if len(data) != record.length or hashlib.sha256(data).digest() != record.text_sha256:
        raise Refusal("wrong-text", "the zstd frame does not hold the packed bytes")
    return data
