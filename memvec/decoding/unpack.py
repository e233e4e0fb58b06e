"""`unpack`, `read` and `cat`: documents back from a store. Bytes leave only after their digest was compared."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from memvec.arguments import checked, choice, literal
from memvec.decoding.partial import write_partial
from memvec.decoding.reader import Decoder, Piece
from memvec.errors import (
    MemvecError,
    NoContentError,
    NotFoundError,
    PartialError,
    ReconstructionError,
    StoreDamagedError,
    UsageError,
)
from memvec.filesystem.collisions import file_names
from memvec.filesystem.document_writer import Landing
from memvec.filesystem.names import no_document, several
from memvec.filesystem.names import select as select_names
from memvec.filesystem.paths import outside
from memvec.identity.verdict import Verdict
from memvec.maintenance.sound import Broken, open_salvaged
from memvec.progress import Watch, unwatched
from memvec.store.documents import INCOMPLETE
from memvec.store.store import RecordRef, Store, StoredDocument
from memvec.types import UnpackReport

Allow = Literal["identical", "precision", "relative"]
OnError = Literal["fail", "skip", "partial"]
LOST = "what it held is not known: documents are missing, and of others an older version may have come out"


@checked(allow=literal(Allow), on_error=literal(OnError))
def unpack(
    store: str | Path,
    output: str | Path,
    *,
    documents: Sequence[str] = (),
    model: str | None = None,
    overwrite: bool = False,
    rename_collisions: bool = False,
    on_error: OnError = "fail",
    batch: int | None = None,
    device: str | None = None,
    allow: Allow = "identical",
    watch: Watch = unwatched,
) -> UnpackReport:
    """Write documents (all, or those that `documents` names, exactly or by pattern, see `memvec.filesystem.names`) below `output`, each verified before it is written.

    When this returns, they are on disk, and each was read back by its name. Names that are one file on the file system
    of `output`, such as README and readme, are a UsageError before the first write; with `rename_collisions` the second
    becomes readme~2, and the report's `renamed` says so.
    `model` is by default the one named in the store; it must have the store's fingerprint, or with `allow` a verdict as
    near as that: what decodes to other bytes is an error all the same. Raises NotFoundError,
    UsageError when a file is there and `overwrite` is not set, FingerprintError, StoreDamagedError, ReconstructionError;
    of documents without whole content PartialError after the others are written, NoContentError when there is no other.
    With `on_error` "skip" a document that is damaged, cannot be read, decodes to other bytes or has a name that the
    system refuses is left out and named in the PartialError as well; with "partial" its right segments go to NAME.partial, what is missing to NAME.partial.json.
    """
    begun = time.perf_counter()
    folder = outside(output, "output", store)
    choice = _choose(store, documents, on_error)
    names = [stored.document.name for stored in choice.whole]
    partial_names = [broken.document.name for broken in choice.broken if on_error == "partial"]
    _check_places(folder, [*names, *partial_names], Path(store))
    placed = file_names(folder, names, rename_collisions)
    _check_free(folder, list(placed.values()), overwrite)
    decoder = Decoder(choice.store, model, batch, device, watch, Verdict[allow.upper()])
    partial, skipped = list[str](), list(choice.skipped)
    with Landing(folder, placed, skip=on_error != "fail") as landing:
        for stored, pieces, data in _restore(decoder, choice, on_error):
            if isinstance(data, bytes):
                landing.add(stored.document, data)
                continue
            why = str(data)
            if on_error == "partial":
                made, said = write_partial(folder, stored.document, pieces, [*placed.values(), *partial], overwrite)
                partial += made
                why = f"{why} {said}"
            skipped.append((stored.document.name, why))
        written = landing.finish()
    skipped += landing.refused
    report = UnpackReport(
        documents=len(written),
        bytes=sum(document.bytes for document in written),
        tokens=decoder.progress.tokens_done,
        seconds=round(time.perf_counter() - begun, 3),
        files=tuple(placed[document.name] for document in written),
        escalated=decoder.escalated,
        partial=tuple(partial),
        renamed={d.name: placed[d.name] for d in written if placed[d.name] != d.name},
    )
    if skipped:
        raise PartialError(skipped, report, "Everything else was unpacked.")
    return report


@checked(allow=literal(Allow), on_error=choice("fail", "skip"))
def read(
    store: str | Path,
    documents: Sequence[str] = (),
    *,
    model: str | None = None,
    on_error: Literal["fail", "skip"] = "fail",
    batch: int | None = None,
    device: str | None = None,
    allow: Allow = "identical",
    watch: Watch = unwatched,
) -> Iterator[tuple[str, bytes]]:
    """(name, verified bytes) of documents, all or by exact name or pattern (see `memvec.filesystem.names`), in order of name. Raises as `unpack` does."""
    choice = _choose(store, documents, on_error)
    skipped = list(choice.skipped)
    decoder = Decoder(choice.store, model, batch, device, watch, Verdict[allow.upper()])
    for stored, _, data in _restore(decoder, choice, on_error):
        if isinstance(data, bytes):
            yield stored.document.name, data
        else:
            skipped.append((stored.document.name, str(data)))
    if skipped:
        raise PartialError(skipped, rest="Everything else was read.")


@checked()
def cat(
    store: str | Path,
    document: str,
    *,
    model: str | None = None,
    batch: int | None = None,
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
    whole, _ = _readable([live[document]])
    ((_, _, data),) = _restore(decoder, _Choice(decoder.store, whole), "fail")
    assert isinstance(data, bytes)  # what is wrong was raised
    return data


def missing(store: Store, name: str) -> NotFoundError:
    """The error for a document that is not there, or not whole."""
    if _is_version(store, name):
        return NotFoundError(f"{name!r} is {INCOMPLETE}.")
    return no_document(name, store.documents(), store.path)


def select(store: Store, asked: Sequence[str], others: Collection[str] = ()) -> list[StoredDocument]:
    """Live documents by exact name or pattern (see `memvec.filesystem.names`), all where `asked` is empty.

    NotFoundError for one that matches none of them, and none of the names in `others`.
    """
    live = store.documents()
    known = {*live, *others}
    if begun := [text for text in several(asked) if text not in known and _is_version(store, text)]:
        raise missing(store, begun[0])
    return [live[name] for name in select_names(asked, known).names if name in live]


def _is_version(store: Store, name: str) -> bool:
    return any(version.document.name == name for version in store.versions())


@dataclass(frozen=True, slots=True)
class _Choice:
    """What is to come out of a store, and what cannot."""

    store: Store
    whole: Sequence[StoredDocument]
    broken: Sequence[Broken] = ()
    skipped: Sequence[tuple[str, str]] = ()  # (name, reason)


def _choose(path: str | Path, asked: Sequence[str], on_error: OnError) -> _Choice:
    if on_error == "fail":
        store = Store.open(path)
        whole, skipped = _readable(select(store, asked))
        return _Choice(store, whole, (), skipped)
    salvaged = open_salvaged(path)
    broken, lost = salvaged.broken(), salvaged.lost
    try:
        chosen = select(salvaged, asked, broken)
    except NotFoundError as error:
        if lost:
            raise StoreDamagedError(lost) from error
        raise
    names = set(select_names(asked, {*salvaged.documents(), *broken}).names)
    wanted = [found for name, found in broken.items() if name in names]
    left = [stored for stored in chosen if stored.document.name not in broken]
    whole, skipped = _readable(left, strict=not wanted and not lost)
    unknown = [(problem.location, f"{problem.message}; {LOST}") for problem in lost]
    return _Choice(salvaged, whole, wanted, [*unknown, *skipped])


def _readable(
    documents: Sequence[StoredDocument], strict: bool = True
) -> tuple[list[StoredDocument], list[tuple[str, str]]]:
    """Those of `documents` whose content is whole, the others as (name, reason); `strict`: an error if all are others."""
    whole = [stored for stored in documents if stored.complete]
    begun = [stored.document.name for stored in documents if stored.records and not stored.complete]
    empty = [stored.document.name for stored in documents if not stored.records]
    if strict and not whole and empty:
        raise NoContentError(*empty)
    if strict and not whole and begun:
        raise NotFoundError(f"{begun[0]!r} is {INCOMPLETE}.")
    return whole, [*((name, INCOMPLETE) for name in begun), *((name, NoContentError.reason) for name in empty)]


def _restore(
    decoder: Decoder, choice: _Choice, on_error: OnError
) -> Iterator[tuple[StoredDocument, Sequence[Piece], bytes | MemvecError]]:
    """(document, pieces, bytes or why there are none), compared with every digest on the way."""
    for stored, pieces in decoder.documents(choice.whole):
        try:
            data: bytes | MemvecError = _joined(stored, pieces)
        except ReconstructionError as error:
            if on_error == "fail":
                raise
            data = error
        yield stored, pieces, data
    for broken in choice.broken:
        rest = replace(
            broken.rest or StoredDocument(broken.document, (), False),
            records=_apart(broken.rest.records) if broken.rest and on_error == "partial" else (),
        )
        for stored, pieces in decoder.documents([rest]):
            yield stored, pieces, StoreDamagedError([broken.problem])


def _joined(stored: StoredDocument, pieces: Sequence[Piece]) -> bytes:
    """The bytes of a document. ReconstructionError."""
    for piece in pieces:
        if problem := piece.mismatch():
            raise problem
    data = b"".join(piece.data for piece in pieces)
    found = hashlib.sha256(data).hexdigest()
    if found != stored.document.sha256:
        raise ReconstructionError(stored.document.name, "(all joined)", stored.document.sha256, found)
    return data


def _apart(refs: Sequence[RecordRef]) -> tuple[RecordRef, ...]:
    """Those of `refs`, in order of bytes, that do not lie across each other."""
    kept: list[RecordRef] = []
    for ref in sorted(refs, key=lambda ref: ref.start):
        if not kept or ref.start >= kept[-1].start + kept[-1].length:
            kept.append(ref)
    return tuple(kept)


def _check_places(folder: Path, names: Sequence[str], store: Path) -> None:
    """UsageError, before anything is decoded, when a document cannot be written where it belongs."""
    advice = "Pass another output folder."
    root, own = Path(os.path.realpath(folder)), Path(os.path.realpath(store))
    for above, name in {name.rpartition("/")[0]: name for name in names}.items():
        parent = folder / above
        real = Path(os.path.realpath(parent))
        # The name was checked when it was read; a link already lying in the folder could still lead out of it.
        if not real.is_relative_to(root):
            raise UsageError(f"{name!r} would be written outside {str(folder)!r} through a link. {advice}")
        if real.is_relative_to(own):
            raise UsageError(f"{name!r} would be written into the store {str(store)!r} that it comes from. {advice}")
        there = next(up for up in (parent, *parent.absolute().parents) if os.path.lexists(up))
        if not os.path.isdir(there):
            raise UsageError(f"{name!r} cannot be written: {str(there)!r} is a file. {advice}")
    for name in names:
        if os.path.isdir(folder / name) and not os.path.islink(folder / name):
            raise UsageError(f"{name!r} cannot be written: there is a folder of that name in {str(folder)!r}. {advice}")


def _check_free(folder: Path, names: Sequence[str], overwrite: bool) -> None:
    there = [] if overwrite else [name for name in names if os.path.lexists(folder / name)]
    if there:
        raise UsageError(
            f"{len(there)} file(s) exist in {str(folder)!r}, first {there[0]!r}. Pass overwrite=True to replace them, or "
            "another output folder."
        )
