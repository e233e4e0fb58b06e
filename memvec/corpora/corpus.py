"""What all corpora share: a corpus, its rows, and how a row becomes a document."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from memvec.filesystem.sources import Source, UnfitError
from memvec.formats.documents import check_name
from memvec.formats.refusal import Refusal
from memvec.settings import CorpusSettings

MOST_BYTES = 256 * 1024**2  # of a document, which is loaded as a whole
SHOWN_FIELDS = 8  # names of fields in a message
State = tuple[int, int]  # size and time of change of a file
Item = tuple[str, Source | str]  # a place in a corpus, and its document or why there is none


class Corpus(ABC):
    """Many documents in one file, one folder or one dataset. They can be read any number of times."""

    name: str  # of the file or dataset: its documents are named after it, and so are errors

    @abstractmethod
    def items(self) -> Iterator[Item]:
        """Read it once, place by place. UnfitError or OSError if the rest cannot be read."""

    def state(self) -> State | None:
        """What changes when something writes to it. None if nothing can. OSError."""
        return None


class FileCorpus(Corpus):
    """A corpus in one file."""

    def __init__(self, path: Path, settings: CorpusSettings) -> None:
        self.path, self.settings = path, settings
        self.name = path.name

    def state(self) -> State:
        """Size and time of change."""
        found = self.path.stat()
        return found.st_size, found.st_mtime_ns


def columns(there: Sequence[str], settings: CorpusSettings) -> list[str]:
    """The columns to read of those that are there. All of them if the text is not: a message then names them."""
    wanted = {settings.text_field, settings.id_field, *settings.meta_fields}
    return [name for name in there if name in wanted] if settings.text_field in there else list(there)


def item(place: str, row: object, settings: CorpusSettings) -> Item:
    """The item of a row, which is a mapping of fields. Its document is named `place` if no field is its id."""
    try:
        return place, _document(place, row, settings)
    except UnfitError as error:
        return place, str(error)


def _document(place: str, row: object, settings: CorpusSettings) -> Source:
    if not isinstance(row, Mapping):
        raise UnfitError(f"expected an object with a field {settings.text_field!r}, found {_kind(row)}")
    data = _data(_field(row, settings.text_field), settings.text_field)
    name = place if settings.id_field is None else _id(_field(row, settings.id_field), settings.id_field)
    try:
        check_name(name)
    except Refusal as error:
        raise UnfitError(str(error)) from error
    meta = {field: _label(row[field]) for field in settings.meta_fields if row.get(field) is not None}
    return Source(name, data, meta or None)


def _field(row: Mapping[str, Any], field: str) -> Any:
    if field in row:
        return row[field]
    names = ", ".join(repr(str(name)) for name in list(row)[:SHOWN_FIELDS]) or "none"
    raise UnfitError(f"it has no field {field!r}; its fields: {names}")


def _data(value: object, field: str) -> bytes:
    """The bytes of a document. A text is encoded as UTF-8."""
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str):
        raise UnfitError(f"its field {field!r} is {_kind(value)}, expected a text")
    try:
        return value.encode()
    except UnicodeEncodeError as error:
        raise UnfitError(f"its field {field!r} has half a character, so it is no valid Unicode") from error


def _id(value: object, field: str) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise UnfitError(f"its field {field!r} is {_kind(value)}, expected a text or a whole number")
    return str(value)


def _label(value: object) -> str:
    """A field as metadata, which is text. Lists and objects are written as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _kind(value: object) -> str:
    return "null" if value is None else f"of the type {type(value).__name__}"
