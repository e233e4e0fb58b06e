"""The files of FAISS indexes in a store, and their descriptions. Does not import FAISS."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from memvec.formats import files
from memvec.formats.manifest import KeysEntry

FOLDER = "index"
NAMED = re.compile(r"([0-9a-f]{16})\.(json|faiss|space)")
MOST_DESCRIBED = 1 << 24  # bytes of a description


@dataclass(frozen=True, slots=True)
class IndexInfo:
    """The description of an index: what it was made of, and how."""

    embedder: str
    embedder_id: str
    factory: str
    texts: int
    width: int
    keys: tuple[str, ...]  # digests of its key files, in order
    sha256: str  # of the FAISS file
    space: str  # of the file of the space


def describe(folder: Path, embedder_id: str) -> IndexInfo | None:
    """Read the description of an index, whichever program built it. None if it is missing or cannot be read."""
    try:
        value = json.loads(read_part(folder, embedder_id, "json", MOST_DESCRIBED))
        info = IndexInfo(**value | {"keys": tuple(value["keys"])})
        sizes = type(info.texts) is type(info.width) is int and info.texts > 0 < info.width
        texts = all(type(text) is str for text in (info.factory, info.sha256, info.space, *info.keys))
        return info if sizes and texts and info.embedder_id == embedder_id else None
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None


def matches(info: IndexInfo, entries: Sequence[KeysEntry]) -> bool:
    """Does the store still have all keys of the index?"""
    return bool(info.keys) and set(info.keys) <= {entry.sha256 for entry in entries}


def embedder_ids(folder: Path) -> list[str]:
    """Return the ids of all embedders with an index in the folder, built by any program."""
    if folder.is_symlink():  # files behind a link are not the store's
        return []
    return sorted({found[1] for file in folder.glob("*.json") if (found := NAMED.fullmatch(file.name))})


def read_part(folder: Path, embedder_id: str, ending: str, most: int) -> bytes:
    """Read a small file of an index. ValueError if it is no regular file, or has more than `most` bytes."""
    name = f"{embedder_id}.{ending}"
    if not NAMED.fullmatch(name):
        raise ValueError(f"{embedder_id!r} is no id of an embedder")
    if files.size_of(folder.parent, f"{folder.name}/{name}") > most:
        raise ValueError(f"{name} is too large")
    return (folder / name).read_bytes()
