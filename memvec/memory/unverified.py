"""Drafts: the texts that exact vectors give by plain greedy generation, without corrections and not verified. `cat` verifies.

Letters: R records, M vectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from memvec.chunks import chunked
from memvec.errors import NoContentError, UsageError
from memvec.formats.raw import raw_bytes
from memvec.identity.runtime import Runtime
from memvec.lm.frozen import FrozenLM
from memvec.lm.numerics import declared_numerics
from memvec.memory.prompt import embed, pad_id, tensor
from memvec.settings import DECODE_BATCH
from memvec.store.store import Store
from memvec.templates.template import Frame
from memvec.types import Kind, Record


@dataclass(frozen=True, slots=True)
class Draft:
    """The text of a draft, and the number of tokens that verified decoding would correct."""

    text: str
    vectors: int
    tokens: int
    corrections: int  # stored tokens at the decoded positions, which were not used


def draft(runtime: Runtime, names: Sequence[str], limit: int | None = None) -> Draft:
    """Generate documents from their exact vectors alone, up to `limit` tokens. Raw records are read.

    NotFoundError; NoContentError for a document that is only a memory; UsageError for one that is not text.
    """
    records = _records(runtime.store, names)
    wanted, left = [], limit
    for record in records:
        count = record.tokens if record.kind == Kind.EXACT else 0
        wanted.append(count if left is None else min(count, left))
        left = None if left is None else left - wanted[-1]
    lm = runtime.lm
    runtime.notify("decoding")
    fitted = [(record, count) for record, count in zip(records, wanted, strict=True) if count]
    texts = iter([lm.decode(ids).encode() for ids in _greedy(lm, fitted, runtime.batch or DECODE_BATCH)])
    pieces: list[bytes] = []
    for record, count in zip(records, wanted, strict=True):
        if record.kind == Kind.RAW:
            pieces.append(raw_bytes(record))
        elif count:
            pieces.append(next(texts))
        if record.kind == Kind.EXACT and count < record.tokens:
            break  # at the limit
    return Draft(
        text=_joined(pieces, names),
        vectors=sum(len(record.vectors) for record, _ in fitted),
        tokens=sum(count for _, count in fitted),
        corrections=sum(place < count for record, count in fitted for place, _ in record.corrections),
    )


def _records(store: Store, names: Sequence[str]) -> list[Record]:
    live = store.documents()
    records: list[Record] = []
    for name in names:
        if name not in live:
            raise store.missing(name)
        if not live[name].complete:
            raise NoContentError(name)
        records += [store.record(ref) for ref in live[name].records]
    return records


def _greedy(lm: FrozenLM, fitted: Sequence[tuple[Record, int]], batch: int) -> list[list[int]]:
    """The first `count` tokens that `model.generate` gives for the vectors of each record alone."""
    out: list[list[int]] = []
    for some in chunked(fitted, batch):
        rows = [(Frame((), ()), tensor(record)) for record, _ in some]
        made = embed(lm.model, rows)
        with declared_numerics(lm.device):
            ids = lm.model.generate(
                inputs_embeds=made.inputs_embeds,
                attention_mask=made.attention_mask,
                max_new_tokens=max(count for _, count in some),
                do_sample=False,
                eos_token_id=None,  # a document may hold the text of an end token
                pad_token_id=pad_id(lm.tokenizer),
            )
        out += [row[:count] for row, (_, count) in zip(ids.tolist(), some, strict=True)]
    return out


def _joined(pieces: Sequence[bytes], names: Sequence[str]) -> str:
    try:
        return b"".join(pieces).decode()
    except UnicodeDecodeError as error:
        raise UsageError(f"{', '.join(names)} is not UTF-8 text. `memvec.cat(…)` gives the bytes.") from error
