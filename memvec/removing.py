"""`rm`: documents that no longer count. Their bytes stay until the store is compacted and collected."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from memvec import __version__, catalogue
from memvec.arguments import checked
from memvec.errors import NotFoundError
from memvec.locking import writing
from memvec.rewriting import open_to_write, refs_of
from memvec.sources import matches
from memvec.store import Store


@dataclass(frozen=True, slots=True)
class RemoveReport:
    """What was removed; the field names are those of `--json`."""

    documents: tuple[str, ...]  # names
    versions: int  # with the older and the unfinished ones of these names
    records: int
    dry_run: bool


@checked()
def rm(store: str | Path, documents: Sequence[str], *, dry_run: bool = False, lock_wait: float = 0.0) -> RemoveReport:
    """Remove every version of documents by name or glob, and what is said of them.

    A removed document does not come back by itself; packed again, its old records count again. NotFoundError where a
    name or glob matches nothing: then nothing is removed. StoreLockedError, WriteError.
    """
    Store.open(store)  # NotFoundError before a lock is made
    with writing(store, lock_wait):
        opened = open_to_write(store)
        versions = opened.versions()
        names = sorted({stored.document.name for stored in versions})
        for glob in documents:
            if not any(matches(name, [glob]) for name in names):
                raise NotFoundError(
                    f"no document matches {glob!r}; nothing was removed. `memvec list` shows the names."
                )
        gone = [stored for stored in versions if matches(stored.document.name, documents)]
        found = sorted({stored.document.name for stored in gone})
        if found and not dry_run:
            removed = {(stored.document.name, stored.document.sha256) for stored in gone}
            opened.commit(
                [],
                f"memvec {__version__}",
                meta={name: {} for name in found},
                removed=removed | set(opened.manifest.removed),
            )
            catalogue.refresh(opened)
    return RemoveReport(tuple(found), len(gone), sum(len(refs_of(stored)) for stored in gone), dry_run)
