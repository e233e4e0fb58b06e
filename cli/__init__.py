"""One file per command: arguments, one library call, rendering (installed as `memvec.cli`)."""

if __name__ == "cli":
    raise ImportError("import memvec.cli, not cli")
