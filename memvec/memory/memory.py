"""Memories: context vectors loaded from a store, to be put in front of a prompt. Knows no model.

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
from memvec.decoding.unpack import missing
from memvec.errors import ConditioningError, NoContentError
from memvec.guard import loading_alone
from memvec.identity.runtime import Runtime, runtime_of
from memvec.memory.dispatch import install_early
from memvec.store.store import RecordRef, Store, StoredDocument
from memvec.types import Fingerprint, Identity, Record, Vectors

if TYPE_CHECKING:
    from memvec.memory.prompt import Prompts


@dataclass(frozen=True, slots=True, eq=False)
class Memory:
    """Vectors of one or more documents, joined in the order they were asked for."""

    documents: tuple[str, ...]
    parts: tuple[Vectors, ...]  # (M_i, D) float16, one for each record
    fingerprint: Fingerprint
    probe: Mapping[str, Any] = field(default_factory=dict)  # what the store's model said; tells more of a loaded model

    def __post_init__(self) -> None:
        """Get transformers' `generate` ready for it."""
        install_early()

    @property
    def identity(self) -> Identity:
        """What the vectors belong to, as `check_model` takes it."""
        return Identity(self.fingerprint, probe=self.probe)

    @property
    def vectors(self) -> Vectors:
        """All parts joined, (M, D) float16."""
        return np.concatenate([np.zeros((0, self.fingerprint.width), np.float16), *self.parts])

    def __len__(self) -> int:
        """M, the context positions it takes."""
        return sum(map(len, self.parts))

    def __add__(self, other: Memory) -> Memory:
        """Both, this one first. FingerprintError when they belong to different models."""
        from memvec.identity.fingerprint import check_fingerprint

        if not isinstance(other, Memory):
            return NotImplemented
        check_fingerprint(self.fingerprint, other.fingerprint)
        return Memory(
            self.documents + other.documents, self.parts + other.parts, self.fingerprint, self.probe or other.probe
        )

    def generate_kwargs(self, model: Any, tokenizer: Any, prompts: Prompts, **options: Any) -> dict[str, Any]:
        """What `model.generate` takes for these prompts with this memory; see `prefix.generate_kwargs`."""
        from memvec.memory.prompt import generate_kwargs

        return generate_kwargs(model, tokenizer, prompts, self, **options)

    def as_cache(self, model: Any, tokenizer: Any, **options: Any) -> Any:
        """This memory run through the model once, to be used by many prompts; see `cached.CachedMemory`."""
        from memvec.memory.cached import CachedMemory

        return CachedMemory(model, tokenizer, self, **options)


@checked(kind=choice("context", "exact"))
def load(store: str | Path | Store | Runtime, documents: Sequence[str] | str, kind: str = "context") -> Memory:
    """The memory of documents by name, in that order. NotFoundError; ConditioningError when only exact vectors are there.

    `kind` "exact" loads the vectors that were fitted to reproduce; they harm what a model says otherwise and are for
    measuring that.
    """
    opened = runtime_of(store).store
    with contextlib.suppress(ImportError), loading_alone():
        import transformers.generation.utils  # noqa: F401 - Memory puts the dispatcher there, before a model is used
    names = (documents,) if isinstance(documents, str) else tuple(documents)
    live = opened.documents()
    parts: list[Vectors] = []
    for name in names:
        if name not in live:
            raise missing(opened, name)
        parts += [record.vectors for record in _records(opened, live[name], kind)]
    return Memory(names, tuple(parts), opened.manifest.fingerprint, opened.manifest.probe)


def _records(store: Store, stored: StoredDocument, kind: str) -> list[Record]:
    refs: Sequence[RecordRef] = stored.memory if kind == "context" else stored.records
    if kind == "context" and not refs:
        raise ConditioningError(stored.document.name, str(store.path))
    if kind == "exact" and not stored.complete:
        raise NoContentError(stored.document.name)
    return [store.record(ref) for ref in refs]
