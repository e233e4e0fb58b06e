"""`repair`: a store that can be read again after damage, with everything in it that is still what was written.

Nothing is deleted: what is damaged, or cannot be read now, moves to `damaged/`. Without `yes` it only says what it would
do, and writes nothing.
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
    """What is damaged and what becomes of it; the field names are those of `--json`."""

    ok: bool  # there is nothing to repair
    repaired: bool
    problems: tuple[Problem, ...]
    manifest_rebuilt: bool  # then removals and what was said of documents are lost
    shards: int  # that are whole
    records_saved: int  # written anew out of damaged shards
    records_lost: int  # as far as can be known
    documents_hurt: tuple[str, ...]  # that lost records, as far as can be known; packed again, they are whole
    keys_dropped: tuple[str, ...]  # embedders some keys of which are lost; `index build` makes them again
    set_apart: tuple[str, ...]  # files that move to `damaged/`
    unreadable: tuple[str, ...] = ()  # those of them that the system does not read now; they may be whole


@dataclass(frozen=True, slots=True)
class _Findings:
    state: Manifest  # what the store is to be, its shards and keys aside
    broken: Problem | None  # of the manifest
    shards: Sequence[Salvaged]
    keys: Sequence[SalvagedKeys]

    @property
    def problems(self) -> tuple[Problem, ...]:
        """Everything that is damaged, the manifest first."""
        every = [self.broken, *(part.problem for part in self.shards), *(part.problem for part in self.keys)]
        return tuple(found for found in every if found is not None)

    @property
    def set_apart(self) -> tuple[str, ...]:
        """The damaged files that are there."""
        return tuple(p.location for p in self.problems if p.kind != "missing_file")

    @property
    def unreadable(self) -> tuple[str, ...]:
        """Files that the system does not read. What is in them is not known."""
        return tuple(p.location for p in self.problems if p.kind == "unreadable")


@checked()
def repair(store: str | Path, *, yes: bool = False, model: str | None = None, lock_wait: float = 0.0) -> RepairReport:
    """Make a store readable again: the manifest from its shards, new shards of the whole records of damaged ones.

    `model` is needed only where the manifest is lost and the shards do not say whose they are. Raises NotFoundError,
    FormatTooNewError, FingerprintError, UsageError, StoreLockedError, WriteError; StoreDamagedError where nothing is left or
    a link stands for a folder of the store; ReadError where the system reads no shard, or not the manifest for want of
    permission.
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
        if error.errno in (errno.EACCES, errno.EPERM):  # it is there and whole as far as anybody knows
            raise
        return _rebuilt(path, problem(manifest.FILE_NAME, error), model)
    shards = [examine(path, entry.path, entry, state) for entry in state.shards]
    return _Findings(state, None, shards, [examine_keys(path, entry.path, entry) for entry in state.keys])


def _rebuilt(path: Path, broken: Problem, model: str | None) -> _Findings:
    """What the shards say by themselves, where no manifest can be read."""
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
    required = (manifest.CONTEXT,) if any(part.context for part in shards) else ()
    state = replace(state, generation=max(part.generation for part in shards), required=required)
    return _Findings(state, broken, shards, keys)


def _state(headers: Sequence[dict[str, Any]], model: str | None) -> Manifest:
    """An empty store of the model whose shards these are."""
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
        raise UsageError("the shards do not say in full which model they belong to. Pass it as model=….") from error
    if origin.id != identity:
        raise UsageError("what the shards say of their model contradicts itself. Pass the model as model=….")
    return Manifest(origin, int(found["vocabulary"]))


def _files(path: Path, folder: str) -> list[str]:
    """Safetensors files in a folder of the store. StoreDamagedError for a link or file in its place: nothing there is touched."""
    try:
        return [f"{folder}/{name}" for name in files.listing(path, folder, "*.safetensors")]
    except Refusal as refusal:
        raise refused(folder, refusal) from refusal


def _check_readable(path: Path, found: _Findings) -> None:
    """ReadError if the system reads no shard at all: the fault is not in the files, and nothing would be kept."""
    parts = found.shards
    if parts and all(part.problem is not None and part.problem.kind == "unreadable" for part in parts):
        raise ReadError(str(path / "shards"), "not one shard can be read, so nothing was set apart")


def _apply(path: Path, found: _Findings) -> None:
    """Set damaged files apart, rewrite the whole records, write the manifest, then remove the originals."""
    for wrong in found.problems:
        if wrong.kind != "missing_file":
            set_apart(path, wrong)
    transaction = Transaction(Store(path, found.state))
    shards: list[ShardEntry] = []
    for part in found.shards:
        upcoming = NextGeneration(transaction)
        upcoming.add(part.records, part.generation)  # in the place of the damaged one, so that the order stays
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
