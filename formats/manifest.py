"""The manifest names the files of a store and its model. Other files are not part of the store. SPEC §4."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from typing import Any

from memvec.errors import FormatTooNewError, UsageError
from memvec.formats import canonical, fields, limits
from memvec.formats.refusal import Refusal
from memvec.types import Fingerprint

FILE_NAME = "manifest.json"
FORMAT_NAME = "memvec"
VERSION = (1, 0)
CONTEXT = "context"  # the feature of a store with context records
KV = "kv"  # of a store with kv records
KEYS = "keys"  # the optional feature of a store with keys to search by
META = "meta"  # of a store with metadata of documents
REMOVED = "removed"  # of a store with removed documents; a reader without the feature would show them
TENSORS, PROBE = "tensors", "probe"  # of a store that can explain how another model differs
FEATURES = frozenset({CONTEXT, KV, REMOVED})  # required features this reader understands
OPTIONAL = (KEYS, META, TENSORS, PROBE)  # optional features, named like their parts of the manifest
HEAD, MIDDLE = b'{"manifest":', b',"sha256":"'  # bytes before the body and before its digest


@dataclass(frozen=True, slots=True)
class ShardEntry:
    """One shard. Its file is `shards/<sha256>.safetensors`."""

    sha256: str
    bytes: int
    records: int
    documents: int

    @property
    def path(self) -> str:
        """Path of the file, relative to the store."""
        return f"shards/{self.sha256}.safetensors"


@dataclass(frozen=True, slots=True)
class KeysEntry:
    """One file of keys, `keys/<sha256>.safetensors`."""

    sha256: str
    bytes: int
    texts: int
    embedder: str  # its name
    embedder_id: str

    @property
    def path(self) -> str:
        """Path of the file, relative to the store."""
        return f"keys/{self.sha256}.safetensors"


@dataclass(frozen=True, slots=True)
class Numerics:
    """The arithmetic that decoding was certified in."""

    dtype: str = "float32"
    attention: str = "sdpa"


@dataclass(frozen=True, slots=True)
class Manifest:
    """A store's state at one generation."""

    fingerprint: Fingerprint
    vocabulary: int  # V, ids that corrections may hold
    numerics: Numerics = field(default_factory=Numerics)
    generation: int = 0
    shards: tuple[ShardEntry, ...] = ()
    tool: str = ""  # writer of this generation; informative
    required: tuple[str, ...] = ()  # features a reader must understand, without REMOVED, which follows from `removed`
    keys: tuple[KeysEntry, ...] = ()
    meta: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # metadata of documents, by name
    removed: tuple[tuple[str, str], ...] = ()  # (name, sha256) of removed document versions, ascending
    tensors: Mapping[str, str] = field(default_factory=dict)  # of the model's checkpoint: 16 hex digits by name
    probe: Mapping[str, Any] = field(default_factory=dict)  # numeric probe and tokenizer strings of the model
    extensions: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # of other programs, left as they are
    foreign: str = ""  # content of a newer writer that this one would lose; never written

    @property
    def named(self) -> tuple[ShardEntry | KeysEntry, ...]:
        """The files of the store, without the manifest."""
        return (*self.shards, *self.keys)

    def check_writable(self) -> None:
        """Raise FormatTooNewError if a write would lose content of a newer writer. SPEC §4."""
        if self.foreign:
            raise FormatTooNewError(
                f"{self.foreign} to be written or copied", "such a store, but would lose what is new in it"
            )

    def following(
        self,
        tool: str,
        shard: ShardEntry | None = None,
        keys: Iterable[KeysEntry] = (),
        required: Iterable[str] = (),
        meta: Mapping[str, Mapping[str, str]] | None = None,
        removed: Iterable[tuple[str, str]] | None = None,
    ) -> Manifest:
        """Return the next generation, with one more shard and more keys that need the features `required`.

        `meta` replaces the metadata of the documents it names; an empty mapping deletes it. `removed` replaces the
        earlier list.
        """
        new = {entry.sha256 for entry in keys}
        return replace(
            self,
            shards=(
                *(s for s in self.shards if shard is None or s.sha256 != shard.sha256),
                *([shard] if shard else []),
            ),
            keys=(*(k for k in self.keys if k.sha256 not in new), *keys),
            generation=self.generation + 1,
            tool=tool,
            required=tuple(sorted({*self.required, *required} - {REMOVED})),
            meta={name: said for name, said in {**self.meta, **(meta or {})}.items() if said},
            removed=self.removed if removed is None else tuple(sorted(set(removed))),
        )


def encode(manifest: Manifest) -> bytes:
    """Encode manifest.json: the manifest and its sha256 in one canonical object, and a newline.

    UsageError if it is over the limit. FormatTooNewError if content of a newer writer would be lost: every write to a
    store comes through here.
    """
    manifest.check_writable()
    body = asdict(manifest) | {
        "format": FORMAT_NAME,
        "version": list(VERSION),
        "features": {"optional": _optional(manifest), "required": _required(manifest)},
        "shards": [asdict(entry) for entry in manifest.shards],
        "keys": [asdict(entry) for entry in manifest.keys],
        "removed": [list(version) for version in manifest.removed],
    }
    absent = [name for name in (*OPTIONAL, REMOVED, "extensions") if not getattr(manifest, name)]
    for name in ("foreign", "required", *absent):
        del body[name]
    data = canonical.seal("manifest", body) + b"\n"
    if len(data) > limits.MANIFEST_BYTES:  # no reader would accept it; the generation before stays
        raise UsageError(
            f"the store's manifest would be {len(data):,} bytes, at most {limits.MANIFEST_BYTES:,} are read. "
            "Begin another store, or pass less metadata of documents."
        )
    return data


def decode(data: bytes) -> Manifest:
    """Decode the manifest. Refusal if it is damaged, FormatTooNewError if it needs a newer reader."""
    if len(data) > limits.MANIFEST_BYTES:
        raise Refusal("file-too-large", f"{len(data)} bytes are over the limit of {limits.MANIFEST_BYTES}")
    if not data.endswith(b"\n"):
        raise Refusal("cut-off", "cut off: the last newline is missing")
    envelope = canonical.loads(data[:-1])
    body, digest = fields.one(envelope, "manifest", dict), fields.one(envelope, "sha256", str)
    if len(envelope) != 2:
        raise fields.bad("expected exactly the keys 'manifest' and 'sha256'")
    # The form is canonical, so the body's bytes are known. The digest is checked before the version: a flipped digit is
    # damage, not a newer format.
    found = hashlib.sha256(memoryview(data)[len(HEAD) : -len(MIDDLE) - len(canonical.dumps(digest)) - 1]).hexdigest()
    if found != digest:
        raise Refusal("digest-mismatch", "content does not match its sha256")
    _check_readable(body)
    return _build(body)


def _check_readable(body: dict[str, Any]) -> None:
    if fields.one(body, "format", str) != FORMAT_NAME:
        raise Refusal("wrong-format", f"not a {FORMAT_NAME} manifest")
    version = fields.several(body, "version", int)
    if len(version) != 2 or version[1] < 0:
        raise fields.bad(f"version {version} is no pair of numbers")
    supported = f"format {VERSION[0]}.x"
    if version[0] != VERSION[0]:
        raise FormatTooNewError(f"format {version[0]}.{version[1]}", supported)
    unknown = sorted(set(fields.several(body.get("features"), "required", str)) - FEATURES)
    if unknown:
        raise FormatTooNewError(f"feature {unknown[0]!r}", f"{supported} without it", "unknown-feature")
    for name, extension in fields.mapping(body, "extensions", dict).items():
        if fields.one(extension, "must_understand", bool):
            raise FormatTooNewError(f"extension {name!r}", f"{supported} without it", "unknown-extension")
    declared = body.get("numerics")
    numerics = Numerics(fields.one(declared, "dtype", str), fields.one(declared, "attention", str))
    if numerics != Numerics():
        raise FormatTooNewError(f"decoding in {numerics}", str(Numerics()), "unsupported-numerics")


def _optional(manifest: Manifest) -> list[str]:
    return [name for name in OPTIONAL if getattr(manifest, name)]


def _required(manifest: Manifest) -> list[str]:
    return sorted({*manifest.required, *([REMOVED] if manifest.removed else [])})


def _removed(body: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Return the removed versions. Refusal unless they ascend, and the feature is named if there are any."""
    pairs = fields.several(body, "removed", list, [])
    if any([type(member) for member in pair] != [str, str] for pair in pairs):
        raise fields.bad("removed: expected pairs of strings only")
    found = tuple((name, digest) for name, digest in pairs)
    for _, digest in found:
        fields.digest(digest, "a removed version")
    if any(later <= earlier for earlier, later in pairwise(found)):
        raise Refusal("not-ascending", "the removed versions do not ascend")
    if bool(found) != (REMOVED in body["features"]["required"]):
        raise Refusal(
            "feature-not-named", f"feature {REMOVED!r} must be named when documents were removed, and only then"
        )
    return found


def _check_entries(entries: Sequence[ShardEntry] | Sequence[KeysEntry]) -> None:
    bounds = {"bytes": limits.MOST_COUNT, "records": limits.RECORDS, "documents": limits.DOCUMENTS}
    for entry in entries:
        fields.digest(entry.sha256, "file name")
        value = asdict(entry)
        fields.counts(value, {name: most for name, most in (bounds | {"texts": limits.TEXTS}).items() if name in value})
        if entry.bytes > limits.FILE_BYTES:
            raise Refusal(
                "file-too-large", f"{entry.path} is {entry.bytes} bytes by its entry, over {limits.FILE_BYTES}"
            )
    if len({entry.sha256 for entry in entries}) != len(entries):
        raise Refusal("duplicate-entry", "a file is named twice")


def _build(body: dict[str, Any]) -> Manifest:
    shards = tuple(fields.dataclass_of(ShardEntry, entry) for entry in fields.several(body, "shards", dict))
    keys = tuple(fields.dataclass_of(KeysEntry, entry) for entry in fields.several(body, "keys", dict, []))
    _check_entries(shards)
    _check_entries(keys)
    fields.counts(body, {"generation": limits.MOST_COUNT, "vocabulary": limits.VOCABULARY})
    optional = fields.several(body["features"], "optional", str)
    newer = f"format {VERSION[0]}.{body['version'][1]}" if body["version"][1] > VERSION[1] else ""
    return Manifest(
        fingerprint=fields.fingerprint(body.get("fingerprint")),
        vocabulary=body["vocabulary"],
        generation=body["generation"],
        tool=fields.one(body, "tool", str),
        shards=shards,
        keys=keys,
        meta={name: fields.mapping({"meta": said}, "meta", str) for name, said in _said(body)},
        removed=_removed(body),
        tensors=fields.mapping(body, "tensors", str),
        probe=fields.one(body, "probe", dict) if "probe" in body else {},
        extensions=fields.mapping(body, "extensions", dict),
        required=tuple(name for name in body["features"]["required"] if name != REMOVED),
        foreign=newer or ", ".join(f"feature {name!r}" for name in optional if name not in OPTIONAL),
    )


def _said(body: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    return fields.mapping(body, "meta", dict).items()
