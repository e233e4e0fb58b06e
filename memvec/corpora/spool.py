"""Documents that come from a Python iterator, kept in a temporary file so that they can be read twice."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Iterator
from typing import Any

from memvec.corpora.corpus import Corpus, Item
from memvec.filesystem.sources import Source, check_given


class Spool(Corpus):
    """The `Source`s of an iterator. They are written to a file at once, which ends with this object."""

    name = "sources"

    def __init__(self, sources: Iterable[Source]) -> None:
        """UsageError for a `Source` that no store can hold. OSError if the disk is full."""
        self._file = tempfile.TemporaryFile(prefix="memvec-")  # noqa: SIM115  # open as long as this object
        for source in sources:
            check_given(source)
            head: dict[str, Any] = {"name": source.name, "size": source.size, "meta": source.meta}
            self._file.write(json.dumps(head).encode() + b"\n")
            self._file.write(source.data)
        self._end = self._file.tell()

    def items(self) -> Iterator[Item]:
        """Yield each document."""
        place = 0
        while place < self._end:
            self._file.seek(place)
            head = json.loads(self._file.readline())
            data = self._file.read(head["size"])
            place = self._file.tell()
            yield head["name"], Source(head["name"], data, head["meta"])

    def __del__(self) -> None:
        self._file.close()
