"""How large things in a store may be. What is over a limit is neither written nor read. SPEC §11."""

from __future__ import annotations

MANIFEST_BYTES = 1 << 26
FILE_BYTES = 1 << 32  # of a shard or a file of keys
HEADER_BYTES = 1 << 20
JSON_DEPTH = 32  # arrays and objects in each other
JSON_VALUES = 1 << 22  # commas, [ and { in a text, those in strings too: a bound that is cheap to check
LEAST_INTEGER, MOST_INTEGER = -(1 << 63), (1 << 64) - 1  # in JSON
RECORDS = DOCUMENTS = 1 << 20  # of a shard
TEXTS = 1 << 24  # of a file of keys
TOKENS = 1 << 16  # N of a record; bounds how long a damaged one could keep a decoder busy
VECTORS = 1 << 16  # M of a record
WIDTH = 1 << 16  # D, and W of keys
VOCABULARY = 1 << 24  # V
CORRECTION_BYTES = 10  # for each of N tokens
MOST_COUNT = (1 << 63) - 1  # and every other count that JSON holds
FRAME_BYTES = 17 << 20  # compressed
CONTENT_BYTES = 1 << 24  # of a frame
REPORT_BYTES = 1 << 16  # of a conditioning report
LINE_BYTES = 1 << 15  # of the documents table
NAME_BYTES, PART_BYTES = 4096, 255  # of a document's name in UTF-8
