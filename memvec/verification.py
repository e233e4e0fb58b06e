"""`verify`: is a store what was written (no model needed), and with `decode`, does it still give its documents back."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from memvec.errors import ReconstructionError, StoreDamagedError
from memvec.progress import Progress, Watch, enter, unwatched
from memvec.records import raw_bytes
from memvec.store import PARSE_ERRORS, RecordRef, Store
from memvec.types import Kind, Problem
from memvec.unpacking import DECODE_BATCH, decode_records, load_for, restore


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What a verify looked at and found; the field names are those of `--json`."""

    ok: bool
    shards: int
    records: int
    documents: int
    incomplete: tuple[str, ...]  # documents of an interrupted pack; no damage
    decoded: int  # records decoded with the model and compared
    seconds: float
    problems: tuple[Problem, ...]


def verify(
    store: str | Path,
    *,
    decode: bool = False,
    model: str | None = None,
    batch: int = DECODE_BATCH,
    device: str | None = None,
    watch: Watch = unwatched,
) -> VerifyReport:
    """Check every file, digest and record of a store; with `decode`, decode every record and compare it too.

    What is wrong is in the report's `problems`, all of it. Raises only NotFoundError, FormatTooNewError and, with
    `decode`, FingerprintError.
    """
    begun = time.perf_counter()
    try:
        opened = Store.open(store)
    except StoreDamagedError as error:
        return VerifyReport(False, 0, 0, 0, (), 0, round(time.perf_counter() - begun, 3), error.problems)
    progress = Progress(stage="checking digests", documents=0)
    problems = list(_structure(opened))
    documents, incomplete, decoded = 0, [], 0
    if not problems:
        versions = opened.versions()
        documents = len(opened.documents())
        incomplete = [v.document.name for v in versions if not v.complete]
        if decode:
            decoded, wrong = _decode_all(opened, model, batch, device, progress, watch)
            problems += wrong
    return VerifyReport(
        ok=not problems,
        shards=len(opened.manifest.shards),
        records=sum(entry.records for entry in opened.manifest.shards),
        documents=documents,
        incomplete=tuple(incomplete),
        decoded=decoded,
        seconds=round(time.perf_counter() - begun, 3),
        problems=tuple(problems),
    )


def _structure(store: Store) -> Iterator[Problem]:
    """Everything wrong with the shards, as far as it can be told without the model."""
    for number, entry in enumerate(store.manifest.shards):
        try:
            shard = store.shard(number)
        except StoreDamagedError as error:
            yield from error.problems
            continue
        for row in range(len(shard)):
            try:
                record = shard.record(row)
                if record.kind == Kind.RAW:
                    raw_bytes(record)
            except PARSE_ERRORS as error:
                yield Problem(f"{entry.path} record {row}", "invalid_value", str(error))


def _decode_all(
    store: Store, model: str | None, batch: int, device: str | None, progress: Progress, watch: Watch
) -> tuple[int, list[Problem]]:
    """(records decoded, those that gave other bytes); one bad record does not hide the others."""
    live = list(store.documents().values())
    refs = [ref for document in live for ref in document.records]
    try:
        for _ in restore(store, live, model, batch, device, progress, watch):
            pass
    except ReconstructionError:
        return len(refs), list(_one_by_one(store, refs, model, device, progress, watch))
    return len(refs), []


def _one_by_one(
    store: Store, refs: list[RecordRef], model: str | None, device: str | None, progress: Progress, watch: Watch
) -> Iterator[Problem]:
    lm = load_for(store, model, device, progress, watch)
    enter("decoding one by one", progress, watch)
    for ref in refs:
        try:
            decode_records(store, [(ref, store.record(ref))], lm, 1)
        except ReconstructionError as error:
            path = store.manifest.shards[ref.shard].path
            yield Problem(f"{path} record {ref.row}", "wrong_text", f"{error.document}: decodes to other bytes")
