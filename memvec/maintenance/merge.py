"""`merge`: copy the documents of several stores into one. Records are written to new shards in their order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from memvec.arguments import checked
from memvec.errors import StoresDifferError, UsageError
from memvec.filesystem.names import check_together
from memvec.formats.keys import Keys
from memvec.formats.manifest import Manifest
from memvec.maintenance.rewrite import NextGeneration, by_embedder, chosen_keys, current, open_to_copy
from memvec.store import catalogue
from memvec.store.documents import Version
from memvec.store.lock import writing
from memvec.store.store import RecordRef, Store, StoredDocument
from memvec.store.transaction import Transaction
from memvec.types import Kind
from memvec.version import TOOL


@dataclass(frozen=True, slots=True)
class MergeReport:
    """The result of `merge`. The field names are those of `--json`."""

    changed: bool  # False: the output held everything already
    documents: int  # live documents of the output
    replaced: int  # documents with another version in an earlier store
    records: int  # added
    bytes: int  # of the added files
    dry_run: bool


@dataclass(frozen=True, slots=True)
class _Part:
    """Content or a memory of a document version, and where its records are."""

    records: tuple[tuple[Store, RecordRef], ...]
    complete: bool

    def joined(self, later: _Part) -> _Part:
        """Combine with the part of another store: the first complete one, else the records of both."""
        if self.complete or not later.records:
            return self
        if later.complete:
            return later
        known = {store.record_id(ref) for store, ref in self.records}
        return _Part(self.records + tuple(r for r in later.records if r[0].record_id(r[1]) not in known), False)


@dataclass(frozen=True, slots=True)
class _Merged:
    """A document version, combined from several stores."""

    content: _Part
    memory: _Part
    kv: _Part

    @property
    def usable(self) -> bool:
        """Is its content or a memory complete?"""
        return self.content.complete or self.memory.complete or self.kv.complete

    def joined(self, later: _Merged) -> _Merged:
        """Combine with the same version in another store, part by part."""
        return _Merged(self.content.joined(later.content), self.memory.joined(later.memory), self.kv.joined(later.kv))

    def outside(self, target: Store) -> Iterator[tuple[Store, RecordRef]]:
        """Yield the store and the place of each record that the target lacks."""
        every = (*self.content.records, *self.memory.records, *self.kv.records)
        return ((store, ref) for store, ref in every if store is not target)


@checked()
def merge(
    stores: Sequence[str | Path], output: str | Path, *, dry_run: bool = False, lock_wait: float = 0.0
) -> MergeReport:
    """Copy the documents of several stores into one. Of documents with one name, that of the last store is live.

    Removed documents are not copied. The output's own documents come first, so the others replace them.

    Args:
        stores: The stores to copy from. All belong to the same model.
        output: The store to copy into. It is made when it does not exist.
        dry_run: Report what would be copied. Nothing is written and no lock is taken.
        lock_wait: How long to wait for another writer [s].

    Returns:
        What was added and replaced.

    Raises:
        UsageError: No stores are given, one name would be a file and a folder, or `output` cannot be a store.
        NotFoundError: One of the stores does not exist.
        StoresDifferError: The stores belong to different models.
        FormatTooNewError: A newer memvec wrote a store, and a copy would lose something.
        StoreDamagedError: A record to copy is damaged.
        StoreLockedError: Another process is writing to the output.
        WriteError: A file cannot be written. The output is as it was.

    Example:
        >>> memvec.merge([store], tmp / "both.memvec").documents
        2
    """
    sources = [open_to_copy(path) for path in stores]  # refuses a newer format
    if not sources:
        raise UsageError("there is nothing to merge. Name the stores.")
    for source in sources[1:]:
        _check_same(sources[0], source)
    with writing(output, lock_wait, dry_run):
        new = not Store.exists(Path(output))
        transaction = _new(Path(output), sources, dry_run) if new else Transaction.open(output)
        target = transaction.store
        _check_same(target, sources[0])
        versions = _merged([target, *sources])
        live = {name: version for version, merged in versions.items() for name in [version[0]] if merged.usable}
        check_together(live)
        chosen = _not_replaced(versions, live)
        upcoming = NextGeneration(transaction, dry_run)
        upcoming.add(store.record(ref) for merged in chosen.values() for store, ref in merged.outside(target))
        for entries in by_embedder(entry for source in sources for entry in source.manifest.keys):
            upcoming.add_keys(_lacking(entries, target, sources, upcoming.texts))
        written = {version for version, merged in chosen.items() if any(merged.outside(target))}
        after = _following(target, sources, upcoming, written)
        before = target.manifest
        changed = new or after != before
        if changed and not dry_run:
            transaction.switch(replace(after, generation=before.generation + 1, tool=TOOL))
            catalogue.refresh(transaction.store)
    others = {version for version, merged in versions.items() if merged.usable} - set(live.values())
    records = sum(entry.records for entry in upcoming.shards)
    size = sum(entry.bytes for entry in after.named) - sum(entry.bytes for entry in before.named)
    return MergeReport(changed, len(live), len({name for name, _ in others}), records, size, dry_run)


def _new(path: Path, sources: Sequence[Store], dry_run: bool) -> Transaction:
    """Make an empty store of the first source's model. In a dry run it is not written."""
    first = sources[0].manifest
    explained = next((s.manifest for s in sources if s.manifest.tensors or s.manifest.probe), first)
    state = Manifest(first.fingerprint, first.vocabulary, tensors=explained.tensors, probe=explained.probe)
    return Transaction(Store(path, state)) if dry_run else Transaction.create(path, state)


def _check_same(first: Store, second: Store) -> None:
    differences = first.manifest.fingerprint.differences(second.manifest.fingerprint)
    if differences:
        raise StoresDifferError(str(first.path), str(second.path), differences)


def _merged(stores: Iterable[Store]) -> dict[Version, _Merged]:
    """Collect the live and unfinished versions of all stores; the newest of the last store comes last."""
    found: dict[Version, _Merged] = {}
    for store in stores:
        for stored in current(store.versions()):
            there, here = found.pop(stored.version, None), _of(store, stored)
            found[stored.version] = there.joined(here) if there is not None else here
    return found


def _of(store: Store, stored: StoredDocument) -> _Merged:
    def part(refs: Sequence[RecordRef], complete: bool) -> _Part:
        return _Part(tuple((store, ref) for ref in refs), complete)

    return _Merged(
        content=part(stored.records, stored.complete),
        memory=part(stored.memory_of(Kind.CONTEXT), bool(stored.memory)),
        kv=part(stored.memory_of(Kind.KV), bool(stored.kv)),
    )


def _not_replaced(versions: dict[Version, _Merged], live: dict[str, Version]) -> dict[Version, _Merged]:
    """Leave out versions that a newer live one replaces."""
    places = {version: place for place, version in enumerate(versions)}
    return {
        version: merged
        for version, merged in versions.items()
        if version[0] not in live or places[version] >= places[live[version[0]]]
    }


def _lacking(embedder_id: str, target: Store, sources: Sequence[Store], texts: set[bytes]) -> list[Keys]:
    """Return the keys of `texts` by one embedder that the target lacks."""
    own = [entry for entry in target.manifest.keys if entry.embedder_id == embedder_id]
    there = {text.tobytes() for entry in own for text in target.keys(entry).texts}
    files = [(s, entry) for s in sources for entry in s.manifest.keys if entry.embedder_id == embedder_id]
    return list(chosen_keys(files, texts - there))


def _following(target: Store, sources: Sequence[Store], upcoming: NextGeneration, written: set[Version]) -> Manifest:
    """Return the manifest after the merge. It equals the one before if there is nothing new."""
    state, said = target.manifest, {}
    for source in sources:
        names = {stored.document.name for stored in source.documents().values()}
        said.update({name: about for name, about in source.manifest.meta.items() if name in names})
    return replace(
        state,
        shards=(*state.shards, *upcoming.shards),
        keys=(*state.keys, *upcoming.keys),
        required=tuple(sorted({*state.required, *upcoming.features})),
        meta={**state.meta, **said},
        removed=tuple(version for version in state.removed if version not in written),
    )
