"""The store on disk. Knows no model.

A manifest names immutable shards and key files. One version of the manifest is a generation.
A `Store` reads one generation. A transaction writes new files and then the next manifest, under the write lock.
A scan holds the columns of all records. It joins the records of a document to its content and its memory.
A catalogue answers `list`, `show` and `info` from one file. It is derived, and may be deleted at any time.
"""
