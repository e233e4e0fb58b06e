"""The reasons to refuse bytes of a store, each with a stable code. SPEC §12."""

from __future__ import annotations

from memvec.copyable import Copyable

# The meaning of a code never changes; a new reason gets a new code. In the order a reader meets them.
CODES: dict[str, str] = {
    # files
    "missing-file": "a file that is named is not there",
    "symlink": "a link stands where a file or folder of the store belongs",
    "not-a-file": "something else than a regular file stands there",
    "file-too-large": "a file, or the size declared for it, is over its limit",
    "size-mismatch": "a file is not as long as the manifest says",
    "digest-mismatch": "a file, manifest or record is not what its sha256 was made of",
    "cut-off": "bytes end before what they declare, or before their last newline",
    "trailing-bytes": "bytes follow where nothing may",
    # JSON
    "too-many-values": "JSON could hold more values than the limit",
    "not-utf8": "text is no UTF-8",
    "not-json": "text is no JSON",
    "duplicate-key": "an object holds a key twice",
    "not-finite": "a number is NaN, infinite or beyond a double",
    "integer-too-large": "an integer lies outside -2^63 to 2^64 - 1",
    "nested-too-deeply": "arrays and objects lie deeper in each other than the limit",
    "surrogate": "a string holds half a surrogate pair",
    "not-canonical": "JSON is not in its canonical form",
    # values in JSON
    "wrong-format": "this is the file of another format",
    "unsupported-version": "the major version is not this reader's",
    "unknown-feature": "a required feature is not known",
    "unknown-extension": "an extension that must be understood is not known",
    "unsupported-numerics": "decoding was certified in other arithmetic than this reader's",
    "bad-field": "a field is missing or of the wrong type",
    "bad-digest": "a digest is not 64 lower-case hex digits",
    "out-of-range": "a number is negative or over its limit",
    "duplicate-entry": "the manifest names a file twice",
    "not-ascending": "a list that must ascend does not",
    "feature-not-named": "a feature is in use but not named, or named but not in use",
    # shards and keys
    "header-too-long": "the header declares more bytes than the limit",
    "bad-metadata": "the header does not hold exactly the metadata key 'memvec' with a text",
    "bad-tensor": "a tensor's entry is malformed, or its bytes are not as many as its shape asks for",
    "overlapping-tensors": "two tensors share bytes",
    "gap-between-tensors": "bytes before or between tensors belong to none",
    "missing-tensor": "a tensor that the format asks for is not there",
    "wrong-dtype": "a tensor is of another dtype",
    "wrong-shape": "a tensor is of another shape",
    "bad-offsets": "offsets do not ascend from 0 to the length of what they divide",
    "origin-mismatch": "the whole fingerprint of a shard is not the one its id stands for",
    "manifest-mismatch": "a file and the manifest contradict each other",
    # frames
    "damaged-frame": "zstd cannot read a frame",
    "undeclared-size": "a frame does not declare its content size",
    "frame-too-large": "a frame, or the content it declares, is over its limit",
    "no-checksum": "a frame carries no checksum",
    # documents and records
    "bad-name": "a document's name is not allowed",
    "wrong-count": "the documents table does not list as many documents as declared",
    "bad-document": "a record belongs to a document that is not listed",
    "unknown-kind": "a record is of a kind that is not known",
    "unknown-reason": "a record is raw for a reason that is not known",
    "past-document": "a record reaches past the end of its document",
    "mixed-parts": "a record lacks a part of its kind, or holds one of another",
    "bad-corrections": "corrections are malformed, or lie outside the tokens or the vocabulary",
    "bad-kv": "the arrays of a kv record are malformed, or do not fit each other",
    "wrong-text": "what a record or document gives is not what was packed",
    # anything else
    "malformed": "a parser failed in a way that has no code of its own",
}


class Refusal(Copyable, ValueError):
    """Bytes are refused. `code` is one of CODES, the message is for people."""

    def __init__(self, code: str, message: str) -> None:
        assert code in CODES, code
        self.code = code
        super().__init__(message)


def code_of(error: Exception) -> str:
    """Return the code of a refusal, `malformed` for any other error."""
    return error.code if isinstance(error, Refusal) else "malformed"
