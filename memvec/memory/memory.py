"""Memories: context vectors of documents, loaded from a store. This module knows no model.

Letters: M vectors, D width.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from memvec.arguments import checked, choice
from memvec.errors import ConditioningError, NoContentError
from memvec.filesystem.names import several
from memvec.guard import loading_alone
from memvec.identity.runtime import Runtime, runtime_of
from memvec.memory.dispatch import install_early
from memvec.store.store import RecordRef, Store, StoredDocument
from memvec.types import Fingerprint, Identity, Record, Vectors

if TYPE_CHECKING:
    from memvec.memory.prompt import Prompts


@dataclass(frozen=True, slots=True, eq=False)
class Memory:
    """Vectors of one or more documents, for use in front of a prompt. `memvec.load_memory` makes it.

    Attributes:
        documents: Their names, in the order of the vectors.
        parts: The vectors of each record, (M_i, D) float16.
        fingerprint: The model the vectors belong to.
        probe: The numeric probe of that model. It helps to recognise a loaded model.

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

    def __post_init__(self) -> None:
        """Prepare transformers' `generate` for memories."""
        install_early()

    @property
    def identity(self) -> Identity:
        """The model the vectors belong to, as `check_model` takes it."""
        return Identity(self.fingerprint, probe=self.probe)

    @property
    def vectors(self) -> Vectors:
        """All parts joined, (M, D) float16."""
        return np.concatenate([np.zeros((0, self.fingerprint.width), np.float16), *self.parts])

    def __len__(self) -> int:
        """M, the number of context positions it takes."""
        return sum(map(len, self.parts))

    def __add__(self, other: Memory) -> Memory:
        """Join two memories, this one first. FingerprintError if they belong to different models."""
        from memvec.identity.fingerprint import check_fingerprint

        if not isinstance(other, Memory):
            return NotImplemented
        check_fingerprint(self.fingerprint, other.fingerprint)
        return Memory(
            self.documents + other.documents, self.parts + other.parts, self.fingerprint, self.probe or other.probe
        )

    def generate_kwargs(self, model: Any, tokenizer: Any, prompts: Prompts, **options: Any) -> dict[str, Any]:
        """Return the arguments of `model.generate` for prompts with this memory; see `prompt.generate_kwargs`."""
        from memvec.memory.prompt import generate_kwargs

        return generate_kwargs(model, tokenizer, prompts, self, **options)

    def as_cache(self, model: Any, tokenizer: Any, **options: Any) -> Any:
        """Run this memory through a model once, for many prompts; see `cached.CachedMemory`."""
        from memvec.memory.cached import CachedMemory

        return CachedMemory(model, tokenizer, self, **options)


@checked(kind=choice("context", "exact"))
def load(store: str | Path | Store | Runtime, documents: Sequence[str] | str, kind: str = "context") -> Memory:
    """Load the memory of documents from a store. No model is loaded.

    Args:
        store: The store, or what `memvec.open` returns.
        documents: Names of documents. Their vectors are joined in this order.
        kind: "context", or "exact" for the vectors that reproduce the text. Exact vectors harm other answers of the model;
            use them to measure that.

    Returns:
        The memory.

    Raises:
        NotFoundError: There is no such store or document.
        ConditioningError: A document has only exact vectors.
        NoContentError: With `kind` "exact", a document has only a memory.
        StoreDamagedError: The store is damaged.

    Example:
        >>> memory = memvec.load_memory(store, ["harbour.txt", "letters/jane.txt"])
        >>> memory.vectors.shape == (len(memory), memory.fingerprint.width)
        True
    """
    opened = runtime_of(store).store
    with contextlib.suppress(ImportError), loading_alone():
        import transformers.generation.utils  # noqa: F401 - Memory installs the dispatcher there
    names = several(documents)
    live = opened.documents()
    parts: list[Vectors] = []
    for name in names:
        if name not in live:
            raise opened.missing(name)
        parts += [record.vectors for record in _records(opened, live[name], kind)]
    return Memory(names, tuple(parts), opened.manifest.fingerprint, opened.manifest.probe)


def _records(store: Store, stored: StoredDocument, kind: str) -> list[Record]:
    refs: Sequence[RecordRef] = stored.memory if kind == "context" else stored.records
    if kind == "context" and not refs:
        raise ConditioningError(stored.document.name, str(store.path))
    if kind == "exact" and not stored.complete:
        raise NoContentError(stored.document.name)
    return [store.record(ref) for ref in refs]
