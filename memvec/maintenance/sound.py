"""A damaged store read as far as its records can be trusted: what is whole comes out, what is not is named."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from memvec.errors import ReadError, StoreDamagedError
from memvec.formats import files, shard
from memvec.formats.manifest import Manifest, ShardEntry
from memvec.formats.raw import raw_bytes
from memvec.formats.shard import Shard
from memvec.store.problems import PARSE_ERRORS, damaged, problem
from memvec.store.store import Store, StoredDocument
from memvec.types import Document, Kind, Problem, Record


@dataclass(frozen=True, slots=True)
class Broken:
    """A document that is not whole because of damage, and what is there of it."""

    document: Document
    problem: Problem
    rest: StoredDocument | None  # None when no record of it is left


@dataclass(frozen=True, slots=True)
class _Damage:
    problem: Problem
    documents: tuple[Document, ...] = ()  # that the shard lists, unless every record of it is right
    lost: bool = False  # it does not even say what it held


class SalvagedStore(Store):
    """A store in which only records count that match their own digests, also where the file around them does not."""

    def __init__(self, path: Path, state: Manifest) -> None:
        super().__init__(path, state)
        self._sound: set[str] = set()  # shards of which every record was checked
        self._damaged: dict[str, _Damage] = {}  # by digest, as is what was left of each
        self._left: dict[str, Shard] = {}

    @property
    def lost(self) -> list[Problem]:
        """Shards of which nothing can be read, so that it is not known what they held."""
        self.versions()
        return [damage.problem for damage in self._damaged.values() if damage.lost]

    def broken(self) -> dict[str, Broken]:
        """Documents by name of which the newest version is not whole, or may not be, because of damage."""
        versions = {(v.document.name, v.document.sha256): v for v in self.versions()}
        live, removed = self.documents(), set(self.manifest.removed)
        found: dict[str, Broken] = {}
        for number, entry in enumerate(self.manifest.shards):
            damage = self._damaged.get(entry.sha256)
            for document in damage.documents if damage else ():
                key = document.name, document.sha256
                rest, holder = versions.get(key), live.get(document.name)
                newer = holder is not None and _last_shard(holder) > number
                if damage and key not in removed and not newer and not (rest and rest.complete):
                    found[document.name] = Broken(document, damage.problem, rest)
        if self.lost:
            # The shard that is lost may be what is missing of a version that looks like that of an interrupted pack.
            newest = {v.document.name: v for v in self.versions()}
            for name, version in newest.items():
                if version.unfinished:
                    found.setdefault(name, Broken(version.document, self.lost[0], version))
        return dict(sorted(found.items()))

    @contextmanager
    def explaining(self, entry: ShardEntry, place: str = "") -> Iterator[None]:
        """As in any store. A shard that was whole when it was opened may be damaged by now, and has no such row then."""
        with super().explaining(entry, place):
            try:
                yield
            except IndexError as error:
                raise damaged(f"{entry.path}{place}", "missing_file", "it was whole before and is not now") from error

    def _read_shard(self, entry: ShardEntry) -> Shard:
        return self._load_shard(entry)  # a shard that may be damaged is read whole

    def _load_shard(self, entry: ShardEntry) -> Shard:
        if entry.sha256 in self._left:
            return self._left[entry.sha256]
        wrong = None
        try:
            part: Shard | None = super()._load_shard(entry)
        except StoreDamagedError as error:
            part, wrong = self._read_anyway(entry), error.problems[0]
        except ReadError as error:
            part, wrong = None, problem(entry.path, error)
        if part is not None and wrong is None and entry.sha256 in self._sound:
            return part
        records = [found for row in range(len(part or ())) if part and (found := _sound_record(part, row))]
        whole = part is not None and len(records) == len(part)
        if part is not None and whole and wrong is None:
            self._sound.add(entry.sha256)
            return part
        wrong = wrong or Problem(entry.path, "invalid_value", f"{len(part or ()) - len(records)} record(s) are bad")
        listed = tuple(part.documents) if part is not None and not whole else ()
        self._damaged[entry.sha256] = _Damage(wrong, listed, lost=part is None)
        # As a shard of its own, so that whatever reads shards sees nothing but what is right.
        origin = self.manifest.fingerprint
        left = Shard(shard.encode(records, origin.id, origin.width, self.manifest.vocabulary))
        self._left[entry.sha256] = left
        return left

    def _read_anyway(self, entry: ShardEntry) -> Shard | None:
        """The shard as far as it parses; its records have digests of their own, the table of documents a checksum."""
        try:
            part = Shard(files.read(self.path, entry.path, entry.bytes), strict=False)
            self._check_belongs(part, entry)
        except (ReadError, *PARSE_ERRORS):
            return None
        return part


def open_salvaged(path: str | Path) -> SalvagedStore:
    """The store at `path`, whatever became of its shards. NotFoundError, FormatTooNewError or StoreDamagedError."""
    opened = SalvagedStore.open(path)
    assert isinstance(opened, SalvagedStore)
    return opened


def _sound_record(part: Shard, row: int) -> Record | None:
    try:
        record = part.record(row)
        if record.kind == Kind.RAW:
            raw_bytes(record)
    except PARSE_ERRORS:
        return None
    return record


def _last_shard(stored: StoredDocument) -> int:
    return max(ref.shard for ref in (*stored.records, *stored.memory))
