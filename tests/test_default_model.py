"""The main path on the real default model, as a user takes it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import memvec
from memvec.checkpoints.resolve import DEFAULT_MODEL
from memvec.evaluation.evaluate import evaluate
from memvec.evaluation.questions import Question
from memvec.settings import ContextSettings

FINGERPRINT = "b774fc7952d6f201"  # of the pinned GGUF, converted; a change means old stores would be refused

PROSE = (
    "The lighthouse keeper at Varnholm kept two ledgers. In the first he wrote the weather, in the second the names of "
    "the ships that had answered his lamp, and beside each name the hour, and whether the answer had been prompt.\n"
)
CODE = "def hours(log: dict[str, list[int]]) -> int:\n    return sum(len(v) for v in log.values())\n"
GERMAN = "Gegen Abend drehte der Wind, und das Wasser stieg über die unterste Stufe.\n"


@pytest.mark.model
def test_the_default_model_packs_and_unpacks(tmp_path: Path) -> None:
    tree, store, out = tmp_path / "tree", tmp_path / "s.memvec", tmp_path / "out"
    tree.mkdir()
    (tree / "prose.txt").write_text(PROSE)
    (tree / "code.py").write_text(CODE)
    (tree / "german.txt").write_text(GERMAN)
    (tree / "noise.bin").write_bytes(bytes(range(256)))

    def program(*arguments: object) -> bytes:
        command = [sys.executable, "-m", "memvec.cli", *map(str, arguments), "--no-progress"]
        return subprocess.run(command, check=True, capture_output=True).stdout

    report = json.loads(program("pack", tree, "-o", store, "--json"))
    assert report["model"] == DEFAULT_MODEL
    assert report["fingerprint"] == FINGERPRINT
    assert report["raw_records"] == 1 and report["raw_text_bytes"] == 0
    assert report["corrected_tokens"] <= 0.03 * report["fitted_tokens"] + 2
    assert report["tokens_per_vector"] >= 4  # short documents pay for anchors and first tokens; long ones reach 12
    assert report["token_steps"] <= 150 * report["fitted_tokens"]
    program("unpack", store, "-o", out)
    assert subprocess.run(["diff", "-r", tree, out], check=False).returncode == 0
    assert json.loads(program("verify", store, "--decode", "--json"))["ok"]
    assert memvec.info(store).exact


@pytest.mark.model
def test_the_default_model_answers_from_a_memory(tmp_path: Path) -> None:
    store, asked = tmp_path / "m.memvec", [
        Question("prose.txt", "How many ledgers did the keeper of the light have?", "two"),
        Question("prose.txt", "Where did the lighthouse keeper work?", "Varnholm"),
        Question("prose.txt", "What was written in the first ledger?", "the weather"),
        Question("prose.txt", "What was in the second book?", "the names of the ships"),
    ]  # fmt: skip
    source = memvec.Source("prose.txt", PROSE.encode())
    report = memvec.pack([source], store, kind="context", context=ContextSettings(steps=30))
    assert report.context_records == 1 and report.context_token_steps
    (told,) = memvec.Store.open(store).documents()["prose.txt"].memory
    assert memvec.Store.open(store).record(told).conditioning is not None
    found = evaluate(store, asked, texts={"prose.txt": PROSE.encode()}, off_topic=False)
    assert found.documents == 1 and found.harm is None and found.off_topic is None
    assert found.gain is not None and found.random is not None
    # Of 180 steps, for time; they gave .73 and -.05.
    assert found.gain > 0.25 and found.random < found.gain / 2
