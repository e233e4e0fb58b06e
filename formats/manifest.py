"""The manifest: which shards make up a store, and what model they belong to. What it names is the truth. SPEC §4."""

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
CONTEXT = "context"  # the feature of a store that holds records of kind context
KEYS = "keys"  # the optional feature of a store that holds keys to search by
META = "meta"  # of one that holds what is said of documents
REMOVED = "removed"  # the feature of a store of which documents were removed; who did not know it would show them
TENSORS, PROBE = "tensors", "probe"  # of one that can explain how another model differs
FEATURES = frozenset({CONTEXT, REMOVED})  # required features this reader understands
OPTIONAL = (KEYS, META, TENSORS, PROBE)  # optional ones, each named as the part of the manifest it is about
HEAD, MIDDLE = b'{"manifest":', b',"sha256":"'  # what stands before the body and before its digest


@dataclass(frozen=True, slots=True)
class ShardEntry:
    """One shard by its digest; the file is `shards/<sha256>.safetensors`."""

    sha256: str
    bytes: int
    records: int
    documents: int

    @property
    def path(self) -> str:
        """Where the file lies, relative to the store."""
        return f"shards/{self.sha256}.safetensors"


@dataclass(frozen=True, slots=True)
class KeysEntry:
    """One file of keys by its digest; the file is `keys/<sha256>.safetensors`."""

    sha256: str
    bytes: int
    texts: int
    embedder: str  # its name
    embedder_id: str

    @property
    def path(self) -> str:
        """Where the file lies, relative to the store."""
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
    tool: str = ""  # what wrote this generation; informative
    required: tuple[str, ...] = ()  # features a reader must understand, REMOVED left to `removed`
    keys: tuple[KeysEntry, ...] = ()
    meta: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # what is said of documents, by name
    removed: tuple[tuple[str, str], ...] = ()  # (name, sha256) of documents whose records no longer count, ascending
    tensors: Mapping[str, str] = field(default_factory=dict)  # of the model's checkpoint: 16 hex digits by name
    probe: Mapping[str, Any] = field(default_factory=dict)  # what the model said where the store was made
    extensions: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # of other programs, kept as they are
    foreign: str = ""  # what a newer writer put in that this one would lose; never written

    @property
    def named(self) -> tuple[ShardEntry | KeysEntry, ...]:
        """The files that the store is made of, beside the manifest."""
        return (*self.shards, *self.keys)

    def check_writable(self) -> None:
        """FormatTooNewError when a newer writer put something in that this one would lose by writing. SPEC §4."""
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
        """The next generation, with a shard and keys more that need the features `required`; the same is kept once.

        `meta` replaces what was said of the documents it names; nothing said takes it away. `removed` replaces what
        was removed before.
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
    """The bytes of manifest.json: the manifest and its own sha256 in one canonical object, and a newline. UsageError.

    Every verb that writes a store ends here, so the door for writers is here too: FormatTooNewError.
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
    if len(data) > limits.MANIFEST_BYTES:  # what no reader would read is not written: the generation before stays
        raise UsageError(
            f"the store's manifest would be {len(data):,} bytes, at most {limits.MANIFEST_BYTES:,} are read. "
            "Begin another store, or say less of documents."
        )
    return data


def decode(data: bytes) -> Manifest:
    """The manifest in `data`. Refusal when damaged, FormatTooNewError when intact but not for this reader."""
    if len(data) > limits.MANIFEST_BYTES:
        raise Refusal("file-too-large", f"{len(data)} bytes are over the limit of {limits.MANIFEST_BYTES}")
    if not data.endswith(b"\n"):
        raise Refusal("cut-off", "cut off: the last newline is missing")
    envelope = canonical.loads(data[:-1])
    body, digest = fields.one(envelope, "manifest", dict), fields.one(envelope, "sha256", str)
    if len(envelope) != 2:
        raise fields.bad("expected exactly the keys 'manifest' and 'sha256'")
    # The form is canonical, so the body's bytes are known. Its digest is judged before the version: a flipped digit is
    # damage, not a format of the future.
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
    """What was removed; Refusal unless it ascends, and the feature is named when it is not empty."""
    pairs = fields.several(body, "removed", list, [])
    if any([type(member) for member in pair] != [str, str] for pair in pairs):
        raise fields.bad("removed holds something else than pairs of texts")
    found = tuple((name, digest) for name, digest in pairs)
    for _, digest in found:
        fields.digest(digest, "what was removed")
    if any(later <= earlier for earlier, later in pairwise(found)):
        raise Refusal("not-ascending", "what was removed does not ascend")
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
            raise Refusal("file-too-large", f"{entry.path} is said to be {entry.bytes} bytes, over {limits.FILE_BYTES}")
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
