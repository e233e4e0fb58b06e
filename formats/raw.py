"""Raw bytes as zstd frames, and the honest baseline. The only module that knows zstandard. SPEC §7."""

from __future__ import annotations

from collections.abc import Iterable

import zstandard

MAX_RAW_BYTES = 16 * 1024 * 1024  # of one record or documents table, before compression
LEVEL = 19


def compress(data: bytes) -> bytes:
    """One zstd frame that declares its size and carries a checksum."""
    if len(data) > MAX_RAW_BYTES:
        raise ValueError(f"{len(data)} bytes are over the limit of {MAX_RAW_BYTES} for one frame")
    return zstandard.ZstdCompressor(level=LEVEL, write_checksum=True, write_content_size=True).compress(data)


def decompress(frame: bytes, limit: int = MAX_RAW_BYTES) -> bytes:
    """Content of exactly one frame; ValueError when damaged, undeclared, over `limit` bytes or followed by more."""
    try:
        parameters = zstandard.get_frame_parameters(frame)
        declared = parameters.content_size
        # zstandard allocates what the frame declares whatever limit it is given, so the declared size is judged first.
        if declared in (zstandard.CONTENTSIZE_UNKNOWN, zstandard.CONTENTSIZE_ERROR) or declared > limit:
            raise ValueError(f"zstd frame declares {declared} bytes, at most {limit} are allowed here")
        if not parameters.has_checksum:
            raise ValueError("zstd frame carries no checksum")
        unpacker = zstandard.ZstdDecompressor().decompressobj()
        data = unpacker.decompress(frame)
    except zstandard.ZstdError as error:
        raise ValueError(f"zstd frame is damaged ({error})") from None
    if not unpacker.eof or unpacker.unused_data or len(data) != declared:
        raise ValueError("zstd frame is cut off or followed by other bytes")
    return data


def stream_size(pieces: Iterable[bytes]) -> int:
    """Bytes of one zstd -19 stream over all pieces: what a byte compressor needs for the same documents."""
    stream = zstandard.ZstdCompressor(level=LEVEL).compressobj()
    return sum(len(stream.compress(piece)) for piece in pieces) + len(stream.flush())
