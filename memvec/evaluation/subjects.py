"""The documents of an evaluation: each with its text, its memory of one kind, and its questions.

Letters: M vectors, D width.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from memvec.decoding.unpack import content
from memvec.errors import ConditioningError, UsageError
from memvec.evaluation.controls import Arm
from memvec.evaluation.forms import question_row
from memvec.evaluation.questions import Question
from memvec.identity.runtime import Runtime
from memvec.kv.selection import Selection
from memvec.lm.scoring import Row
from memvec.memory.memory import load
from memvec.memory.prompt import tensor
from memvec.store.store import Store, StoredDocument
from memvec.types import Document, Kind, Record


@dataclass(slots=True)
class Subject:
    """A document with its text, its memory and its questions."""

    name: str
    text: str
    memory: Arm
    stored: int  # size of the memory in the store [bytes]
    seconds: float  # that making the memory took
    exact: Tensor | None  # (M, D)
    rows: list[Row]
    answers: list[Sequence[str]]  # the accepted answers of each row


def subjects(
    runtime: Runtime,
    names: Sequence[str],
    asked: Sequence[Question],
    kind: str,
    texts: Mapping[str, bytes] | None,
    control: Store,
    template: str,
) -> list[Subject]:
    """Read documents and their memories of a kind from the store, and exact vectors from `control`, where it has them.

    Raises:
        UsageError: A text is missing, or differs from the one that was packed.
        ConditioningError: A document has no memory of the kind.
    """
    live, out = runtime.store.documents(), []
    given = {name: _text(runtime, live[name], texts) for name in names}
    for name in names:
        questions = [question for question in asked if question.document == name]
        refs = live[name].kv if kind == "kv" else live[name].memory
        if not refs:
            raise ConditioningError(name, str(runtime.store.path), kind)
        records = [runtime.store.record(ref) for ref in refs]
        exact = tensor(load(control, name, "exact")) if _has_exact(control, live[name].document) else None
        out.append(
            Subject(
                name=name,
                text=given[name],
                memory=_memory(records, runtime.lm.device),
                stored=sum(record.kv.nbytes if record.kv else record.vectors.nbytes for record in records),
                seconds=sum(record.report.seconds for record in records),
                exact=None if exact is None else exact.to(runtime.lm.device),
                rows=[question_row(runtime.lm.tokenizer, q.question, q.answer, template) for q in questions],
                answers=[q.answers for q in questions],
            )
        )
    return out


def chosen_kind(store: Store, names: Sequence[str], kind: str) -> str:
    """The kind of memories to judge. "auto" is kv if every document has such a memory, else context."""
    live = store.documents()
    return kind if kind != "auto" else "kv" if all(live[name].kv for name in names) else "context"


def _memory(records: Sequence[Record], device: torch.device) -> Arm:
    """The memory of a document that has these records."""
    kv = [Selection.of(record.kv, record.tokens, device) for record in records if record.kv is not None]
    return Selection.behind(kv) if kv else torch.cat([tensor(record) for record in records]).to(device)


def _text(runtime: Runtime, stored: StoredDocument, texts: Mapping[str, bytes] | None) -> str:
    """The text of a document, from `texts` or decoded. UsageError if it is missing, no text, or not the packed one."""
    name = stored.document.name
    if texts is None and not stored.complete:
        raise UsageError(f"the store holds no content of {name!r}. Give the texts of all documents in texts=….")
    if texts is not None and name not in texts:
        raise UsageError(f"texts has no {name!r}. Give the texts of all documents or of none.")
    data = texts[name] if texts is not None else content(runtime, name)
    if hashlib.sha256(data).hexdigest() != stored.document.sha256:
        raise UsageError(f"the text given for {name!r} is not the one that was packed. Give the packed one.")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"{name!r} is not UTF-8 text. Ask only about documents that are text.") from error


def _has_exact(store: Store, document: Document) -> bool:
    """Does the store have this version of the document, complete and in exact records only?"""
    stored = store.documents().get(document.name)
    if stored is None or stored.document.sha256 != document.sha256 or not stored.complete:
        return False
    return all(store.record(ref).kind == Kind.EXACT for ref in stored.records)
