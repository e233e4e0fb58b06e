"""`verify`: is a store what was written (no model needed), and with `decode`, does it still give its documents back."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from memvec.decoder import Decoder
from memvec.errors import StoreDamagedError
from memvec.progress import Progress, Watch, unwatched
from memvec.settings import DECODE_BATCH
from memvec.store import PARSE_ERRORS, Store, StoredDocument, problem
from memvec.types import Kind, Problem


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What a verify looked at and found; the field names are those of `--json`."""

    ok: bool
    shards: int
    records: int
    documents: int
    incomplete: tuple[str, ...]  # documents of an interrupted pack; no damage
    decoded: int  # records decoded with the model and compared; never context ones
    seconds: float
    problems: tuple[Problem, ...]
    context_records: int = 0  # checked as far as digests and their report go; they do not decode


def verify(
    store: str | Path,
    *,
    decode: bool = False,
    model: str | None = None,
    batch: int = DECODE_BATCH,
    device: str | None = None,
    watch: Watch = unwatched,
) -> VerifyReport:
    """Check every file, digest and record of a store; with `decode`, decode all content and compare it too.

    What is wrong is in the report's `problems`, all of it. Raises only NotFoundError, FormatTooNewError and, with
    `decode`, FingerprintError.
    """
    begun = time.perf_counter()
    try:
        opened = Store.open(store)
    except StoreDamagedError as error:
        return VerifyReport(False, 0, 0, 0, (), 0, round(time.perf_counter() - begun, 3), error.problems)
    progress = Progress(stage="checking digests")
    problems = list(_structure(opened, progress, watch))
    versions = opened.versions() if not problems else []
    incomplete = [v.document.name for v in versions if v.unfinished]
    decoded = 0
    if versions:
        # Without a model only what is raw as a whole can be joined and compared; with it, all content. A memory has no
        # bytes to compare: its digests and its report, checked above, are all there is.
        chosen = [v for v in versions if v.records and (decode or _is_raw(opened, v))]
        decoder = Decoder(opened, model, batch, device, watch)
        problems += _contents(decoder, chosen)
        decoded = sum(len(v.records) for v in chosen) if decode else 0
    return VerifyReport(
        ok=not problems,
        shards=len(opened.manifest.shards),
        records=sum(entry.records for entry in opened.manifest.shards),
        documents=len(opened.documents()) if versions else 0,
        incomplete=tuple(incomplete),
        decoded=decoded,
        seconds=round(time.perf_counter() - begun, 3),
        problems=tuple(problems),
        context_records=sum(len(v.memory) + len(v.unjoined) for v in versions),
    )


def _structure(store: Store, progress: Progress, watch: Watch) -> Iterator[Problem]:
    """Everything wrong with shards and keys, as far as it can be told without joining documents."""
    for number, entry in enumerate(store.manifest.shards):
        watch(progress)
        try:
            shard = store.shard(number)
        except StoreDamagedError as error:
            yield from error.problems
            continue
        for row in range(len(shard)):
            try:
                shard.record(row)
            except PARSE_ERRORS as error:
                yield problem(f"{entry.path} record {row}", error)
    for keys in store.manifest.keys:
        watch(progress)
        try:
            store.keys(keys)
        except StoreDamagedError as error:
            yield from error.problems


def _is_raw(store: Store, version: StoredDocument) -> bool:
    return all(store.shard(ref.shard).tensors["kind"][ref.row] == Kind.RAW for ref in version.records)


def _contents(decoder: Decoder, versions: Sequence[StoredDocument]) -> Iterator[Problem]:
    """Every record that gives other bytes than were packed, and every document whose records do not join to it."""
    shards = decoder.store.manifest.shards
    try:
        for version, pieces in decoder.documents(versions):
            wrong = [piece for piece in pieces if piece.mismatch()]
            for piece in wrong:
                place = f"{shards[piece.ref.shard].path} record {piece.ref.row}"
                yield Problem(place, "wrong_text", f"{version.document.name}: gives other bytes than were packed")
            digest = hashlib.sha256(b"".join(piece.data for piece in pieces)).hexdigest()
            if version.complete and not wrong and digest != version.document.sha256:
                yield Problem(version.document.name, "wrong_text", "the joined records are not the document")
    except StoreDamagedError as error:
        yield from error.problems
