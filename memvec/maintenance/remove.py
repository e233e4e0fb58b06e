"""`rm`: documents that no longer count. Their bytes stay until the store is compacted and collected."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from memvec.arguments import checked
from memvec.errors import UsageError
from memvec.filesystem.names import select, several
from memvec.maintenance.rewrite import refs_of
from memvec.store import catalogue
from memvec.store.store import Store
from memvec.store.transaction import changing
from memvec.version import TOOL


@dataclass(frozen=True, slots=True)
class RemoveReport:
    """What was removed; the field names are those of `--json`."""

    documents: tuple[str, ...]  # names
    versions: int  # with the older and the unfinished ones of these names
    records: int
    dry_run: bool
    rules: tuple[str, ...] = ()  # by which rule each thing that was asked for was taken: "notes: exact name"


@checked()
def rm(
    store: str | Path, documents: str | Sequence[str], *, dry_run: bool = False, lock_wait: float = 0.0
) -> RemoveReport:
    """Remove every version of some documents, and what is said of them.

    A removed document does not come back by itself; packed again, its old records count again.

    Args:
        store: The store's folder.
        documents: Exact names, or patterns as gitignore has them (see `memvec.filesystem.names`). What is the name of a document
            means that document alone, and a plain word is never a pattern: "notes" does not mean "sub/notes".
        dry_run: Say what would be removed. Nothing is written, and no lock is needed.
        lock_wait: How long to wait for another writer [s].

    Returns:
        What was removed, and by which rule.

    Raises:
        UsageError: No documents are given, or a pattern is broken.
        NotFoundError: There is no store, or something that was asked for matches no document: nothing is removed.
        StoreLockedError, WriteError: The store cannot be written to.
    """
    if not several(documents):
        raise UsageError("no documents are named to remove. `memvec list` shows the names, '*' means all of them.")
    if dry_run:
        return _chosen(Store.open(store), documents, dry_run)[0]
    with changing(store, lock_wait) as transaction:
        report, removed = _chosen(transaction.store, documents, dry_run)
        transaction.commit(
            [],
            TOOL,
            meta={name: {} for name in report.documents},
            removed=removed | set(transaction.store.manifest.removed),
        )
        catalogue.refresh(transaction.store)
    return report


def _chosen(opened: Store, documents: str | Sequence[str], dry_run: bool) -> tuple[RemoveReport, set[tuple[str, str]]]:
    """(what removing `documents` means, the versions that go)."""
    versions = opened.versions()
    known = {stored.document.name for stored in versions}
    removed = {name for name, _ in opened.manifest.removed} - known
    chosen = select(documents, known, removed)
    names = set(chosen.names)
    gone = [stored for stored in versions if stored.document.name in names]
    records = sum(len(refs_of(stored)) for stored in gone)
    report = RemoveReport(chosen.names, len(gone), records, dry_run, chosen.rules)
    return report, {(stored.document.name, stored.document.sha256) for stored in gone}
