"""The documents table of a shard, and the rules for documents' names. SPEC §5.2."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from memvec.formats import canonical, fields, limits
from memvec.formats.refusal import Refusal
from memvec.types import Document

DOCUMENT_FIELDS: dict[str, type] = {"bytes": int, "name": str, "sha256": str, "tokens": int, "zstd_bytes": int}


def encode_documents(documents: Sequence[Document]) -> bytes:
    """Encode the documents table: one line of canonical JSON a document."""
    for document in documents:
        check_name(document.name)  # no reader would accept it
    return b"".join(canonical.dumps({name: getattr(d, name) for name in DOCUMENT_FIELDS}) + b"\n" for d in documents)


def decode_documents(table: bytes) -> list[Document]:
    """Decode the documents table. Refusal if a line is malformed or a name could leave the output folder."""
    if table and not table.endswith(b"\n"):
        raise Refusal("cut-off", "tensor 'documents': the last newline is missing")
    # Line by line: a table of line ends alone must not become a list of millions.
    return [_document(line[:-1]) for line in io.BytesIO(table)]


def _document(line: bytes) -> Document:
    if len(line) > limits.LINE_BYTES:
        raise Refusal("out-of-range", f"tensor 'documents': a line of {len(line)} bytes, over {limits.LINE_BYTES}")
    value = canonical.loads(line)
    chosen: dict[str, Any] = {name: fields.one(value, name, kind) for name, kind in DOCUMENT_FIELDS.items()}
    for name in ("bytes", "tokens", "zstd_bytes"):
        fields.within(chosen[name], f"{name} of a document", limits.MOST_COUNT)
    fields.digest(chosen["sha256"], "sha256 of a document")
    check_name(chosen["name"])
    return Document(**chosen)


def check_name(name: str) -> None:
    """Refuse `name` unless it is a relative path with '/' that stays below any folder it is joined to. SPEC §5.2."""
    parts = name.split("/")
    try:
        longest = max(len(part.encode()) for part in parts)
    except UnicodeEncodeError as error:
        raise Refusal("bad-name", f"{name!r} is no valid Unicode") from error
    drive = len(parts[0]) > 1 and parts[0][1] == ":" and parts[0][0].isascii() and parts[0][0].isalpha()
    if "\0" in name or "\\" in name or drive or longest > limits.PART_BYTES or len(name.encode()) > limits.NAME_BYTES:
        raise Refusal("bad-name", f"{name!r} is no portable document name")
    if any(part in ("", ".", "..") for part in parts):
        raise Refusal("bad-name", f"document name {name!r} must be relative, without empty, '.' or '..' parts")
