"""`gc`: delete the files that the store no longer references. It looks only at files with names that memvec gives."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from memvec.arguments import checked
from memvec.formats import files
from memvec.formats.refusal import Refusal
from memvec.maintenance import quarantine
from memvec.store import index_files
from memvec.store.store import Store
from memvec.store.transaction import changing

FOLDERS = ("", "shards", "keys", index_files.FOLDER, quarantine.FOLDER)
IMMUTABLE = re.compile(r"[0-9a-f]{64}\.safetensors")


@dataclass(frozen=True, slots=True)
class CollectReport:
    """The files that `gc` deleted. The field names are those of `--json`."""

    files: tuple[str, ...]  # relative to the store
    bytes: int
    dry_run: bool


@checked()
def gc(store: str | Path, *, dry_run: bool = False, lock_wait: float = 0.0) -> CollectReport:
    """Delete the files that the store no longer references: old shards and keys, unfinished writes, unused indexes.

    Only files that memvec wrote are deleted. A reader of an older generation may then meet StoreChangedError.

    Args:
        store: The store's folder.
        dry_run: Report what would be deleted. Nothing is deleted and no lock is taken.
        lock_wait: How long to wait for another writer [s].

    Returns:
        The deleted files and their size.

    Raises:
        NotFoundError: There is no store.
        FormatTooNewError: A newer memvec wrote the store, so its files cannot all be known.
        StoreDamagedError: The manifest is damaged or missing.
        StoreLockedError: Another process is writing to the store.
        WriteError: A file cannot be deleted.

    Example:
        >>> removed, rewritten = memvec.rm(store, "harbour.txt"), memvec.compact(store)
        >>> len(memvec.gc(store).files) > 0
        True
        >>> memvec.gc(store).files
        ()
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
        if parts and not _is_usable(store, parts[1]):
            yield file


def _regular(store: Store, folder: str, pattern: str) -> Iterator[Path]:
    """Yield the regular files in a folder of the store. A folder that is a link leads elsewhere and is left out."""
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


def _is_usable(store: Store, embedder_id: str) -> bool:
    """Is there an index of that embedder, and does the store still have all its keys?"""
    info = index_files.describe(store.path / index_files.FOLDER, embedder_id)
    entries = [entry for entry in store.manifest.keys if entry.embedder_id == embedder_id]
    return info is not None and index_files.matches(info, entries)
