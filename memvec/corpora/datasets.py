"""Datasets of Hugging Face: on the hub, or in a folder that `save_to_disk` wrote. Their rows stay on disk."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from memvec.corpora.corpus import Corpus, Item, columns, item
from memvec.errors import MissingExtraError, NotFoundError, UsageError
from memvec.filesystem.sources import UnfitError
from memvec.settings import CorpusSettings

SCHEME = "hf://"
# hf://datasets/OWNER/NAME[/CONFIGURATION][@REVISION][:SPLIT]
ADDRESS = re.compile(
    r"hf://datasets/(?P<path>[\w.-]+(?:/[\w.-]+)?)(?:/(?P<name>[\w.-]+))?(?:@(?P<revision>[^:@]+))?(?::(?P<split>.+))?"
)
MARKS = (("dataset_dict.json",), ("dataset_info.json", "state.json"))  # files of a folder that `save_to_disk` wrote


class Dataset(Corpus):
    """A dataset. A document without an id is named NAME#ROW, or NAME/SPLIT#ROW, with rows counted from 0."""

    def __init__(self, place: str, settings: CorpusSettings) -> None:
        """`place` is hf://datasets/… or a folder. MissingExtraError, UsageError, NotFoundError."""
        self.settings = settings
        library = _library()
        try:
            self.name, found = _on_hub(library, place) if place.startswith(SCHEME) else _in_folder(library, place)
        except (OSError, ValueError) as error:
            if isinstance(error, UsageError):
                raise
            raise NotFoundError(f"the dataset {place!r} cannot be loaded: {_line(error)}.") from error
        # {split: rows}, or {"": rows} of a dataset with one split
        self.parts: dict[str, Any] = dict(found) if isinstance(found, dict) else {"": found}

    def items(self) -> Iterator[Item]:
        """Yield an item for each row, split by split."""
        for split, rows in self.parts.items():
            named = f"{self.name}/{split}" if split else self.name
            read = rows.select_columns(columns(rows.column_names, self.settings))
            try:
                for number, row in enumerate(read):
                    yield item(f"{named}#{number}", row, self.settings)
            except (OSError, ValueError) as error:
                raise UnfitError(f"it cannot be read: {_line(error)}") from error


def is_dataset(folder: Path) -> bool:
    """Did `save_to_disk` write this folder?"""
    return any(all(os.path.isfile(folder / name) for name in names) for names in MARKS)


def _on_hub(library: Any, address: str) -> tuple[str, Any]:
    match = ADDRESS.fullmatch(address)
    if match is None:
        raise UsageError(f"{address!r} is no address of a dataset. Expected hf://datasets/OWNER/NAME[:SPLIT].")
    return match["path"], library.load_dataset(
        match["path"], match["name"], revision=match["revision"], split=match["split"]
    )


def _in_folder(library: Any, folder: str) -> tuple[str, Any]:
    return Path(folder).resolve().name, library.load_from_disk(folder)


def _library() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise MissingExtraError(
            "reading a dataset needs the package datasets. Install it with: pip install 'memvec[corpora]'"
        ) from error
    return datasets


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
