"""`unpack`, `read` and `cat`: documents back from a store. Bytes leave only after their digest was compared."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from memvec.decoder import Decoder
from memvec.errors import NoContentError, NotFoundError, PartialError, ReconstructionError, UsageError
from memvec.formats import files
from memvec.progress import Watch, unwatched
from memvec.settings import DECODE_BATCH
from memvec.sources import matches
from memvec.store import Store, StoredDocument
from memvec.types import Document, UnpackReport
from memvec.verdicts import Verdict

Allow = Literal["identical", "precision", "relative"]
INCOMPLETE = "incomplete: its pack was interrupted. Run the same pack again to finish it"


def unpack(
    store: str | Path,
    output: str | Path,
    *,
    documents: Sequence[str] = (),
    model: str | None = None,
    overwrite: bool = False,
    batch: int = DECODE_BATCH,
    device: str | None = None,
    allow: Allow = "identical",
    watch: Watch = unwatched,
) -> UnpackReport:
    """Write documents (all, or those matching a glob in `documents`) below `output`, each verified before it is written.

    `model` is by default the one named in the store; it must have the store's fingerprint, or with `allow` a verdict as
    near as that: what decodes to other bytes is an error all the same. Raises NotFoundError,
    UsageError when a file is there and `overwrite` is not set, FingerprintError, StoreDamagedError, ReconstructionError;
    of documents without whole content PartialError after the others are written, NoContentError when there is no other.
    """
    begun = time.perf_counter()
    opened = Store.open(store)
    chosen, skipped = _readable(select(opened, documents))
    folder = Path(output)
    _check_targets(folder, [stored.document.name for stored in chosen], overwrite)
    decoder = Decoder(opened, model, batch, device, watch, Verdict[allow.upper()])
    written, total = [], 0
    for document, data in _restore(decoder, chosen):
        _write(folder, document.name, data)
        written.append(document.name)
        total += len(data)
    seconds = round(time.perf_counter() - begun, 3)
    report = UnpackReport(len(written), total, decoder.progress.tokens_done, seconds, tuple(written))
    if skipped:
        raise PartialError(skipped, report, "Everything else was unpacked.")
    return report


def read(
    store: str | Path,
    documents: Sequence[str] = (),
    *,
    model: str | None = None,
    batch: int = DECODE_BATCH,
    device: str | None = None,
    allow: Allow = "identical",
    watch: Watch = unwatched,
) -> Iterator[tuple[str, bytes]]:
    """(name, verified bytes) of documents, all or those matching a glob, in order of name. Raises as `unpack` does."""
    opened = Store.open(store)
    chosen, skipped = _readable(select(opened, documents))
    for document, data in _restore(Decoder(opened, model, batch, device, watch, Verdict[allow.upper()]), chosen):
        yield document.name, data
    if skipped:
        raise PartialError(skipped, rest="Everything else was read.")


def cat(
    store: str | Path,
    document: str,
    *,
    model: str | None = None,
    batch: int = DECODE_BATCH,
    device: str | None = None,
    watch: Watch = unwatched,
) -> bytes:
    """The verified bytes of the document of that name. Raises as `unpack` does."""
    return content(Decoder(Store.open(store), model, batch, device, watch), document)


def content(decoder: Decoder, document: str) -> bytes:
    """As `cat`, from the store of a decoder, which may have its model loaded already."""
    live = decoder.store.documents()
    if document not in live:
        raise missing(decoder.store, document)
    chosen, _ = _readable([live[document]])
    ((_, data),) = _restore(decoder, chosen)
    return data


def missing(store: Store, name: str) -> NotFoundError:
    """The error for a document that is not there, or not whole."""
    if any(version.document.name == name for version in store.versions()):
        return NotFoundError(f"{name!r} is {INCOMPLETE}.")
    return NotFoundError(f"no document {name!r} in {str(store.path)!r}. `memvec list` shows the names.")


def select(store: Store, globs: Sequence[str]) -> list[StoredDocument]:
    """Live documents whose name matches one of `globs`, all without any. NotFoundError for a glob that matches none."""
    live = store.documents()
    for glob in globs:
        if not any(matches(name, [glob]) for name in live):
            raise NotFoundError(f"no document matches {glob!r}. `memvec list` shows the names.")
    return [d for name, d in live.items() if not globs or matches(name, globs)]


def _readable(documents: Sequence[StoredDocument]) -> tuple[list[StoredDocument], list[tuple[str, str]]]:
    """Those of `documents` whose content is whole, and the others as (name, reason); an error when all are others."""
    whole = [stored for stored in documents if stored.complete]
    begun = [stored.document.name for stored in documents if stored.records and not stored.complete]
    empty = [stored.document.name for stored in documents if not stored.records]
    if not whole and empty:
        raise NoContentError(*empty)
    if not whole and begun:
        raise NotFoundError(f"{begun[0]!r} is {INCOMPLETE}.")
    return whole, [*((name, INCOMPLETE) for name in begun), *((name, NoContentError.reason) for name in empty)]


def _restore(decoder: Decoder, documents: Sequence[StoredDocument]) -> Iterator[tuple[Document, bytes]]:
    """(document, bytes) of each of `documents`, in order, compared with every digest on the way."""
    for stored, pieces in decoder.documents(documents):
        for piece in pieces:
            if problem := piece.mismatch():
                raise problem
        data = b"".join(piece.data for piece in pieces)
        found = hashlib.sha256(data).hexdigest()
        if found != stored.document.sha256:
            raise ReconstructionError(stored.document.name, "(all joined)", stored.document.sha256, found)
        yield stored.document, data


def _check_targets(folder: Path, names: Sequence[str], overwrite: bool) -> None:
    """UsageError, before anything is decoded, when a document cannot be written where it belongs."""
    advice = "Pass another -o."
    for name in names:
        target = folder / name
        above = [parent for parent in target.parents if parent.is_relative_to(folder)]
        if target.is_dir() or any(parent.exists() and not parent.is_dir() for parent in above):
            raise UsageError(
                f"{name!r} cannot be written: a folder stands for a file in {str(folder)!r}, or the other way. {advice}"
            )
        # The name was checked when it was read; a link already lying in the folder could still lead out of it.
        if not target.parent.resolve().is_relative_to(folder.resolve()):
            raise UsageError(f"{name!r} would be written outside {str(folder)!r} through a link. {advice}")
    there = [name for name in names if (folder / name).exists()]
    if there and not overwrite:
        raise UsageError(
            f"{len(there)} file(s) exist in {str(folder)!r}, first {there[0]!r}. Pass --overwrite or another -o."
        )


def _write(folder: Path, name: str, data: bytes) -> None:
    target = folder / name
    target.parent.mkdir(parents=True, exist_ok=True)
    files.write_atomically(target, data)
