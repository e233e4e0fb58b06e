"""`unpack` and `cat`: documents back from a store. Bytes leave only after their digest was compared."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from memvec.errors import NotFoundError, ReconstructionError, UsageError
from memvec.formats import files
from memvec.progress import Progress, Watch, enter, unwatched
from memvec.records import raw_bytes
from memvec.store import RecordRef, Store, StoredDocument, damaged
from memvec.types import Document, Kind, Record

if TYPE_CHECKING:
    from memvec.lm import FrozenLM

DECODE_BATCH = 16  # rows of a decoding step
RECORDS_AT_ONCE = 128  # read ahead, so that rows of one shape find each other


@dataclass(frozen=True, slots=True)
class UnpackReport:
    """What an unpack wrote; the field names are those of `--json`."""

    documents: int
    bytes: int
    tokens: int  # decoded with the model
    seconds: float
    files: tuple[str, ...]


def unpack(
    store: str | Path,
    output: str | Path,
    *,
    documents: Sequence[str] = (),
    model: str | None = None,
    overwrite: bool = False,
    batch: int = DECODE_BATCH,
    device: str | None = None,
    watch: Watch = unwatched,
) -> UnpackReport:
    """Write documents (all, or those matching a glob in `documents`) below `output`, each verified before it is written.

    `model` is by default the one named in the store; it must have the store's fingerprint. Raises NotFoundError,
    UsageError when a file is there and `overwrite` is not set, FingerprintError, StoreDamagedError, ReconstructionError.
    """
    begun = time.perf_counter()
    opened = Store.open(store)
    chosen = select(opened, documents)
    folder = Path(output)
    if not overwrite and (there := [d.document.name for d in chosen if (folder / d.document.name).exists()]):
        raise UsageError(
            f"{len(there)} file(s) exist in {str(folder)!r}, first {there[0]!r}. Pass --overwrite or another -o."
        )
    progress = Progress(documents=len(chosen))
    written, total = [], 0
    for document, data in restore(opened, chosen, model, batch, device, progress, watch):
        _write(folder, document.name, data)
        written.append(document.name)
        total += len(data)
    return UnpackReport(
        len(written), total, progress.tokens_done, round(time.perf_counter() - begun, 3), tuple(written)
    )


def cat(
    store: str | Path, document: str, *, model: str | None = None, batch: int = DECODE_BATCH, device: str | None = None
) -> bytes:
    """The verified bytes of the document of that name. Raises as `unpack` does."""
    opened = Store.open(store)
    live = opened.documents()
    if document not in live:
        raise NotFoundError(f"no document {document!r} in {str(store)!r}. `memvec list` shows the names.")
    ((_, data),) = restore(opened, [live[document]], model, batch, device, Progress(), unwatched)
    return data


def select(store: Store, globs: Sequence[str]) -> list[StoredDocument]:
    """Live documents whose name matches one of `globs`, all without any. NotFoundError for a glob that matches none."""
    live = store.documents()
    for glob in globs:
        if not any(fnmatchcase(name, glob) for name in live):
            raise NotFoundError(f"no document matches {glob!r}. `memvec list` shows the names.")
    return [d for name, d in live.items() if not globs or any(fnmatchcase(name, glob) for glob in globs)]


def restore(
    store: Store,
    documents: Sequence[StoredDocument],
    model: str | None,
    batch: int,
    device: str | None,
    progress: Progress,
    watch: Watch,
) -> Iterator[tuple[Document, bytes]]:
    """(document, verified bytes) of each of `documents`, in order; the model is loaded only when a record needs it."""
    lm: FrozenLM | None = None
    refs = [ref for document in documents for ref in document.records]
    progress.tokens = sum(int(store.shard(ref.shard).tensors["tokens"][ref.row]) for ref in refs)
    for group in _groups(documents):
        records = [(ref, store.record(ref)) for document in group for ref in document.records]
        if lm is None and any(record.kind != Kind.RAW for _, record in records):
            lm = load_for(store, model, device, progress, watch)
        enter("decoding", progress, watch)
        pieces = dict(zip([ref for ref, _ in records], decode_records(store, records, lm, batch), strict=True))
        for stored in group:
            data = b"".join(pieces[ref] for ref in stored.records)
            found = hashlib.sha256(data).hexdigest()
            if found != stored.document.sha256:
                raise ReconstructionError(stored.document.name, "(joined)", stored.document.sha256, found)
            progress.documents_done += 1
            yield stored.document, data
        progress.tokens_done += sum(record.tokens for _, record in records if record.kind != Kind.RAW)
        watch(progress)


def load_for(store: Store, model: str | None, device: str | None, progress: Progress, watch: Watch) -> FrozenLM:
    """The store's model, or `model` if it has the same fingerprint, in the numerics the store was certified in."""
    import torch

    from memvec.identity import check_fingerprint, fingerprint_folder
    from memvec.lm import FrozenLM, default_device
    from memvec.model_cache import resolve

    name = model or store.manifest.fingerprint.source
    folder = resolve(name, lambda message: enter(message, progress, watch))
    enter("loading the model", progress, watch)
    check_fingerprint(store.manifest.fingerprint, fingerprint_folder(folder, source=name))
    return FrozenLM(folder, torch.float32, device or default_device())


def decode_records(
    store: Store, records: Sequence[tuple[RecordRef, Record]], lm: FrozenLM | None, batch: int
) -> list[bytes]:
    """The verified bytes of each record. ReconstructionError names the first that decodes to anything else."""
    from memvec.decode import decode

    texts: dict[int, bytes] = {}
    exact = [i for i, (_, record) in enumerate(records) if record.kind != Kind.RAW]
    if exact and lm is not None:
        chosen = [records[i][1] for i in exact]
        ids = decode(
            lm, [r.vectors for r in chosen], [r.tokens for r in chosen], [r.corrections for r in chosen], batch
        )
        texts = {i: lm.decode(row).encode() for i, row in zip(exact, ids, strict=True)}
    out = []
    for i, (ref, record) in enumerate(records):
        data = texts[i] if i in texts else _raw(store, ref, record)
        found = hashlib.sha256(data).digest()
        if found != record.text_sha256:
            name = store.record_id(ref)[:12]
            raise ReconstructionError(record.document.name, name, record.text_sha256.hex(), found.hex())
        out.append(data)
    return out


def _raw(store: Store, ref: RecordRef, record: Record) -> bytes:
    try:
        return raw_bytes(record)
    except ValueError as error:
        raise damaged(f"{store.manifest.shards[ref.shard].path} record {ref.row}", "undecodable", str(error)) from None


def _groups(documents: Iterable[StoredDocument]) -> Iterator[list[StoredDocument]]:
    group: list[StoredDocument] = []
    for document in documents:
        group.append(document)
        if sum(len(d.records) for d in group) >= RECORDS_AT_ONCE:
            yield group
            group = []
    if group:
        yield group


def _write(folder: Path, name: str, data: bytes) -> None:
    target = folder / name
    folder.mkdir(parents=True, exist_ok=True)
    # The name was checked when it was read; a link already lying in the folder could still lead out of it.
    if not target.parent.resolve().is_relative_to(folder.resolve()):
        raise UsageError(
            f"{name!r} would be written outside {str(folder)!r} through a link. Unpack into an empty folder."
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    files.write_atomically(target, data)
