"""The limits of the format. Larger values are neither written nor read. SPEC §11."""

from __future__ import annotations

MANIFEST_BYTES = 1 << 26
FILE_BYTES = 1 << 32  # of a shard or a file of keys
HEADER_BYTES = 1 << 20
JSON_DEPTH = 32  # nested arrays and objects
JSON_VALUES = 1 << 22  # commas, [ and { in the text, also in strings: cheap to count
LEAST_INTEGER, MOST_INTEGER = -(1 << 63), (1 << 64) - 1  # in JSON
RECORDS = DOCUMENTS = 1 << 20  # of a shard
TEXTS = 1 << 24  # of a file of keys
TOKENS = 1 << 16  # N of a record; bounds the time that decoding a damaged record takes
VECTORS = 1 << 16  # M of a record
WIDTH = 1 << 16  # D, and W of keys
VOCABULARY = 1 << 24  # V
KV_LAYERS = KV_HEADS = 1 << 10  # of a shard with kv records
KV_WIDTH = 1 << 12  # E, of a head
KV_ROWS = 1 << 26  # K of a record, in all heads together
KV_POSITIONS = 1 << 24  # of a kv record: positions it takes, tokens of its text, each distance
CORRECTION_BYTES = 10  # for each of N tokens
MOST_COUNT = (1 << 63) - 1  # every other count in JSON
FRAME_BYTES = 17 << 20  # compressed
CONTENT_BYTES = 1 << 24  # of a frame
REPORT_BYTES = 1 << 16  # of a conditioning report
LINE_BYTES = 1 << 15  # of the documents table
NAME_BYTES, PART_BYTES = 4096, 255  # of a document's name in UTF-8
