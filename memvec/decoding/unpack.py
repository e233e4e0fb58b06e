"""`unpack`, `read` and `cat`: get documents back from a store. Bytes are given out only if they match their digest."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from memvec.arguments import checked, choice, instance, literal
from memvec.corpora.row_writer import WRITERS, RowWriter
from memvec.decoding.partial import write_partial
from memvec.decoding.reader import Piece, Reader
from memvec.errors import (
    MemvecError,
    NoContentError,
    NotFoundError,
    PartialError,
    ReconstructionError,
    StoreDamagedError,
    UsageError,
    counted,
)
from memvec.filesystem.collisions import file_names
from memvec.filesystem.document_writer import DocumentWriter
from memvec.filesystem.names import select as select_names
from memvec.filesystem.names import several
from memvec.filesystem.paths import outside
from memvec.identity.runtime import Opening, Runtime, path_of, runtime_of
from memvec.identity.verdict import Verdict
from memvec.maintenance.salvage import Broken, open_salvaged
from memvec.settings import CorpusSettings
from memvec.store import catalogue
from memvec.store.documents import INCOMPLETE, missing
from memvec.store.store import RecordRef, Store, StoredDocument
from memvec.types import Document, UnpackReport

if TYPE_CHECKING:
    from typing_extensions import Unpack

Allow = Literal["identical", "precision", "relative"]
OnError = Literal["fail", "skip", "partial"]
Form = Literal["files", "jsonl", "parquet"]
LOST = "its documents are unknown: some may be missing, and of others an older version may have been read"


@checked(allow=literal(Allow), on_error=literal(OnError), form=literal(Form), corpus=instance(CorpusSettings))
def unpack(
    store: str | Path | Store | Runtime,
    output: str | Path,
    *,
    documents: Sequence[str] = (),
    form: Form = "files",
    corpus: CorpusSettings | None = None,
    overwrite: bool = False,
    rename_collisions: bool = False,
    on_error: OnError = "fail",
    allow: Allow = "identical",
    **opening: Unpack[Opening],
) -> UnpackReport:
    """Write documents of a store into a folder, or as rows into one file. Each is compared with its digest before.

    When this returns, the files are on disk. Those in a folder were read back by their names.

    Args:
        store: The store, or what `memvec.open` returns.
        output: The folder. It is made if it does not exist. For rows: the file. Rows of JSON are compressed if its name ends
            in .gz or .zst.
        documents: Names or patterns (see `memvec.filesystem.names`); by default all.
        form: "files" writes each document to a file. "jsonl" and "parquet" write a row for each, with its name, its text and
            its metadata. A document that is not UTF-8 has its bytes in the field base64 instead of a text.
        corpus: The fields of a row. Default: "id" and "text".
        overwrite: Replace existing files.
        rename_collisions: If the file system takes two names for one, such as README and readme, write the second as
            readme~2. The report's `renamed` names such documents.
        on_error: "fail" stops at the first document that is damaged or decodes to other bytes. "skip" leaves it out and
            goes on. "partial" also writes its right segments to NAME.partial, and what is missing to NAME.partial.json.
        allow: How far the model may be from the one that packed, as `memvec.diff` says.
        **opening: As in `memvec.open`: model, device, batch, watch.

    Returns:
        What was written.

    Raises:
        NotFoundError: There is no such store, document or model.
        UsageError: A file is there and `overwrite` is not set, or two names are one file. Nothing was written.
        FingerprintError: The model is not the one that packed.
        StoreDamagedError: The store is damaged.
        ReconstructionError: A document decodes to other bytes.
        PartialError: Documents were left out, and the others are written. It names each with the reason.
        NoContentError: The documents have a memory and no content.
        WriteError: The system refuses to write a file.

    Example:
        >>> report = memvec.unpack(store, tmp / "out", model=model)
        >>> (tmp / "out" / report.files[0]).read_bytes() == memvec.cat(store, report.files[0], model=model)
        True
    """
    begun = time.perf_counter()
    path = path_of(store)
    folder = outside(output, "output", path)
    if form != "files" and on_error == "partial":
        raise UsageError('on_error="partial" writes files. Pass form="files", or on_error="skip".')
    chosen = _choose(store, documents, on_error)
    names = [stored.document.name for stored in chosen.complete]
    writer: DocumentWriter | RowWriter
    if form == "files":
        partial_names = [broken.document.name for broken in chosen.broken if on_error == "partial"]
        _check_places(folder, [*names, *partial_names], path)
        placed = file_names(folder, names, rename_collisions)
        _check_free(folder, list(placed.values()), overwrite)
        writer = DocumentWriter(folder, placed, skip=on_error != "fail")
    else:
        _check_file(folder, overwrite)
        placed = dict.fromkeys(names, folder.name)
        live = set(names)
        meta = {name: labels for name, labels in chosen.store.manifest.meta.items() if name in live}
        writer = WRITERS[form](folder, meta, corpus or CorpusSettings())
    reader = _reader(store, chosen, allow, opening)
    partial, skipped = list[str](), list(chosen.skipped)
    with writer:
        for restored in _restore(reader, chosen, on_error):
            if restored.data is not None:
                writer.add(restored.document, restored.data)
                continue
            why = str(restored.error)
            if on_error == "partial":
                taken = [*placed.values(), *partial]
                made, said = write_partial(folder, restored.document, restored.pieces, taken, overwrite)
                partial += made
                why = f"{why} {said}"
            skipped.append((restored.document.name, why))
        written = writer.finish()
    skipped += writer.refused
    report = UnpackReport(
        documents=len(written),
        bytes=sum(document.bytes for document in written),
        tokens=reader.progress.tokens_done,
        seconds=round(time.perf_counter() - begun, 3),
        files=tuple(dict.fromkeys(placed[document.name] for document in written)),
        escalated=reader.retries.helped.total(),
        partial=tuple(partial),
        renamed={d.name: placed[d.name] for d in written if placed[d.name] != d.name} if form == "files" else {},
    )
    if skipped:
        raise PartialError(skipped, report, "Everything else was unpacked.")
    return report


@checked(allow=literal(Allow), on_error=choice("fail", "skip"))
def read(
    store: str | Path | Store | Runtime,
    documents: Sequence[str] = (),
    *,
    on_error: Literal["fail", "skip"] = "fail",
    allow: Allow = "identical",
    **opening: Unpack[Opening],
) -> Iterator[tuple[str, bytes]]:
    """Read documents of a store one after the other, in order of name. Each is compared with its digest first.

    Args:
        store: The store, or what `memvec.open` returns.
        documents: Names or patterns (see `memvec.filesystem.names`); by default all.
        on_error: "fail" stops at the first document that is damaged or decodes to other bytes, "skip" leaves it out.
        allow: How far the model may be from the one that packed, as `memvec.diff` says.
        **opening: As in `memvec.open`: model, device, batch, watch.

    Yields:
        Name and bytes of each document.

    Raises:
        NotFoundError: There is no such store, document or model.
        FingerprintError: The model is not the one that packed.
        StoreDamagedError: The store is damaged.
        ReconstructionError: A document decodes to other bytes.
        PartialError: Documents were left out. Raised behind the last one.
        NoContentError: The documents have a memory and no content.

    Example:
        >>> {name: len(data) for name, data in memvec.read(store, model=model)} == {
        ...     row.name: row.bytes for row in memvec.documents(store)
        ... }
        True
    """
    chosen = _choose(store, documents, on_error)
    skipped = list(chosen.skipped)
    for restored in _restore(_reader(store, chosen, allow, opening), chosen, on_error):
        if restored.data is not None:
            yield restored.document.name, restored.data
        else:
            skipped.append((restored.document.name, str(restored.error)))
    if skipped:
        raise PartialError(skipped, rest="Everything else was read.")


@checked()
def cat(store: str | Path | Store | Runtime, document: str, **opening: Unpack[Opening]) -> bytes:
    """Read one document of a store. It is compared with its digest first.

    Args:
        store: The store, or what `memvec.open` returns.
        document: Its name.
        **opening: As in `memvec.open`: model, device, batch, watch.

    Returns:
        The bytes that were packed.

    Raises:
        NotFoundError: There is no such store, document or model.
        FingerprintError: The model is not the one that packed.
        StoreDamagedError: The store is damaged.
        ReconstructionError: The document decodes to other bytes.
        NoContentError: The document has a memory and no content.

    Example:
        >>> name = memvec.documents(store)[0].name
        >>> type(memvec.cat(store, name, model=model))
        <class 'bytes'>
    """
    return content(runtime_of(store, **opening), document)


def content(runtime: Runtime, document: str) -> bytes:
    """As `cat`."""
    stored = catalogue.document(runtime.store, document)
    if stored is None:
        raise runtime.store.missing(document)
    complete, _ = _readable([stored])
    (restored,) = _restore(Reader(runtime), _Choice(runtime.store, complete), "fail")
    assert restored.data is not None  # an error was raised
    return restored.data


def select(store: Store, asked: Sequence[str], others: Collection[str] = ()) -> list[StoredDocument]:
    """Choose live documents by exact name or pattern (see `memvec.filesystem.names`); all if `asked` is empty.

    NotFoundError for a pattern that matches none of them and no name in `others`.
    """
    live = store.documents()
    known = {*live, *others}
    if begun := [text for text in several(asked) if text not in known and _is_version(store, text)]:
        raise store.missing(begun[0])
    return [live[name] for name in select_names(asked, known).names if name in live]


def _is_version(store: Store, name: str) -> bool:
    return any(version.document.name == name for version in store.versions())


@dataclass(frozen=True, slots=True)
class Restored:
    """A document that was read back: its bytes, or the error that prevented it."""

    document: Document
    data: bytes | None
    error: MemvecError | None
    pieces: Sequence[Piece]


@dataclass(frozen=True, slots=True)
class _Choice:
    """The documents to read, and those that cannot be read."""

    store: Store
    complete: Sequence[StoredDocument]
    broken: Sequence[Broken] = ()
    skipped: Sequence[tuple[str, str]] = ()  # (name, reason)


def _choose(store: str | Path | Store | Runtime, asked: Sequence[str], on_error: OnError) -> _Choice:
    if on_error == "fail":
        opened = runtime_of(store).store
        complete, skipped = _readable(select(opened, asked))
        return _Choice(opened, complete, (), skipped)
    salvaged = open_salvaged(path_of(store))
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
    complete, skipped = _readable(left, strict=not wanted and not lost)
    unknown = [(problem.location, f"{problem.message}; {LOST}") for problem in lost]
    return _Choice(salvaged, complete, wanted, [*unknown, *skipped])


def _readable(
    documents: Sequence[StoredDocument], strict: bool = True
) -> tuple[list[StoredDocument], list[tuple[str, str]]]:
    """(complete documents, (name, reason) of the others). With `strict`, raise an error if none is complete."""
    complete = [stored for stored in documents if stored.complete]
    begun = [stored.document.name for stored in documents if stored.records and not stored.complete]
    empty = [stored.document.name for stored in documents if not stored.records]
    if strict and not complete and empty:
        raise NoContentError(*empty)
    if strict and not complete and begun:
        raise missing(begun[0], begun)
    return complete, [*((name, INCOMPLETE) for name in begun), *((name, NoContentError.reason) for name in empty)]


def _reader(store: str | Path | Store | Runtime, chosen: _Choice, allow: Allow, opening: Opening) -> Reader:
    """A reader of the store that documents were chosen from."""
    runtime = runtime_of(store, chosen.store, **opening)
    return Reader(runtime.reading(chosen.store, allow=Verdict[allow.upper()]))


def _restore(reader: Reader, chosen: _Choice, on_error: OnError) -> Iterator[Restored]:
    """Read the chosen documents. With `on_error` "fail" the first error is raised."""
    for stored, pieces in reader.documents(chosen.complete):
        restored = _joined(stored, pieces)
        if on_error == "fail" and restored.error is not None:
            raise restored.error
        yield restored
    for broken in chosen.broken:
        rest = replace(
            broken.rest or StoredDocument(broken.document, (), False),
            records=_apart(broken.rest.records) if broken.rest and on_error == "partial" else (),
        )
        for stored, pieces in reader.documents([rest]):
            yield Restored(stored.document, None, StoreDamagedError([broken.problem]), pieces)


def _joined(stored: StoredDocument, pieces: Sequence[Piece]) -> Restored:
    """Join the pieces of a document and compare them with its digest."""
    document = stored.document
    error = next((piece.error for piece in pieces if piece.error is not None), None)
    if error is not None:
        return Restored(document, None, error, pieces)
    data = b"".join(piece.data for piece in pieces)
    found = hashlib.sha256(data).hexdigest()
    if found != document.sha256:
        error = ReconstructionError(document.name, "(all joined)", document.sha256, found)
        return Restored(document, None, error, pieces)
    return Restored(document, data, None, pieces)


def _apart(refs: Sequence[RecordRef]) -> tuple[RecordRef, ...]:
    """Sort records by their first byte and leave out those that overlap an earlier one."""
    chosen: list[RecordRef] = []
    for ref in sorted(refs, key=lambda ref: ref.start):
        if not chosen or ref.start >= chosen[-1].start + chosen[-1].length:
            chosen.append(ref)
    return tuple(chosen)


def _check_places(folder: Path, names: Sequence[str], store: Path) -> None:
    """Raise UsageError before anything is decoded, if a document cannot be written to its place."""
    advice = "Pass another output folder."
    root, own = Path(os.path.realpath(folder)), Path(os.path.realpath(store))
    for above, name in {name.rpartition("/")[0]: name for name in names}.items():
        parent = folder / above
        real = Path(os.path.realpath(parent))
        # The name is safe, but a link in the folder could still lead out of it.
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


def _check_file(file: Path, overwrite: bool) -> None:
    """Raise UsageError before anything is decoded, if rows cannot be written to a file."""
    if os.path.isdir(file):
        raise UsageError(f"{str(file)!r} is a folder. Rows are written into one file: pass its name.")
    if not os.path.isdir(file.parent):
        raise UsageError(f"{str(file)!r} cannot be written: its folder does not exist. Make it, or pass another file.")
    if os.path.lexists(file) and not overwrite:
        raise UsageError(f"{str(file)!r} is there already. Pass overwrite=True to replace it, or another file.")


def _check_free(folder: Path, names: Sequence[str], overwrite: bool) -> None:
    there = [] if overwrite else [name for name in names if os.path.lexists(folder / name)]
    if there:
        raise UsageError(
            f"{str(folder)!r} has {counted(len(there), 'file')} of these names, first {there[0]!r}. Pass overwrite=True to replace them, or "
            "another output folder."
        )
