"""`gc`: removes the files that a store is not made of any more. Only what memvec itself writes is looked at."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from memvec.arguments import checked
from memvec.formats import files
from memvec.formats.refusal import Refusal
from memvec.store import index_files
from memvec.store.store import Store
from memvec.store.transaction import changing

FOLDERS = ("", "shards", "keys", index_files.FOLDER, "damaged")
IMMUTABLE = re.compile(r"[0-9a-f]{64}\.safetensors")


@dataclass(frozen=True, slots=True)
class CollectReport:
    """What was collected; the field names are those of `--json`."""

    files: tuple[str, ...]  # relative to the store
    bytes: int
    dry_run: bool


@checked()
def gc(store: str | Path, *, dry_run: bool = False, lock_wait: float = 0.0) -> CollectReport:
    """Remove shards and keys that the manifest does not name, unfinished writes and indexes of keys that are gone.

    A reader that opened an older generation may meet StoreChangedError; what it was opened for is in the newer one, or was
    removed. Raises NotFoundError, StoreDamagedError where there is no manifest to go by, StoreLockedError, WriteError.
    """
    with changing(store, lock_wait, dry_run) as transaction:
        opened = transaction.store
        found = sorted(_stale(opened))
        size = sum(files.size_of(opened.path, file.relative_to(opened.path).as_posix()) for file in found)
        if not dry_run:
            for file in found:
                try:
                    file.unlink(missing_ok=True)
                except OSError as error:
                    raise files.write_error(file, error) from error
            for folder in {file.parent for file in found}:
                try:
                    files.sync_folder(folder)
                except OSError as error:
                    raise files.write_error(folder, error) from error
    return CollectReport(tuple(file.relative_to(opened.path).as_posix() for file in found), size, dry_run)


def _stale(store: Store) -> Iterator[Path]:
    state = store.manifest
    named = {store.path / entry.path for entry in state.named}
    for folder in FOLDERS:
        yield from _regular(store, folder, f"{files.SCRATCH}*")
    for folder in ("shards", "keys"):
        there = (file for file in _regular(store, folder, "*") if IMMUTABLE.fullmatch(file.name))
        yield from (file for file in there if file not in named)
    for file in _regular(store, index_files.FOLDER, "*"):
        parts = index_files.NAMED.fullmatch(file.name)
        if parts and not _fitting(store, parts[1]):
            yield file


def _regular(store: Store, folder: str, pattern: str) -> Iterator[Path]:
    """The regular files in a folder of the store; none where a link stands for the folder, which leads elsewhere."""
    try:
        names = files.listing(store.path, folder, pattern)
    except Refusal:
        return
    for name in names:
        path = store.path / folder / name
        try:
            files.size_of(store.path, path.relative_to(store.path).as_posix())
        except Refusal:
            continue
        yield path


def _fitting(store: Store, embedder_id: str) -> bool:
    """Is there an index of keys of that embedder, all of which the store still has?"""
    info = index_files.describe(store.path / index_files.FOLDER, embedder_id)
    entries = [entry for entry in store.manifest.keys if entry.embedder_id == embedder_id]
    return info is not None and index_files.fits(info, entries)
