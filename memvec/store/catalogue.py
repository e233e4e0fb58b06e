"""The catalogue answers `list`, `show` and `info` without reading every record. Knows no model.

The file `catalogue/<state>.safetensors` is derived from the shards and may be deleted at any time. `state` is a digest of
the shards and the removed versions. Every block that is read is compared with its digest. A damaged catalogue is passed
over, and the same columns are made from the shards.
"""

from __future__ import annotations

import hashlib
import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, TypeVar, overload

from memvec.errors import StoreDamagedError
from memvec.formats import canonical, files
from memvec.formats.documents import check_name
from memvec.formats.manifest import Manifest
from memvec.store.catalogue_build import COLUMNS, build, resumed
from memvec.store.catalogue_file import Columns, InFile, InMemory, UnreliableError, encode
from memvec.store.documents import Known, RecordRef, StoredDocument
from memvec.store.scan import Scan
from memvec.store.store import Store
from memvec.types import Document

T = TypeVar("T")

FOLDER = "catalogue"
LEAST_RECORDS = 4096  # of a store with a catalogue; in a smaller one the columns of the shards are read as fast
ROWS_AT_ONCE = 4096
KEY_DIGITS = 16  # hex digits of a record's id in the catalogue


class Catalogue:
    """The live documents of a store by name, their records, and totals."""

    def __init__(self, columns: Columns) -> None:
        self.columns = columns

    def __len__(self) -> int:
        return self.columns.length("bytes")

    @property
    def totals(self) -> dict[str, Any]:
        """The sums that `memvec.store.totals.report` takes."""
        return dict(self._json("totals"))

    @property
    def incomplete(self) -> list[str]:
        """Names of unfinished documents, ascending."""
        return list(self._json("incomplete"))

    @property
    def partial(self) -> int:
        """How many versions there are whose content is not complete, those that a newer one hides too."""
        return int(self._json("partial"))

    def names(self, begin: int = 0, end: int | None = None) -> Iterator[str]:
        """Yield the names of the live documents `begin` to `end`, ascending."""
        end = len(self) if end is None else min(end, len(self))
        for low in range(begin, end, ROWS_AT_ONCE):
            offsets = self._ints("name_offsets", low, min(low + ROWS_AT_ONCE, end) + 1)
            data = self.columns.read("names", offsets[0], offsets[-1]).tobytes()
            for start, stop in pairwise(offsets):
                yield _name(data[start - offsets[0] : stop - offsets[0]])

    def find(self, name: str) -> int | None:
        """Return the number of the live document with that name, or None."""
        number = bisect_left(_View(len(self), lambda place: next(self.names(place, place + 1))), name)
        return number if number < len(self) and next(self.names(number, number + 1)) == name else None

    def rows(self, begin: int = 0, end: int | None = None) -> Iterator[dict[str, Any]]:
        """Yield the rows of `list` for the live documents `begin` to `end`."""
        end = len(self) if end is None else min(end, len(self))
        fields = {
            "bytes": "bytes",
            "tokens": "tokens",
            "records": "content",
            "raw_records": "raw_records",
            "vectors": "vectors",
            "corrected_tokens": "corrected",
            "memory": "memory_vectors",
            "kv": "kv_positions",
            "kv_bytes": "kv_bytes",
        }
        for low in range(begin, end, ROWS_AT_ONCE):
            high = min(low + ROWS_AT_ONCE, end)
            columns = [self._ints(column, low, high) for column in fields.values()]
            gains, kv_gains = (_or_none(self.columns.read(name, low, high).tolist()) for name in ("gain", "kv_gain"))
            named = zip(self.names(low, high), self._digests(low, high), gains, kv_gains, *columns, strict=True)
            for name, digest, gain, kv_gain, *values in named:
                row = dict(zip(fields, values, strict=True))
                yield row | {"name": name, "sha256": digest, "gain": gain, "kv_gain": kv_gain}

    def known(self) -> Known:
        """What a pack asks of the live documents."""
        found = Known()
        for low in range(0, len(self), ROWS_AT_ONCE):
            high = min(low + ROWS_AT_ONCE, len(self))
            flags = zip(*(self._ints(column, low, high) for column in ("complete", "memory", "kv")), strict=True)
            for name, digest, held in zip(self.names(low, high), self._digests(low, high), flags, strict=True):
                found.names.add(name)
                for versions, there in zip((found.content, found.memory, found.kv), held, strict=True):
                    if there:
                        versions.add((name, digest))
        return found

    def stored(self, number: int) -> StoredDocument:
        """Return the live document `number`, as `Store.documents` does."""
        begin, end = self._ints("record_offsets", number, number + 2)
        counts = [self._ints(name, number, number + 1)[0] for name in ("content", "memory", "kv", "unjoined_kv")]
        refs = self.refs(begin, end)
        content, memory, kv = accumulate(counts[:3])  # where each ends
        size, tokens, share = (self._ints(name, number, number + 1)[0] for name in ("bytes", "tokens", "zstd_bytes"))
        (digest,) = self._digests(number, number + 1)
        return StoredDocument(
            Document(next(self.names(number, number + 1)), size, digest, share, tokens),
            records=tuple(refs[:content]),
            complete=bool(self._ints("complete", number, number + 1)[0]),
            memory=tuple(refs[content:memory]),
            kv=tuple(refs[memory:kv]),
            unjoined=tuple(refs[kv:]),
            unjoined_kv=counts[3],
        )

    def refs(self, begin: int, end: int) -> list[RecordRef]:
        """Return where records `begin` to `end` are, counted over the live documents by name."""
        columns = [self._ints(name, begin, end) for name in ("shard", "row", "start", "length")]
        return [RecordRef(*values) for values in zip(*columns, strict=True)]

    def with_id(self, prefix: str) -> tuple[list[RecordRef], bool]:
        """(records whose ids may begin with the hex digits `prefix`, do they all share the digits in the catalogue?)."""
        digits = prefix[:KEY_DIGITS]
        low = int(digits.ljust(KEY_DIGITS, "0"), 16)
        high = int(digits.ljust(KEY_DIGITS, "f"), 16)
        keys = _View(self.columns.length("id_keys"), lambda place: self._ints("id_keys", place, place + 1)[0])
        begin, end = bisect_left(keys, low), bisect_right(keys, high)
        if begin == end:
            return [], True
        places = self._ints("id_places", begin, end)
        return [self.refs(place, place + 1)[0] for place in places], keys[begin] == keys[end - 1]

    def _digests(self, begin: int, end: int) -> list[str]:
        """The sha256 of live documents `begin` to `end`, in hex."""
        return [digest.tobytes().hex() for digest in self.columns.read("sha256", begin, end)]

    def _ints(self, name: str, begin: int, end: int) -> list[int]:
        return [int(value) for value in self.columns.read(name, begin, end).tolist()]

    def _json(self, name: str) -> Any:
        try:
            return canonical.loads(self.columns.read(name, 0, self.columns.length(name)).tobytes())
        except ValueError as error:
            raise UnreliableError(str(error)) from error


class _View(Sequence[Any]):
    """A sorted column for `bisect`, which reads only the rows it compares."""

    def __init__(self, length: int, value: Callable[[int], Any]) -> None:
        self._length, self._value = length, value

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, place: int) -> Any: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[Any]: ...
    def __getitem__(self, place: int | slice) -> Any:
        if isinstance(place, slice):
            return [self._value(number) for number in range(*place.indices(self._length))]
        return self._value(place)


def answer(store: Store, question: Callable[[Catalogue], T]) -> T:
    """Ask the catalogue of a store: its catalogue file, or else one made from its shards.

    StoreDamagedError if a shard is missing or of another size, or is damaged and has to be read.
    """
    for entry in store.manifest.shards:
        store.check_there(entry)
    try:
        return question(Catalogue(InFile(path_of(store), _state(store.manifest))))
    except (UnreliableError, LookupError, TypeError):  # the latter two if its values contradict each other
        return question(Catalogue(InMemory(build(store))))


def scan(store: Store) -> Scan:
    """Scan a store with counts. Shards that a catalogue of this state or an earlier one covers are not read.

    StoreDamagedError if a shard is missing or of another size, or is damaged and has to be read.
    """
    for entry in store.manifest.shards:
        store.check_there(entry)
    for file in (store.path / FOLDER).glob("*.safetensors"):
        try:
            columns = InFile(file, None)
            told = canonical.loads(columns.whole("scanned").tobytes())
            found = resumed(store.manifest, columns.whole, told)
        except (ValueError, LookupError, TypeError):  # the latter two if its values contradict each other
            continue
        if found is not None:
            return store.scan(counts=True, begun=found)
    return store.scan(counts=True)


def refresh(store: Store, found: Scan | None = None) -> Path | None:
    """Write the catalogue of a large store, delete those of other states, and return its path.

    `found` is a scan of this state with counts, if it was made already. Every verb that writes calls this at its end,
    under the lock. If the catalogue cannot be written, or a shard is damaged, there is none: a catalogue is never needed.
    """
    path = path_of(store)
    wanted = sum(entry.records for entry in store.manifest.shards) >= LEAST_RECORDS
    try:
        if path.parent.is_symlink():  # files behind a link are not the store's to delete
            return None
        if wanted and not _usable(path, store):
            path.parent.mkdir(exist_ok=True)
            made = build(store, found or scan(store))
            files.write_atomically(path, encode(made, _state(store.manifest)))
        for other in [*path.parent.glob("*.safetensors"), *path.parent.glob(".tmp-*")]:
            if other != path or not wanted:
                other.unlink()
        if not wanted and path.parent.is_dir():
            path.parent.rmdir()
    except (OSError, StoreDamagedError):
        return None
    return path if wanted else None


def document(store: Store, name: str) -> StoredDocument | None:
    """Return the live document with that name without reading the others, or None. StoreDamagedError."""

    def found(known: Catalogue) -> StoredDocument | None:
        number = known.find(name)
        stored = None if number is None else known.stored(number)
        for refs in (stored.records, stored.memory, stored.kv) if stored else ():
            # The manifest does not vouch for a catalogue: records of another document must not get this name.
            if stored and refs and store.version_of(refs[0]) != stored.version:
                raise UnreliableError(f"its records of {name!r} are of another document")
        return stored

    return answer(store, found)


def names(store: Store) -> Iterator[str]:
    """Yield the names of the live documents, ascending. StoreDamagedError."""
    return iter(answer(store, lambda known: [*known.names()]))


def known(store: Store) -> Known:
    """Return what a pack asks of the live documents. StoreDamagedError."""
    return answer(store, Catalogue.known)


def path_of(store: Store) -> Path:
    """Return the path of the catalogue of this state of the store. The file may not exist."""
    return store.path / FOLDER / f"{_state(store.manifest)}.safetensors"


def _state(manifest: Manifest) -> str:
    """Return a digest of everything the catalogue depends on."""
    parts = {
        "shards": [entry.sha256 for entry in manifest.shards],
        "removed": [list(version) for version in manifest.removed],
        "required": list(manifest.required),
        "fingerprint": manifest.fingerprint.id,
        "vocabulary": manifest.vocabulary,
        "columns": COLUMNS,
    }
    return hashlib.sha256(canonical.dumps(parts)).hexdigest()


def _or_none(values: list[float]) -> list[float | None]:
    """Put None in the place of each value that was not measured."""
    return [None if math.isnan(value) else value for value in values]


def _usable(path: Path, store: Store) -> bool:
    try:
        InFile(path, _state(store.manifest)).check()
    except UnreliableError:
        return False
    return True


def _name(data: bytes) -> str:
    try:
        name = data.decode()
        check_name(name)
    except ValueError as error:
        raise UnreliableError(str(error)) from error
    return name
