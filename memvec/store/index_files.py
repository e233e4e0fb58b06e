"""The files of kept indexes in a store, and what their descriptions say. Knows no FAISS."""

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
    """A kept index: what it was made of, and how."""

    embedder: str
    embedder_id: str
    factory: str
    texts: int
    width: int
    keys: tuple[str, ...]  # digests of the files of keys in it, in order
    sha256: str  # of the FAISS file
    space: str  # of the file of the space


def describe(folder: Path, embedder_id: str) -> IndexInfo | None:
    """The description of a kept index, whoever built it; None when there is none or it cannot be read."""
    try:
        value = json.loads(read_part(folder, embedder_id, "json", MOST_DESCRIBED))
        info = IndexInfo(**value | {"keys": tuple(value["keys"])})
        sizes = type(info.texts) is type(info.width) is int and info.texts > 0 < info.width
        texts = all(type(text) is str for text in (info.factory, info.sha256, info.space, *info.keys))
        return info if sizes and texts and info.embedder_id == embedder_id else None
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None


def fits(info: IndexInfo, entries: Sequence[KeysEntry]) -> bool:
    """Are all keys in a kept index still part of the store?"""
    return bool(info.keys) and set(info.keys) <= {entry.sha256 for entry in entries}


def kept(folder: Path) -> list[str]:
    """The ids of all embedders with a kept index in the folder, whoever built it."""
    if folder.is_symlink():  # what lies behind it is not the store's
        return []
    return sorted({found[1] for file in folder.glob("*.json") if (found := NAMED.fullmatch(file.name))})


def read_part(folder: Path, embedder_id: str, ending: str, most: int) -> bytes:
    """The bytes of a small file of an index. ValueError for a link, for anything but a file, and for more than `most` bytes."""
    name = f"{embedder_id}.{ending}"
    if not NAMED.fullmatch(name):
        raise ValueError(f"{embedder_id!r} is no id of an embedder")
    if files.size_of(folder.parent, f"{folder.name}/{name}") > most:
        raise ValueError(f"{name} is too large")
    return (folder / name).read_bytes()
