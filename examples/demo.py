"""The tour behind `make demo`: pack a sample, unpack it, compare every byte, verify it, search it, and ask a memory.

python examples/demo.py [MODEL]
"""

from __future__ import annotations

import filecmp
import shutil
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
SAMPLE, OUT = HERE / "sample", Path("demo-out")
PAGE, QUESTION = "ferry.txt", "Who has the key to the engine room?"


def memvec(*arguments: str) -> None:
    """Show a command and run it; its exit code must be 0."""
    print(f"\n$ memvec {' '.join(arguments)}", flush=True)
    subprocess.run([sys.executable, "-m", "memvec.cli", *arguments], check=True)


def main() -> None:
    """Run every step, and sum them up at the end."""
    begun = time.monotonic()
    model = ["-m", sys.argv[1]] if len(sys.argv) > 1 else []
    shutil.rmtree(OUT, ignore_errors=True)
    store, unpacked = str(OUT / "sample.memvec"), OUT / "unpacked"
    print(f"Two prose pages, a program, a letter in three scripts and a picture, from {SAMPLE}")
    memvec("pack", str(SAMPLE), "-o", store, *model)
    memvec("list", store)
    memvec("unpack", store, "-o", str(unpacked))
    names = sorted(p.relative_to(SAMPLE).as_posix() for p in SAMPLE.rglob("*") if p.is_file())
    back = sorted(p.relative_to(unpacked).as_posix() for p in unpacked.rglob("*") if p.is_file())
    _, different, missing = filecmp.cmpfiles(SAMPLE, unpacked, names, shallow=False)
    if names != back or different or missing:
        sys.exit(f"the documents differ: {different + missing} (of {names}, found {back})")
    print(f"identical: all {len(names)} documents came back byte for byte")
    memvec("verify", store, "--decode")
    memvec("info", store)
    memvec("search", store, QUESTION, "-k", "2", "--decode")
    print(
        "\nNow one page as a memory: some of the keys and values that the model computes for it, in an eighth of the positions"
    )
    memvec("pack", str(SAMPLE / PAGE), "-o", store, "--kind", "kv", "--measure", "all", *model)
    memvec("generate", store, QUESTION, "--id", PAGE, "--compare")
    print(
        f"\nDone in {time.monotonic() - begun:.0f} s: packed, unpacked, compared, verified, searched, remembered. "
        f"The store is {store}."
    )


if __name__ == "__main__":
    main()
