"""Adapters of memvec to hosts, one file per host (installed as `memvec.integrations`). Imported by none but the CLI."""

if __name__ == "integrations":
    raise ImportError("import memvec.integrations, not integrations")
