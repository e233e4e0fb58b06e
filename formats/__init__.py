"""Bytes to values and back: manifest, shards, corrections, digests (installed as `memvec.formats`). Knows no model."""

if __name__ == "formats":
    raise ImportError("import memvec.formats, not formats")
