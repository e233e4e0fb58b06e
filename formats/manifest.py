"""The manifest: which shards make up a store, and what model they belong to. What it names is the truth. SPEC §4."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from itertools import pairwise
from typing import Any, TypeVar

from memvec.errors import FormatTooNewError
from memvec.formats import canonical
from memvec.types import Fingerprint

T = TypeVar("T")

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
MAX_BYTES = 64 * 1024 * 1024


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
    """The bytes of manifest.json: the manifest and its own sha256 in one canonical object, and a newline."""
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
    return canonical.dumps({"manifest": body, "sha256": _digest(body)}) + b"\n"


def decode(data: bytes) -> Manifest:
    """The manifest in `data`. ValueError when damaged, FormatTooNewError when intact but not for this reader."""
    if len(data) > MAX_BYTES:
        raise ValueError(f"{len(data)} bytes are over the limit of {MAX_BYTES}")
    if not data.endswith(b"\n"):
        raise ValueError("cut off: the last newline is missing")
    envelope = canonical.loads(data[:-1])
    if not isinstance(envelope, dict) or set(envelope) != {"manifest", "sha256"}:
        raise ValueError("expected exactly the keys 'manifest' and 'sha256'")
    body = envelope["manifest"]
    # The digest is judged before the version: a flipped digit is damage, not a format of the future.
    if not isinstance(body, dict) or _digest(body) != envelope["sha256"]:
        raise ValueError("content does not match its sha256")
    try:
        _check_readable(body)
        return _build(body)
    except (KeyError, TypeError) as error:
        raise ValueError(f"a field is missing or of the wrong type ({error})") from None


def _check_readable(body: dict[str, Any]) -> None:
    version = body.get("version")
    if body.get("format") != FORMAT_NAME or not isinstance(version, list) or len(version) != 2:
        raise ValueError(f"not a {FORMAT_NAME} manifest")
    supported = f"format {VERSION[0]}.x"
    if any(type(number) is not int for number in version):
        raise ValueError(f"version {version} is no pair of numbers")
    if version[0] != VERSION[0]:
        raise FormatTooNewError(f"format {version[0]}.{version[1]}", supported)
    required = body["features"]["required"]
    if not isinstance(required, list):
        raise TypeError(f"required features are {required!r}, expected a list")
    unknown = sorted(set(required) - FEATURES)
    if unknown:
        raise FormatTooNewError(f"feature {unknown[0]!r}", f"{supported} without it")
    for name, extension in _objects(body.get("extensions", {}), "extensions").items():
        if type(extension["must_understand"]) is not bool:
            raise TypeError(f"must_understand of extension {name!r} is neither true nor false")
        if extension["must_understand"]:
            raise FormatTooNewError(f"extension {name!r}", f"{supported} without it")


def _optional(manifest: Manifest) -> list[str]:
    return [name for name in OPTIONAL if getattr(manifest, name)]


def _required(manifest: Manifest) -> list[str]:
    return sorted({*manifest.required, *([REMOVED] if manifest.removed else [])})


def _objects(value: Any, name: str) -> dict[str, dict[str, Any]]:
    if not isinstance(value, dict) or not all(isinstance(inner, dict) for inner in value.values()):
        raise TypeError(f"{name} is no object of objects")
    return value


def _texts(value: Any, name: str) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise TypeError(f"{name} is no object of texts")
    return value


def _removed(body: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """What was removed; ValueError or TypeError unless it ascends, and the feature is named when it is not empty."""
    pairs = body.get("removed", [])
    if not isinstance(pairs, list) or not all(
        isinstance(p, list) and [type(x) for x in p] == [str, str] for p in pairs
    ):
        raise TypeError("removed is no list of pairs of texts")
    found = tuple((name, digest) for name, digest in pairs)
    if any(later <= earlier for earlier, later in pairwise(found)):
        raise ValueError("what was removed does not ascend")
    if bool(found) != (REMOVED in body["features"]["required"]):
        raise ValueError(f"feature {REMOVED!r} must be named when documents were removed, and only then")
    return found


def _build(body: dict[str, Any]) -> Manifest:
    shards = tuple(_typed(ShardEntry, entry) for entry in body["shards"])
    keys = tuple(_typed(KeysEntry, entry) for entry in body.get("keys", []))
    named: list[ShardEntry | KeysEntry] = [*shards, *keys]
    for entry in named:
        if len(entry.sha256) != 64 or set(entry.sha256) - set("0123456789abcdef"):
            raise ValueError(f"file name {entry.sha256!r} is no sha256")
        if min(value for value in asdict(entry).values() if isinstance(value, int)) < 0:
            raise ValueError(f"{entry.path} has a negative size or count")
    numerics = _typed(Numerics, body["numerics"])
    if numerics != Numerics():
        raise FormatTooNewError(f"decoding in {numerics}", str(Numerics()))
    optional = [str(name) for name in body["features"]["optional"]]
    newer = f"format {VERSION[0]}.{body['version'][1]}" if body["version"][1] > VERSION[1] else ""
    known = {name: body[name] for name in ("generation", "tool", "vocabulary")}
    return replace(
        _typed(Manifest, known | {"fingerprint": _typed(Fingerprint, body["fingerprint"])}),
        shards=shards,
        keys=keys,
        meta={n: _texts(said, "meta") for n, said in _objects(body.get("meta", {}), "meta").items()},
        removed=_removed(body),
        tensors=_texts(body.get("tensors", {}), "tensors"),
        probe=_objects({"probe": body.get("probe", {})}, "probe")["probe"],
        extensions=body.get("extensions", {}),
        required=tuple(name for name in body["features"]["required"] if name != REMOVED),
        foreign=newer or ", ".join(f"feature {name!r}" for name in optional if name not in OPTIONAL),
    )


def _typed(cls: type[T], value: Any) -> T:
    """A dataclass from a JSON object: unknown keys are passed over, missing or mistyped ones are a TypeError."""
    if not isinstance(value, dict):
        raise TypeError(f"{cls.__name__} is no object")
    hints = {"str": str, "int": int, "Mapping[str, Any]": dict, "Fingerprint": Fingerprint}
    chosen = {}
    for item in fields(cls):  # type: ignore[arg-type]
        if item.name not in value:
            continue  # the constructor says which are missing
        kind = hints.get(str(item.type))
        if kind is None or type(value[item.name]) is not kind:
            raise TypeError(f"{item.name} of {cls.__name__} is {value[item.name]!r}, expected {item.type}")
        chosen[item.name] = value[item.name]
    return cls(**chosen)


def _digest(body: dict[str, Any]) -> str:
    return hashlib.sha256(canonical.dumps(body)).hexdigest()
