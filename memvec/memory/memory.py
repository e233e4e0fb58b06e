"""Memories: context vectors of documents, or keys and values, loaded from a store. This module knows no model.

Letters: M positions, D width, N tokens of a document.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from memvec.arguments import checked, choice
from memvec.errors import ConditioningError, NoContentError, UsageError
from memvec.filesystem.names import several
from memvec.guard import loading_alone
from memvec.identity.runtime import Runtime, runtime_of
from memvec.memory.dispatch import install_early
from memvec.store.store import RecordRef, Store, StoredDocument
from memvec.types import Fingerprint, Identity, KeysValues, Record, Vectors

if TYPE_CHECKING:
    from memvec.memory.prompt import Prompts


@dataclass(frozen=True, slots=True, eq=False)
class KVPart:
    """The keys and values that one record keeps of a text of N tokens."""

    tokens: int  # N
    stored: KeysValues


@dataclass(frozen=True, slots=True, eq=False)
class Memory:
    """One or more documents, for use in front of a prompt: as vectors, or as keys and values. `memvec.load_memory` makes it.

    Attributes:
        documents: Their names, in the order of the parts.
        parts: The vectors of each record, (M_i, D) float16. Empty for keys and values.
        fingerprint: The model the memory belongs to.
        probe: The numeric probe of that model. It helps to recognise a loaded model.
        kv: The keys and values of each document, by record. Empty for vectors.
        ranked: The last document is the best match. Its keys and values stand next to the prompt, those of the others
            side by side before them. Else all documents stand side by side.

    Example:
        >>> memory = memvec.load_memory(store, "harbour.txt") + memvec.load_memory(store, "letters/jane.txt")
        >>> memory.documents
        ('harbour.txt', 'letters/jane.txt')
        >>> len(memory) == len(memory.vectors)
        True
    """

    documents: tuple[str, ...]
    parts: tuple[Vectors, ...]
    fingerprint: Fingerprint
    probe: Mapping[str, Any] = field(default_factory=dict)
    kv: tuple[tuple[KVPart, ...], ...] = ()
    ranked: bool = False

    def __post_init__(self) -> None:
        """Prepare transformers' `generate` for memories. UsageError for vectors beside keys and values."""
        if self.kv and self.parts:
            raise UsageError(
                "a memory is either vectors or keys and values, found both. Load all documents with one kind: "
                "memvec.load_memory(…, kind='context'), or kind='kv'."
            )
        install_early()

    @property
    def identity(self) -> Identity:
        """The model the memory belongs to, as `check_model` takes it."""
        return Identity(self.fingerprint, probe=self.probe)

    @property
    def vectors(self) -> Vectors:
        """All parts joined, (M, D) float16. (0, D) for keys and values."""
        return np.concatenate([np.zeros((0, self.fingerprint.width), np.float16), *self.parts])

    def __len__(self) -> int:
        """M, the number of context positions it takes."""
        return sum(map(len, self.parts)) + sum(part.stored.positions for document in self.kv for part in document)

    def __add__(self, other: Memory) -> Memory:
        """Join two memories, this one first. The last document stays next to the prompt if it is in the other one.

        FingerprintError if they belong to different models, UsageError if one is vectors and the other keys and values.
        """
        from memvec.identity.fingerprint import check_fingerprint

        if not isinstance(other, Memory):
            return NotImplemented
        check_fingerprint(self.fingerprint, other.fingerprint)
        return Memory(
            self.documents + other.documents,
            self.parts + other.parts,
            self.fingerprint,
            self.probe or other.probe,
            self.kv + other.kv,
            other.ranked,
        )

    def generate_kwargs(self, model: Any, tokenizer: Any, prompts: Prompts, **options: Any) -> dict[str, Any]:
        """Return the arguments of `model.generate` for prompts with this memory; see `prompt.generate_kwargs`."""
        from memvec.memory.prompt import generate_kwargs

        return generate_kwargs(model, tokenizer, prompts, self, **options)

    def as_cache(self, model: Any, tokenizer: Any, **options: Any) -> Any:
        """Run this memory through a model once, for many prompts; see `cached.CachedMemory`."""
        from memvec.memory.cached import CachedMemory

        return CachedMemory(model, tokenizer, self, **options)


@checked(kind=choice("auto", "context", "kv", "exact"))
def load(
    store: str | Path | Store | Runtime, documents: Sequence[str] | str, kind: str = "auto", *, ranked: bool = False
) -> Memory:
    """Load the memory of documents from a store. No model is loaded.

    Args:
        store: The store, or what `memvec.open` returns.
        documents: Names of documents. Vectors are joined in this order. Keys and values stand side by side.
        kind: "context" for context vectors, "kv" for keys and values. "auto" is "kv" if every document has a kv memory,
            else "context". "exact" gives the vectors that reproduce the text; they harm other answers of the model, so
            use them to measure that.
        ranked: The documents are in the order of a search, the best match first. Then the best match stands next to the
            prompt: it is worth as much as alone, and the others are worth less. The memory names it last.

    Returns:
        The memory.

    Raises:
        NotFoundError: There is no such store or document.
        ConditioningError: A document has no memory of this kind.
        NoContentError: With `kind` "exact", a document has only a memory.
        StoreDamagedError: The store is damaged.

    Example:
        >>> memory = memvec.load_memory(store, ["harbour.txt", "letters/jane.txt"])
        >>> memory.documents
        ('harbour.txt', 'letters/jane.txt')
    """
    opened = runtime_of(store).store
    with contextlib.suppress(ImportError), loading_alone():
        import transformers.generation.utils  # noqa: F401 - Memory installs the dispatcher there
    names = several(documents)[:: -1 if ranked else 1]
    live = opened.documents()
    for name in names:
        if name not in live:
            raise opened.missing(name)
    asked = kind
    if kind == "auto":
        kind = "kv" if names and all(live[name].kv for name in names) else "context"
    records = [_records(opened, live[name], kind, asked) for name in names]
    kv = [tuple(KVPart(record.tokens, record.kv) for record in own if record.kv is not None) for own in records]
    return Memory(
        names,
        () if kind == "kv" else tuple(record.vectors for own in records for record in own),
        opened.manifest.fingerprint,
        opened.manifest.probe,
        tuple(kv) if kind == "kv" else (),
        ranked,
    )


def _records(store: Store, stored: StoredDocument, kind: str, asked: str) -> list[Record]:
    refs: Sequence[RecordRef] = {"context": stored.memory, "kv": stored.kv}.get(kind, stored.records)
    if kind in ("context", "kv") and not refs:
        raise ConditioningError(stored.document.name, str(store.path), kind if stored.kv else asked)
    if kind == "exact" and not stored.complete:
        raise NoContentError(stored.document.name)
    return [store.record(ref) for ref in refs]
