"""Encode and decode the files of a store: manifest, shards, keys (installed as `memvec.formats`). Knows no model."""

if __name__ == "formats":
    raise ImportError("import memvec.formats, not formats")
