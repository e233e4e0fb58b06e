"""`pack --kind kv`: its options, and the row of its report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from memvec.store.store import Store


@pytest.fixture
def folder(tmp_path: Path, passages: dict[str, str]) -> Path:
    """A folder of two short documents."""
    (tmp_path / "docs").mkdir()
    for name in ("a.txt", "b.txt"):
        (tmp_path / "docs" / name).write_text(passages[name][:200])
    return tmp_path / "docs"


@pytest.fixture
def pack(folder: Path, tmp_path: Path, tiny: str, call: Any) -> Any:
    """Run `pack --kind kv` on the folder with more words."""
    line = ["pack", folder, "-o", tmp_path / "s", "-m", tiny, "--kind", "kv"]
    return lambda *words: call(*line, *words)


def test_defaults(pack: Any, tmp_path: Path) -> None:
    """As few rows as are safe for the tiny LM, in 8 bits, in heads of different lengths. No gain that was not measured."""
    code, out, _ = pack("--measure", "none")
    assert code == 0
    (row,) = [line for line in out.splitlines() if line.split()[:2] == ["kv", "memory"]]
    assert "2 records of" in row and "s for 1,000 tokens, 0 measured" in row and "gain" not in row
    opened = Store.open(tmp_path / "s")
    (record,) = [opened.record(ref) for ref in opened.documents()["a.txt"].kv]
    assert record.kv is not None and record.kv.bits == 8 and record.kv.positions == round(record.tokens / 4)
    assert len(set(record.kv.counts.flatten().tolist())) > 1


def test_options(pack: Any, tmp_path: Path) -> None:
    """Every option reaches the memory."""
    options = "--ratio 4 --budget even --score norm --bits 16 --measure all --window-tokens 64 --seed 3"
    code, out, _ = pack(*options.split(), "--json")
    assert code == 0
    value = json.loads(out)
    opened = Store.open(tmp_path / "s")
    made = [opened.record(ref) for name in ("a.txt", "b.txt") for ref in opened.documents()[name].kv]
    assert value["kv_records"] == len(made) > 2 and value["kv_seconds"] > 0
    for record in made:
        assert record.kv is not None and record.conditioning is not None
        assert record.kv.bits == 16 and record.kv.positions == round(record.tokens / 4)
        assert set(record.kv.counts.flatten().tolist()) == {record.kv.positions}
        assert record.conditioning.recipe == "kv 1: ratio 4, even, norm, 0 steps, 16 bits"
        assert record.conditioning.seed == 3 and record.conditioning.harm is not None


def test_dry_run(pack: Any, tmp_path: Path) -> None:
    """It prints sizes beside that of the text, and writes nothing."""
    code, out, _ = pack("--dry-run", "--measure", "none", "--json")
    said = json.loads(out)
    assert (code, said["kind"], said["documents"], said["records"]) == (0, "kv", 2, 2)
    code, out, _ = pack("--dry-run", "--measure", "none")
    assert code == 0 and not (tmp_path / "s").exists()
    sizes = f"{said['memory_bytes']:,} bytes; the text {said['text_bytes']:,}, its whole cache {said['cache_bytes']:,}"
    assert f"keys and values  {sizes}\n" in out and f"{said['tokens']:,} to read" in out
    code, out, _ = pack("--measure", "none", "--json")
    made = json.loads(out)
    assert (made["kv_bytes"], made["kv_positions"]) == (said["memory_bytes"], said["positions"])


def test_refused(pack: Any, tmp_path: Path) -> None:
    """Each message names the option."""
    for words, said in (
        (("--ratio", "0.5"), "--ratio is 0.5"),
        (("--window-tokens", "4000"), "--window-tokens is 4000"),
        (("--bits", "5"), "--bits"),
        (("--budget", "most"), "--budget"),
    ):
        code, _, err = pack(*words)
        assert code == 2 and said in err, words
    (tmp_path / "q.jsonl").write_text('{"document": "a.txt", "question": "Who?", "answer": "she"}\n')
    code, _, err = pack("--questions", tmp_path / "q.jsonl")
    assert code == 2 and "--refine 20" in err
