"""`verify`: compare a store with its digests, without a model. With `decode`, also decode its documents and compare them."""

from __future__ import annotations

import hashlib
import random
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from memvec.arguments import anything, checked
from memvec.decoding.reader import RECORDS_AT_ONCE, Piece, Reader
from memvec.errors import ReadError, StoreDamagedError, UsageError
from memvec.identity.runtime import Opening, Runtime, path_of, runtime_of
from memvec.progress import Progress, Watch
from memvec.store.problems import PARSE_ERRORS, problem
from memvec.store.store import RecordRef, Store, StoredDocument
from memvec.types import Kind, Problem

if TYPE_CHECKING:
    from typing_extensions import Unpack

FEW_AT_ONCE = 32  # records


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """The result of `verify`. The field names are those of `--json`."""

    ok: bool  # no problem was found; with `partial` not everything was checked
    shards: int
    records: int
    documents: int
    incomplete: tuple[str, ...]  # documents of an interrupted pack; no damage
    decoded: int  # records decoded and compared; context and kv records do not decode
    seconds: float
    problems: tuple[Problem, ...]
    context_records: int = 0  # their digests and reports are checked; they do not decode
    checked: int = 0  # records whose digest was compared
    decodable: int = 0  # records that a complete `decode` decodes
    escalated: int = 0  # records that were right only when they were decoded again
    sampled: bool = False  # only a sample was decoded
    partial: bool = False  # not everything was checked, because of the sample or the time limit
    kv_records: int = 0  # as context_records


@checked(sample=anything)
def verify(
    store: str | Path | Store | Runtime,
    *,
    decode: bool = False,
    sample: str | int | None = None,
    seed: int = 0,
    max_seconds: float | None = None,
    **opening: Unpack[Opening],
) -> VerifyReport:
    """Check every file, digest and record of a store, and with `decode` its content too. Damage is reported, not raised.

    Without `decode` no model is loaded. The files are read anew, also if `store` was opened before.

    Args:
        store: The store, or what `memvec.open` returns.
        decode: Decode all content and compare it with its digests.
        sample: How many records to decode, as a number or as a share such as "5%"; by default all. Raw records are always
            compared.
        seed: The seed that the sample is drawn with.
        max_seconds: Stop after this time and report what was checked until then.
        **opening: As in `memvec.open`: model, device, batch, watch.

    Returns:
        What was checked, and every problem that was found.

    Raises:
        NotFoundError: There is no store, or with `decode` no model.
        FingerprintError: With `decode`: the model is not the one that packed.
        FormatTooNewError: A newer memvec made the store.
        ReadError: The system refuses to read the manifest.
        UsageError: The arguments do not go together.

    Example:
        >>> memvec.verify(store).ok
        True
        >>> memvec.verify(store, decode=True, sample=2, model=model).problems
        ()
    """
    begun = time.perf_counter()
    _check(decode, sample, max_seconds)
    try:
        opened = Store.open(path_of(store))
    except StoreDamagedError as error:
        return VerifyReport(False, 0, 0, 0, (), 0, round(time.perf_counter() - begun, 3), error.problems)
    runtime = runtime_of(store, opened, **opening)
    run = _Run(opened, None if max_seconds is None else begun + max_seconds, runtime.watch)
    reader = Reader(runtime.reading(opened, run.watch_time))
    versions: list[StoredDocument] = []
    try:
        run.structure()
        versions = opened.versions() if not run.problems else []
        at_once = run.at_once(reader, decode)
        parts = _parts(opened, versions, decode, sample, seed, at_once, shuffled=max_seconds is not None)
        run.contents(reader, parts, decode)
    except _TimeIsUp:
        pass
    decodable = sum(len(v.records) for v in versions)
    return VerifyReport(
        ok=not run.problems,
        shards=len(opened.manifest.shards),
        records=sum(entry.records for entry in opened.manifest.shards),
        documents=len(opened.documents()) if versions else 0,
        incomplete=tuple(v.document.name for v in versions if v.unfinished),
        decoded=run.decoded,
        seconds=round(time.perf_counter() - begun, 3),
        problems=tuple(run.problems),
        context_records=sum(len(v.memory_of(Kind.CONTEXT)) for v in versions),
        kv_records=sum(len(v.memory_of(Kind.KV)) for v in versions),
        checked=run.checked,
        decodable=decodable,
        escalated=reader.retries.helped.total(),
        sampled=sample is not None,
        partial=not run.finished or (decode and run.decoded < decodable),
    )


class _TimeIsUp(Exception):
    """Stops the check. The report has what was checked until then."""


@dataclass(frozen=True, slots=True)
class _Part:
    """Records of one version that are decoded together."""

    version: StoredDocument
    records: tuple[RecordRef, ...]
    begins: bool  # it has the first record of the version
    ends: bool  # it has the last record, and the parts before it have all others


@dataclass(slots=True)
class _Run:
    """A verification in progress."""

    store: Store
    until: float | None  # the time limit, as perf_counter [seconds]
    watch: Watch
    problems: list[Problem] = field(default_factory=list)
    checked: int = 0
    decoded: int = 0
    finished: bool = False

    def at_once(self, reader: Reader, decode: bool) -> int:
        """Records decoded together: few with a time limit, because a batch that is not finished is not reported."""
        if self.until is not None:
            return FEW_AT_ONCE
        return reader.at_once if decode else RECORDS_AT_ONCE  # `at_once` loads torch

    def watch_time(self, progress: Progress) -> None:
        """As `watch`, and stops the check at the time limit."""
        self.watch(progress)
        if self.until is not None and time.perf_counter() > self.until:
            raise _TimeIsUp

    def structure(self) -> None:
        """Check shards, records and key files, without joining documents."""
        progress = Progress(stage="checking digests")
        for number, entry in enumerate(self.store.manifest.shards):
            self.watch_time(progress)
            try:
                shard = self.store.shard(number)
            except StoreDamagedError as error:
                self.problems += error.problems
                continue
            except ReadError as error:
                self.problems.append(problem(entry.path, error))
                continue
            for row in range(len(shard)):
                if row % 1024 == 0:
                    self.watch_time(progress)
                try:
                    shard.record(row)
                except PARSE_ERRORS as error:
                    self.problems.append(problem(f"{entry.path} record {row}", error))
                self.checked += 1
        for keys in self.store.manifest.keys:
            self.watch_time(progress)
            try:
                self.store.keys(keys)
            except StoreDamagedError as error:
                self.problems += error.problems
            except ReadError as error:
                self.problems.append(problem(keys.path, error))

    def contents(self, reader: Reader, parts: Sequence[_Part], decode: bool) -> None:
        """Check that records give the packed bytes, and that these join to the documents."""
        joined, wrong, left = hashlib.sha256(), False, len(parts)
        self.finished = not left
        chosen = [replace(part.version, records=part.records) for part in parts]
        try:
            for part, (_, pieces) in zip(parts, reader.documents(chosen, self.at_once(reader, decode)), strict=True):
                if part.begins:
                    joined, wrong = hashlib.sha256(), False
                bad = [piece for piece in pieces if piece.error]
                self.problems += [self._wrong(part.version, piece) for piece in bad]
                self.decoded += len(pieces) if decode else 0
                wrong = wrong or bool(bad)
                for piece in pieces:
                    joined.update(piece.data)
                document = part.version.document
                if part.ends and part.version.complete and not wrong and joined.hexdigest() != document.sha256:
                    self.problems.append(
                        Problem(document.name, "wrong_text", "the joined records are not the document")
                    )
                left -= 1
                self.finished = not left
        except StoreDamagedError as error:
            self.problems += error.problems

    def _wrong(self, version: StoredDocument, piece: Piece) -> Problem:
        place = f"{self.store.manifest.shards[piece.ref.shard].path} record {piece.ref.row}"
        why = f"{version.document.name}: decodes to other bytes than were packed"
        if piece.error is not None and piece.error.tried:
            at = "" if piece.error.position is None else f"token {piece.error.position}: "
            why += f" ({', then '.join(piece.error.tried)}; {at}{piece.error.evidence})"
        return Problem(place, "wrong_text", why)


def sample_size(sample: str | int, records: int) -> int:
    """The number of records in a sample of "5%" or 20 of `records`: at least one, at most all. UsageError."""
    text = str(sample).strip()
    if not re.fullmatch(r"[0-9]{1,18}|[0-9]{0,3}\.?[0-9]{1,18}\s*%", text):
        raise UsageError(f"sample is {text!r}, expected a number of records, or a share as in 5%.")
    number, share = float(text.rstrip("% ")), text.endswith("%")
    if number == 0 or (share and number > 100):
        raise UsageError(f"sample is {text!r}, expected at least one record and at most 100%.")
    return min(records, max(1, round(number / 100 * records)) if share else int(number))


def _check(decode: bool, sample: str | int | None, max_seconds: float | None) -> None:
    if sample is not None:
        sample_size(sample, 1)
        if not decode:
            raise UsageError("a sample is of records to decode; digests are always compared. Pass decode=True with it.")
    if max_seconds is not None and not max_seconds > 0:
        raise UsageError(f"max_seconds is {max_seconds}, expected more than 0.")


def _parts(
    store: Store,
    versions: Sequence[StoredDocument],
    decode: bool,
    sample: str | int | None,
    seed: int,
    at_once: int,
    shuffled: bool,
) -> list[_Part]:
    """The records to decode, in that order."""
    chance, drawn = random.Random(seed), None
    versions = [v for v in versions if v.records]
    if not decode:
        # Without a model only documents whose records are all raw can be compared. Memories have no bytes to compare.
        versions = [v for v in versions if all(_is_raw(store, ref) for ref in v.records)]
    if sample is not None:
        fitted = [ref for v in versions for ref in v.records if not _is_raw(store, ref)]
        drawn = set(chance.sample(fitted, sample_size(sample, len(fitted))))
        drawn |= {ref for v in versions for ref in v.records if _is_raw(store, ref)}
    if shuffled:
        chance.shuffle(versions)  # with another seed, other documents are checked within the time limit
    return [part for version in versions for part in _cut(version, drawn, at_once)]


def _cut(version: StoredDocument, drawn: set[RecordRef] | None, size: int) -> Iterator[_Part]:
    refs = tuple(ref for ref in version.records if drawn is None or ref in drawn)
    whole = len(refs) == len(version.records)
    for at in range(0, len(refs), size):
        yield _Part(version, refs[at : at + size], begins=at == 0, ends=whole and at + size >= len(refs))


def _is_raw(store: Store, ref: RecordRef) -> bool:
    return bool(store.value(ref, "kind") == Kind.RAW)
