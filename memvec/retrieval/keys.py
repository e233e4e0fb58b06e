"""Keys of records' texts: made when a document is packed, or later from what its records decode to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from memvec.formats.keys import Keys
from memvec.formats.raw import raw_bytes
from memvec.retrieval.embedders import Embeds
from memvec.types import Kind, RawReason, Record


def keys_of(records: Sequence[Record], texts: Mapping[bytes, str], makers: Sequence[Embeds]) -> list[Keys]:
    """The keys by every maker of the records that are text; `texts` by sha256, raw ones hold theirs themselves."""
    found: dict[bytes, str] = {}
    for record in records:
        if record.kind == Kind.RAW and record.reason != RawReason.NOT_TEXT:
            found[record.text_sha256] = raw_bytes(record).decode("utf-8", "replace")
        elif record.text_sha256 in texts:
            found[record.text_sha256] = texts[record.text_sha256]
    return [made.keys(found) for made in makers] if found else []
