"""The documents table of a shard, and which names a document may have. SPEC §5.2."""

from __future__ import annotations

from collections.abc import Sequence

from memvec.formats import canonical
from memvec.types import Document

DOCUMENT_FIELDS = {"bytes": int, "name": str, "sha256": str, "tokens": int, "zstd_bytes": int}
MAX_NAME_BYTES, MAX_PART_BYTES = 4096, 255


def encode_documents(documents: Sequence[Document]) -> bytes:
    """The documents table: one line of canonical JSON each."""
    for document in documents:
        check_name(document.name)  # what a reader would refuse is not written
    return b"".join(canonical.dumps({name: getattr(d, name) for name in DOCUMENT_FIELDS}) + b"\n" for d in documents)


def decode_documents(table: bytes) -> list[Document]:
    """Documents from their table; ValueError when a line is malformed or a name could leave the output folder."""
    documents = []
    for line in table.split(b"\n")[:-1]:
        value = canonical.loads(line)
        if not isinstance(value, dict) or {k: type(v) for k, v in value.items()} != DOCUMENT_FIELDS:
            raise ValueError(f"tensor 'documents': a line does not have the fields {', '.join(DOCUMENT_FIELDS)}")
        check_name(value["name"])
        documents.append(Document(**value))
    return documents


def check_name(name: str) -> None:
    """ValueError unless `name` is a relative path with '/' that stays below any folder it is joined to. SPEC §5.2."""
    parts = name.split("/")
    try:
        longest = max(len(part.encode()) for part in parts)
    except UnicodeEncodeError:
        raise ValueError(f"{name!r} is no valid Unicode") from None
    drive = len(parts[0]) > 1 and parts[0][1] == ":" and parts[0][0].isalpha()
    if "\0" in name or "\\" in name or drive or longest > MAX_PART_BYTES or len(name.encode()) > MAX_NAME_BYTES:
        raise ValueError(f"{name!r} is no portable document name")
    if any(part in ("", ".", "..") for part in parts):
        raise ValueError(f"document name {name!r} must be relative, without empty, '.' or '..' parts")
