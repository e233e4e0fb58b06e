"""The examples run as they stand."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from memvec.store.store import Store

ROOT = Path(__file__).parents[1]
CLI = (sys.executable, "-m", "memvec.cli")


def run(*command: object, cwd: Path) -> str:
    done = subprocess.run(list(map(str, command)), cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_quickstart(tiny: str, tmp_path: Path) -> None:
    out = run(sys.executable, ROOT / "examples/quickstart.py", tiny, cwd=tmp_path)
    assert "byte for byte: True" in out and "decoded and compared: True" in out


def test_read_without_memvec(packed: Path, tmp_path: Path) -> None:
    program = (ROOT / "examples/read_without_memvec.py").read_text()
    assert "import memvec" not in program
    out = run(sys.executable, ROOT / "examples/read_without_memvec.py", packed, cwd=tmp_path)
    row, tokens, vectors = map(int, re.findall(r"record (\d+): (\d+) tokens in (\d+) vectors of 128 × float16", out)[0])
    record = Store.open(packed).shard(0).record(row)
    assert (record.tokens, len(record.vectors)) == (tokens, vectors)


def test_demo(tiny: str, tmp_path: Path) -> None:
    out = run(sys.executable, ROOT / "examples/demo.py", tiny, cwd=tmp_path)
    for part in ("identical: all 5 documents", "ok: 5 documents", "zstd -19", "first token", "Done in"):
        assert part in out


def test_prefix_memory(tiny: str, tmp_path: Path) -> None:
    out = run(sys.executable, ROOT / "examples/prefix_memory.py", tiny, cwd=tmp_path)
    for part in ("vectors in front of the prompt", "none: ", "vectors: ", "nats per token of the right answers"):
        assert part in out


def test_chat_with_a_document(remembering: Path, tmp_path: Path) -> None:
    out = run(sys.executable, ROOT / "examples/chat_with_a_document.py", remembering, "prose.txt", "Who?", cwd=tmp_path)
    assert "prose.txt: 6 positions" in out and "> Who?" in out


def test_peft_export(remembering: Path, tmp_path: Path) -> None:
    out = run(sys.executable, ROOT / "examples/peft_export.py", remembering, "prose.txt", cwd=tmp_path)
    assert len(re.findall(r"_TUNING: [\d,]+ bytes, same answer: True", out)) == 2
    assert "imported again, bit for bit: True" in out
    assert "as keys and values, same answer: True" in out
