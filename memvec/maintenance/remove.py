"""`rm`: remove documents. Their bytes stay on disk until `compact` and `gc`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from memvec.arguments import checked
from memvec.errors import UsageError
from memvec.filesystem.names import select, several
from memvec.maintenance.rewrite import refs_of
from memvec.store import catalogue
from memvec.store.documents import Version
from memvec.store.store import Store
from memvec.store.transaction import changing
from memvec.version import TOOL


@dataclass(frozen=True, slots=True)
class RemoveReport:
    """The result of `rm`. The field names are those of `--json`."""

    documents: tuple[str, ...]  # names
    versions: int  # of these names, older and unfinished ones too
    records: int
    dry_run: bool
    rules: tuple[str, ...] = ()  # how each name or pattern was understood: "notes: exact name"


@checked()
def rm(
    store: str | Path, documents: str | Sequence[str], *, dry_run: bool = False, lock_wait: float = 0.0
) -> RemoveReport:
    """Remove every version of some documents, and their metadata.

    Their bytes stay on disk until `compact` and `gc`. When a removed document is packed again before that, its records are
    reused.

    Args:
        store: The store's folder.
        documents: Exact names, or patterns as in gitignore (see `memvec.filesystem.names`). An exact name stands for that
            document alone. A plain word is no pattern: "notes" does not match "sub/notes".
        dry_run: Report what would be removed. Nothing is written and no lock is taken.
        lock_wait: How long to wait for another writer [s].

    Returns:
        The removed documents, and the rule by which each was chosen.

    Raises:
        UsageError: No documents are given, or a pattern is broken.
        NotFoundError: There is no store, or a name or pattern matches no document. Nothing is removed then.
        FormatTooNewError: A newer memvec wrote the store, and removing would lose something.
        StoreDamagedError: The store cannot be read.
        StoreLockedError: Another process is writing to the store.
        WriteError: The store cannot be written to.

    Example:
        >>> memvec.rm(store, "letters/*").documents
        ('letters/jane.txt',)
        >>> [row.name for row in memvec.documents(store)]
        ['harbour.txt']
    """
    if not several(documents):
        raise UsageError("no documents are named. `memvec.documents(…)` lists the names, '*' means all of them.")
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


def _chosen(opened: Store, documents: str | Sequence[str], dry_run: bool) -> tuple[RemoveReport, set[Version]]:
    """(report, removed versions)."""
    versions = opened.versions()
    known = {stored.document.name for stored in versions}
    removed = {name for name, _ in opened.manifest.removed} - known
    chosen = select(documents, known, removed)
    names = set(chosen.names)
    gone = [stored for stored in versions if stored.document.name in names]
    records = sum(len(refs_of(stored)) for stored in gone)
    report = RemoveReport(chosen.names, len(gone), records, dry_run, chosen.rules)
    return report, {stored.version for stored in gone}
