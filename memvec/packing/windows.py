"""Which windows of which documents a pack has to distil. A window is as much text as shares one record's vectors."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from memvec.filesystem.plain_text import as_text
from memvec.filesystem.sources import Source
from memvec.lm.frozen import FrozenLM
from memvec.packing.plan import baseline
from memvec.settings import ContextSettings
from memvec.store.store import StoredDocument
from memvec.training.segments import MIN_TOKENS, Segment, tile
from memvec.types import Document


@dataclass(frozen=True, slots=True)
class Window:
    """A part of a document to be distilled."""

    document: Document
    segment: Segment
    text: str

    @property
    def text_sha256(self) -> bytes:
        """Of the text's bytes."""
        return hashlib.sha256(self.text.encode()).digest()


def windows(
    sources: Sequence[Source],
    known: Mapping[tuple[str, str], StoredDocument],
    lm: FrozenLM,
    settings: ContextSettings,
) -> tuple[list[Window], list[tuple[str, str]]]:
    """(windows still to be distilled, (name, reason) of documents that have no text to distil).

    What `known` holds of a document by (name, sha256) already, whole memories and windows, is left out.
    """
    todo: list[Window] = []
    refused: list[tuple[str, str]] = []
    for source, document in zip(sources, baseline(sources), strict=True):
        text = as_text(source.data)
        ids = lm.encode(text) if text else []
        segments = tile(text, ids, lm.decode, settings.window_tokens) if text and len(ids) >= MIN_TOKENS else None
        if segments is None:
            why = (
                "not valid UTF-8 text, or control characters"
                if text is None
                else "text of a few tokens, or that the tokenizer does not give back"
            )
            refused.append((source.name, f"{why}: it has no memory"))
            continue
        stored = known.get((document.name, document.sha256))
        named = stored.document if stored else dataclasses.replace(document, tokens=len(ids))
        there = {(ref.start, ref.length) for ref in (*stored.memory, *stored.unjoined)} if stored else set()
        todo += [Window(named, s, lm.decode(s.ids)) for s in segments if (s.start, s.length) not in there]
    return todo, refused
