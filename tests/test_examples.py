"""The examples and the README's commands run as they stand."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

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


def readme_commands() -> list[str]:
    blocks = re.findall(r"```console\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    lines = [line[2:] for block in blocks for line in block.splitlines() if line.startswith("$ memvec ")]
    assert len(lines) >= 5
    return lines


def test_readme_commands(tiny: str, tmp_path: Path) -> None:
    """Every `$ memvec …` line of the README, in order, with the tiny LM for the default model."""
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "jane.txt").write_text("My dear sister, I write from the inn at Meryton, where it rains.\n")
    for line in readme_commands():
        made = re.sub(r"memvec (pack|calibrate|capacity)", rf"memvec \1 -m {tiny}", line)
        made = made.replace("--kind both", "--kind both --distil-steps 2")
        made = made.replace("--vectors 1,2,4", "--vectors 1,2 --passages 1 --steps 20")
        made = f"{made} --segments 1" if " calibrate" in made else made
        made = re.sub(r"^memvec", f"{sys.executable} -m memvec.cli", made).replace(
            "| memvec", f"| {sys.executable} -m memvec.cli"
        )
        run("bash", "-c", f"export MEMVEC_CACHE=cache; set -o pipefail; {made}", cwd=tmp_path)


def test_readme_program(tiny: str, tmp_path: Path) -> None:
    program, hook = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "jane.txt").write_text("My dear sister, I write from the inn at Meryton, where it rains.\n")
    program = program.replace('"letters.memvec")', f'"letters.memvec", model={tiny!r})', 1)
    assert tiny in program
    run(sys.executable, "-c", program, cwd=tmp_path)
    run(
        *CLI,
        "pack",
        "letters",
        "-o",
        "letters.memvec",
        "-m",
        tiny,
        "--kind",
        "context",
        "--distil-steps",
        2,
        cwd=tmp_path,
    )
    hook = hook.replace("FOLDER", repr(tiny))
    run(sys.executable, "-c", f"import memvec\n{hook}\nassert out.shape[0] == 1", cwd=tmp_path)


def test_make_targets_of_the_readme_exist() -> None:
    targets = set(re.findall(r"make ([a-z-]+)", (ROOT / "README.md").read_text()))
    assert {"demo", "test"} <= targets
    for target in targets:
        done = subprocess.run(
            ["make", "-n", target], cwd=ROOT, capture_output=True, text=True, env=os.environ, check=False
        )
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("folder", ["memvec", "cli", "formats", "integrations", "examples", "benchmarks", "docs"])
def test_the_readme_names_every_folder(folder: str) -> None:
    assert f"`{folder}/`" in (ROOT / "README.md").read_text()
