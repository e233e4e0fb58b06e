"""`export_store` and `import_store`: a store as one safetensors file, and back. SPEC §16."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from memvec.arguments import checked
from memvec.errors import MemvecError, NotFoundError, UsageError
from memvec.filesystem.paths import outside
from memvec.formats import container, files, limits, manifest, shard
from memvec.formats import keys as keys_format
from memvec.formats.keys import Keys
from memvec.formats.manifest import Manifest
from memvec.formats.refusal import Refusal
from memvec.formats.shard import Shard
from memvec.maintenance.rewrite import NextGeneration, by_embedder, chosen_keys, current, open_to_copy, refs_of
from memvec.store import catalogue
from memvec.store.problems import PARSE_ERRORS, refused
from memvec.store.store import Store
from memvec.store.transaction import Transaction, keys_file, shard_file
from memvec.types import Record

if TYPE_CHECKING:
    from memvec.store.transaction import Entry

MANIFEST, KEYS = "manifest", "keys."  # tensors that a shard does not have: the manifest, and files of keys by digest
OWN_METADATA = ("digests", "version")  # metadata that each file gets from its own tensors


@dataclass(frozen=True, slots=True)
class FileReport:
    """The contents of a store in one file. The field names are those of `--json`."""

    documents: int  # live ones
    records: int
    bytes: int  # of the file


@checked()
def export_store(store: str | Path, path: str | Path, *, overwrite: bool = False) -> FileReport:
    """Write the live records of a store, with their keys and metadata, as one safetensors file.

    The whole store is held in memory.

    Args:
        store: The store's folder.
        path: The file to write. It may not lie in a store.
        overwrite: Replace an existing file.

    Returns:
        What the file holds.

    Raises:
        UsageError: The file exists and `overwrite` is not set, `path` is no regular file, or it would lie in a store.
        NotFoundError: There is no store.
        FormatTooNewError: A newer memvec wrote the store, and a copy would lose something.
        StoreDamagedError: A live record is damaged.
        ReadError: A file of the store cannot be read.
        WriteError: The file cannot be written.

    Example:
        >>> memvec.export_store(store, tmp / "texts.safetensors").documents
        2
    """
    opened, path = open_to_copy(store), outside(path, "path", store)
    if os.path.lexists(path) and not path.is_file():
        raise UsageError(f"{str(path)!r} is no regular file. Pass another path.")
    if os.path.lexists(path) and not overwrite:
        raise UsageError(f"{str(path)!r} exists. Pass overwrite=True to replace it, or another path.")
    keep = current(opened.versions())
    records = [opened.record(ref) for stored in keep for ref in refs_of(stored)]
    held = _Held(opened)
    texts = {record.text_sha256 for record in records}
    for entries in by_embedder(opened.manifest.keys).values():
        held.add_keys(chosen_keys([(opened, entry) for entry in entries], texts))
    names = {stored.document.name for stored in keep}
    said = {name: about for name, about in opened.manifest.meta.items() if name in names}
    state = replace(opened.manifest, shards=(), keys=tuple(held.keys), removed=(), meta=said)
    data = _encode(state, records, held.files)
    files.write_atomically(path, data)
    return FileReport(len(opened.documents()), len(records), len(data))


@checked()
def import_store(file: str | Path, output: str | Path) -> FileReport:
    """Make a store from a file that `export_store` wrote. The file is checked before anything is written.

    The whole store is held in memory. After an error there is nothing at `output`.

    Args:
        file: The file to read.
        output: The folder of the new store. It may not exist yet, or lie in another store.

    Returns:
        What the file holds.

    Raises:
        UsageError: `output` exists or lies in another store, or the file holds no complete store.
        NotFoundError: There is no such file.
        FormatTooNewError: A newer memvec wrote the file.
        StoreDamagedError: The file is damaged.
        ReadError: The file cannot be read.
        WriteError: The store cannot be written.

    Example:
        >>> report = memvec.export_store(store, tmp / "texts.safetensors")
        >>> memvec.import_store(tmp / "texts.safetensors", tmp / "new.memvec").documents
        2
    """
    file, output = Path(file), Path(output)
    if os.path.lexists(output):
        raise UsageError(f"{str(output)!r} exists. Import into a new one; `memvec.merge(…)` joins both.")
    outside(output, "output")
    data = _read(file)
    try:
        state, records, parts = _decode(data)
    except MemvecError:  # some MemvecErrors are ValueErrors too
        raise
    except PARSE_ERRORS as error:
        raise refused(str(file), error) from error
    scratch = output.parent / f"{files.SCRATCH}{secrets.token_hex(8)}"
    try:  # made beside its place, then renamed, so that no incomplete store is ever at `output`
        transaction = Transaction.create(scratch, replace(state, shards=(), keys=()))
        upcoming = NextGeneration(transaction)
        upcoming.add(records, state.generation)
        keys = tuple(transaction.write(*keys_file(part)) for part in parts)
        transaction.switch(replace(state, shards=tuple(upcoming.shards), keys=keys))
        catalogue.refresh(transaction.store)
        _rename(scratch, output)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return FileReport(len(Store.open(output).documents()), len(records), len(data))


def _read(file: Path) -> bytes:
    """Read the file that the caller named. It may be a link. NotFoundError, StoreDamagedError, ReadError."""
    try:
        real = Path(os.path.realpath(file, strict=True))
        size = files.size_of(real.parent, real.name)
        if size > limits.FILE_BYTES:
            raise Refusal("file-too-large", f"it is {size} bytes, at most {limits.FILE_BYTES} are read")
        return files.read(real.parent, real.name)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFoundError(f"no file {str(file)!r} to import.") from error
    except Refusal as refusal:
        if refusal.code == "not-a-file":
            raise NotFoundError(
                f"{str(file)!r} is no regular file, expected one that memvec.export_store(…) wrote."
            ) from refusal
        raise refused(str(file), refusal) from refusal
    except OSError as error:
        raise error if isinstance(error, MemvecError) else files.read_error(file, error) from error


class _Held(NextGeneration):
    """The files of the next generation, held in memory."""

    def __init__(self, store: Store) -> None:
        super().__init__(Transaction(store))
        self.files: dict[str, bytes] = {}  # by digest

    def put(self, entry: Entry, data: bytes) -> Entry:
        """Hold one file."""
        self.files[entry.sha256] = data
        return entry


def _encode(state: Manifest, records: list[Record], parts: dict[str, bytes]) -> bytes:
    """Encode all `records` as one shard, with the manifest and the key files as further tensors."""
    _, data = shard_file(state, records, state.generation)
    entries, metadata = container.read_header(data, shard.FORMAT_NAME)
    tensors = container.read_tensors(data, entries, shard.expected_tensors(metadata))
    more = {MANIFEST: manifest.encode(state)} | {f"{KEYS}{digest}": part for digest, part in parts.items()}
    tensors |= {name: np.frombuffer(part, np.uint8) for name, part in more.items()}
    return container.encode(tensors, {name: value for name, value in metadata.items() if name not in OWN_METADATA})


def _decode(data: bytes) -> tuple[Manifest, list[Record], list[Keys]]:
    """Decode and check the manifest, records and keys in one file. UsageError, FormatTooNewError, else ValueError."""
    entries, metadata = container.read_header(data, shard.FORMAT_NAME)
    tensors = container.tensor_bytes(data, entries)
    found = dict(tensors)
    if MANIFEST not in found:
        raise UsageError("the file holds one shard, expected a complete store. memvec.export_store(…) writes one.")
    for name, digest in metadata["digests"].items():
        if hashlib.sha256(found.pop(name, b"")).hexdigest() != digest:
            raise Refusal("digest-mismatch", f"tensor {name!r} does not match its digest")
    if found:
        raise Refusal("bad-metadata", f"tensor {min(found)!r} has no digest")
    state = manifest.decode(bytes(tensors[MANIFEST]))
    part = Shard(data)
    expected = (state.fingerprint.id, state.fingerprint.width, state.vocabulary, state.generation)
    if tuple(metadata.get(name) for name in ("fingerprint", "width", "vocabulary", "generation")) != expected:
        raise Refusal("manifest-mismatch", "the records are not of the store that the manifest describes")
    if lacking := [entry.path for entry in state.keys if f"{KEYS}{entry.sha256}" not in tensors]:
        raise Refusal("missing-tensor", f"the file lacks {lacking[0]}, which its manifest names")
    keys = [keys_format.decode(bytes(tensors[f"{KEYS}{entry.sha256}"])) for entry in state.keys]
    if tuple(keys_file(one)[0] for one in keys) != state.keys:
        raise Refusal("manifest-mismatch", "the keys are not what the manifest says")
    return state, list(part), keys


def _rename(scratch: Path, output: Path) -> None:
    try:
        os.rename(scratch, output)
        files.sync_folder(output.parent)
    except OSError as error:
        raise files.write_error(output, error) from error
