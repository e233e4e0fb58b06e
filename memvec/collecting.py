"""`gc`: removes the files that a store is not made of any more. Only what memvec itself writes is looked at."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from memvec import index
from memvec.arguments import checked
from memvec.formats import files
from memvec.locking import writing
from memvec.lookup import fits
from memvec.rewriting import open_to_write
from memvec.store import Store

FOLDERS = ("", "shards", "keys", index.FOLDER, "damaged")
IMMUTABLE = re.compile(r"[0-9a-f]{64}\.safetensors")
INDEXED = re.compile(r"([0-9a-f]{16})\.(json|faiss|space)")


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
    Store.open(store)  # NotFoundError before a lock is made
    with writing(store, lock_wait):
        opened = open_to_write(store)
        found = sorted(_stale(opened))
        size = sum(file.stat().st_size for file in found)
        if not dry_run:
            for file in found:
                try:
                    file.unlink(missing_ok=True)
                except OSError as error:
                    raise files.refused(file, error) from error
            for folder in {file.parent for file in found}:
                files.sync_folder(folder)
    return CollectReport(tuple(file.relative_to(opened.path).as_posix() for file in found), size, dry_run)


def _stale(store: Store) -> Iterator[Path]:
    state = store.manifest
    named = {store.path / entry.path for entry in state.named}
    # What lies behind a link is not the store's to remove.
    own = [folder for folder in FOLDERS if not (folder and (store.path / folder).is_symlink())]
    for folder in own:
        yield from (file for file in (store.path / folder).glob(f"{files.SCRATCH}*") if file.is_file())
    for folder in {"shards", "keys"} & set(own):
        there = (file for file in (store.path / folder).glob("*") if IMMUTABLE.fullmatch(file.name))
        yield from (file for file in there if file not in named)
    for file in (store.path / index.FOLDER).glob("*") if index.FOLDER in own else ():
        parts = INDEXED.fullmatch(file.name)
        if parts and not _fitting(store, parts[1]):
            yield file


def _fitting(store: Store, embedder_id: str) -> bool:
    """Is there an index of keys of that embedder, all of which the store still has?"""
    info = index.describe(store.path / index.FOLDER, embedder_id)
    entries = [entry for entry in store.manifest.keys if entry.embedder_id == embedder_id]
    return info is not None and fits(info, entries)
