"""Tar archives: a document in each file."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from typing import IO, cast

from memvec.corpora.compressed import opened
from memvec.corpora.corpus import MOST_BYTES, FileCorpus, Item
from memvec.filesystem.sources import Source, UnfitError
from memvec.formats.documents import check_name
from memvec.formats.refusal import Refusal


class Tar(FileCorpus):
    """A tar archive. Its files are named as in the archive, as if the folder it was made of were packed. Nothing is extracted."""

    def items(self) -> Iterator[Item]:
        """Yield an item for each member that is no folder."""
        try:
            with opened(self.path) as stream:
                counted = _Counted(stream)
                with tarfile.open(fileobj=cast(IO[bytes], counted), mode="r|") as archive:
                    for member in archive:
                        if not member.isdir():
                            name = member.name.removeprefix("./")
                            yield f"{self.name}/{name}", self._document(archive, member, name)
                while counted.read(tarfile.RECORDSIZE):
                    pass
                if counted.count % tarfile.BLOCKSIZE:  # `tarfile` takes half a header for the end
                    raise UnfitError("it is cut off")
        except tarfile.TarError as error:
            raise UnfitError(f"it cannot be read as a tar archive: {error}") from error

    def _document(self, archive: tarfile.TarFile, member: tarfile.TarInfo, name: str) -> Source | str:
        """A member's document, or why there is none."""
        try:
            check_name(name)
        except Refusal as error:
            return str(error)
        if not member.isfile():
            return "not a regular file"
        if member.size > MOST_BYTES:
            return f"it is longer than {MOST_BYTES:,} bytes. Extract it, and pack the file"
        file = archive.extractfile(member)
        assert file is not None  # it is a regular file
        data = file.read()
        return Source(name, data) if len(data) == member.size else "it is cut off"


class _Counted:
    """A stream that counts the bytes read from it."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream, self.count = stream, 0

    def read(self, size: int) -> bytes:
        """Read up to `size` bytes."""
        data = self._stream.read(size)
        self.count += len(data)
        return data
