"""`repair`: make a damaged store readable again, with every record that still matches its digest.

Damaged and unreadable files move to `damaged/`; nothing is deleted. Without `yes`, repair only reports.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from memvec.arguments import checked
from memvec.errors import FingerprintError, NotFoundError, ReadError, StoreDamagedError, UsageError
from memvec.formats import files, manifest
from memvec.formats.manifest import Manifest, ShardEntry
from memvec.formats.refusal import Refusal
from memvec.maintenance.quarantine import FOLDER, set_apart
from memvec.maintenance.rewrite import NextGeneration
from memvec.maintenance.salvage import Salvaged, SalvagedKeys, examine, examine_keys, header
from memvec.store import catalogue
from memvec.store.lock import writing
from memvec.store.problems import damaged, problem, refused
from memvec.store.store import Store
from memvec.store.transaction import Transaction
from memvec.types import Fingerprint, Problem
from memvec.version import TOOL


@dataclass(frozen=True, slots=True)
class RepairReport:
    """The damage that `repair` found, and its result. The field names are those of `--json`."""

    ok: bool  # there is nothing to repair
    repaired: bool
    problems: tuple[Problem, ...]
    manifest_rebuilt: bool  # then removals and metadata are lost
    shards: int  # undamaged
    records_saved: int  # of damaged shards, written to new ones
    records_lost: int  # as far as it is known
    documents_hurt: tuple[str, ...]  # that lost records, as far as it is known. Pack them again
    keys_dropped: tuple[str, ...]  # embedders that lost keys. `build_index` makes them again
    set_apart: tuple[str, ...]  # files moved to `damaged/`
    unreadable: tuple[str, ...] = ()  # of them, files that the system cannot read now. They may be undamaged


@dataclass(frozen=True, slots=True)
class _Findings:
    state: Manifest  # of the repaired store, without its shards and keys
    broken: Problem | None  # the problem of the manifest
    shards: Sequence[Salvaged]
    keys: Sequence[SalvagedKeys]

    @property
    def problems(self) -> tuple[Problem, ...]:
        """All problems, the manifest's first."""
        every = [self.broken, *(part.problem for part in self.shards), *(part.problem for part in self.keys)]
        return tuple(found for found in every if found is not None)

    @property
    def set_apart(self) -> tuple[str, ...]:
        """The damaged files that exist."""
        return tuple(p.location for p in self.problems if p.kind != "missing_file")

    @property
    def unreadable(self) -> tuple[str, ...]:
        """Files that the system cannot read."""
        return tuple(p.location for p in self.problems if p.kind == "unreadable")


@checked()
def repair(store: str | Path, *, yes: bool = False, model: str | None = None, lock_wait: float = 0.0) -> RepairReport:
    """Make a damaged store readable again: save every record that still matches its digest.

    A lost manifest is made again from the shards; removals and metadata are lost with it. The sound records of damaged
    shards go into new shards. Damaged files move to the folder `damaged/` of the store. Nothing is deleted.

    Args:
        store: The store's folder.
        yes: Repair. By default nothing is written, and the report says what would be done.
        model: The model of the store. Needed when the manifest is lost and the shards do not name one model.
        lock_wait: How long to wait for another writer [s].

    Returns:
        The damage, and the records saved and lost.

    Raises:
        NotFoundError: There is no store, not even a damaged one; or no such model.
        UsageError: `model` is needed.
        FingerprintError: No shard belongs to `model`.
        FormatTooNewError: A newer memvec wrote the store.
        StoreDamagedError: No shard can be read, or a link stands for a folder of the store.
        ReadError: The system reads no shard, or denies access to the manifest.
        StoreLockedError: Another process is writing to the store.
        WriteError: A file cannot be written or moved.

    Example:
        >>> memvec.repair(store).ok
        True
        >>> size = (store / "manifest.json").write_bytes(b"damaged")
        >>> report = memvec.repair(store, yes=True)
        >>> report.manifest_rebuilt, report.records_lost
        (True, 0)
    """
    path = Path(store)
    if not Store.exists(path):
        raise NotFoundError(f"no store at {str(path)!r}, not even a damaged one.")
    with writing(path, lock_wait, dry_run=not yes):
        found = _examine(path, model)
        changed = bool(found.problems)
        if changed and yes:
            _check_readable(path, found)
            _apply(path, found)
    hurt = {name for part in found.shards for name in part.hurt}
    return RepairReport(
        ok=not changed,
        repaired=changed and yes,
        problems=found.problems,
        manifest_rebuilt=found.broken is not None,
        shards=sum(part.entry is not None for part in found.shards),
        records_saved=sum(len(part.records) for part in found.shards),
        records_lost=sum(part.lost or 0 for part in found.shards),
        documents_hurt=tuple(sorted(hurt)),
        keys_dropped=tuple(sorted({part.embedder or "unknown" for part in found.keys if part.entry is None})),
        set_apart=found.set_apart,
        unreadable=found.unreadable,
    )


def _examine(path: Path, model: str | None) -> _Findings:
    for folder in ("shards", "keys", FOLDER):
        _files(path, folder)
    try:
        state = Transaction.open(path).store.manifest
    except StoreDamagedError as error:
        return _rebuilt(path, error.problems[0], model)
    except ReadError as error:
        if error.errno in (errno.EACCES, errno.EPERM):  # it may well be undamaged
            raise
        return _rebuilt(path, problem(manifest.FILE_NAME, error), model)
    shards = [examine(path, entry.path, entry, state) for entry in state.shards]
    return _Findings(state, None, shards, [examine_keys(path, entry.path, entry) for entry in state.keys])


def _rebuilt(path: Path, broken: Problem, model: str | None) -> _Findings:
    """Examine the store without its manifest: shards name their model and generation."""
    there, there_keys = _files(path, "shards"), _files(path, "keys")
    headers = [found for file in there if (found := header(path, file)) is not None]
    if not headers:
        raise damaged(
            str(path), "invalid_value", "neither the manifest nor any shard can be read; nothing can be saved"
        )
    state = _state(headers, model)
    shards = [examine(path, file, None, state) for file in there]
    shards.sort(key=lambda part: (part.generation, part.path))
    keys = [examine_keys(path, file, None) for file in there_keys]
    required = tuple(sorted({feature for part in shards for feature in part.features}))
    state = replace(state, generation=max(part.generation for part in shards), required=required)
    return _Findings(state, broken, shards, keys)


def _state(headers: Sequence[dict[str, Any]], model: str | None) -> Manifest:
    """Return an empty manifest of the model that the shards name."""
    owners = {found["fingerprint"]: found for found in sorted(headers, key=lambda found: "origin" in found)}
    if model is not None:
        from memvec.identity.fingerprint import fingerprint

        mine = fingerprint(model)
        if mine.id not in owners:
            raise FingerprintError([("fingerprint", ", ".join(sorted(owners)), mine.id)])
        return Manifest(mine, int(owners[mine.id]["vocabulary"]))
    if len(owners) > 1:
        raise UsageError(
            f"the shards belong to {len(owners)} models: {', '.join(sorted(owners))}. Pass the one to keep as model=…."
        )
    ((identity, found),) = owners.items()
    try:
        origin = Fingerprint(**found["origin"])
    except (KeyError, TypeError) as error:
        raise UsageError("the shards do not describe their model completely. Pass the model as model=….") from error
    if origin.id != identity:
        raise UsageError("the shards contradict themselves about their model. Pass the model as model=….")
    return Manifest(origin, int(found["vocabulary"]))


def _files(path: Path, folder: str) -> list[str]:
    """List the safetensors files in a folder of the store. StoreDamagedError if the folder is a link or a file."""
    try:
        return [f"{folder}/{name}" for name in files.listing(path, folder, "*.safetensors")]
    except Refusal as refusal:
        raise refused(folder, refusal) from refusal


def _check_readable(path: Path, found: _Findings) -> None:
    """Raise ReadError if the system reads no shard at all: the fault is not in the files."""
    parts = found.shards
    if parts and all(part.problem is not None and part.problem.kind == "unreadable" for part in parts):
        raise ReadError(str(path / "shards"), "not one shard can be read, so no file was moved")


def _apply(path: Path, found: _Findings) -> None:
    """Set damaged files apart, write the sound records to new shards, switch the manifest, delete the originals."""
    for wrong in found.problems:
        if wrong.kind != "missing_file":
            set_apart(path, wrong)
    transaction = Transaction(Store(path, found.state))
    shards: list[ShardEntry] = []
    for part in found.shards:
        upcoming = NextGeneration(transaction)
        # In the damaged shard's place, because the order of shards decides which version is newest.
        upcoming.add(part.records, part.generation)
        shards += [part.entry] if part.entry else upcoming.shards
    state = replace(
        found.state,
        shards=tuple(dict.fromkeys(shards)),
        keys=tuple(part.entry for part in found.keys if part.entry is not None),
        generation=found.state.generation + 1,
        tool=TOOL,
    )
    transaction.switch(state)
    catalogue.refresh(transaction.store)
    named = {entry.path for entry in state.named} | {manifest.FILE_NAME}
    for location in found.set_apart:
        if location not in named:
            try:
                (path / location).unlink(missing_ok=True)
            except OSError as error:
                raise files.write_error(path / location, error) from error
