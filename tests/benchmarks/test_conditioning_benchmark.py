"""benchmarks/conditioning.py runs on a set of people's questions, and refuses a wrong one."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import conditioning
import pytest


@pytest.fixture
def novel(disorder: str, tmp_path: Path) -> Path:
    """Three paragraphs of the tiny LM's book, as a file of people's questions."""
    lines = [
        {
            "article": "Novel",
            "paragraph": number,
            "text": disorder[at : at + 200],
            "questions": [{"question": disorder[at + 20 : at + 40], "answer": disorder[at + 40 : at + 60]}] * 2,
        }
        for number, at in enumerate((30_000, 60_000, 90_000))
    ]
    file = tmp_path / "novel.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


def test_xquad(novel: Path, tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The figures of two drawn documents are written with the name of the set. Its folder is not."""
    out = tmp_path / "out.json"
    options = ["--ratios", "4", "--steps", "2", "--documents", "2", "--seed", "1", "--no-exact", "--json", str(out)]
    conditioning.main(["--set", f"xquad:{novel}", "--model", tiny, "--forms", "text", *options])
    found = json.loads(out.read_text())
    assert (found["set"], found["unit"], found["kind"]) == ("xquad:novel.jsonl", "paragraph", "context")
    assert len(found["documents"]) == 2 and found["settings"]["seed"] == 1 and str(tmp_path) not in out.read_text()
    judged = found["ratios"]["4"]["text"]
    assert judged["documents"] + judged["skipped"] == 2 and judged["questions"] == 2 * judged["documents"]
    for name in ("f1", "contained"):
        assert set(judged[name]) == {"none", "text", "memory", "shuffled", "last", "2"}
    assert set(judged["of_text"]) == {name for name in ("f1", "contained") if judged[name]["text"]}
    shown = capsys.readouterr().out
    assert "set xquad:novel.jsonl, sha256 " in shown and ": 2 documents, 4 questions" in shown and "another's" in shown


@pytest.mark.parametrize("budget", ["head", "even"])
def test_kv(novel: Path, tiny: str, tmp_path: Path, budget: str) -> None:
    """Settings of kv memories are options, and decide the size of the memories."""
    out = tmp_path / "out.json"
    options = ["--ratios", "4", "--documents", "2", "--no-exact", "--refine", "1", "--bits", "4", "--json", str(out)]
    conditioning.main(
        ["--set", f"xquad:{novel}", "--kind", "kv", "--budget", budget, "--model", tiny, "--forms", "text", *options]
    )
    found = json.loads(out.read_text())
    assert found["kind"] == "kv" and (found["settings"]["budget"], found["settings"]["bits"]) == (budget, 4)
    judged, cost = found["ratios"]["4"]["text"], found["ratios"]["4"]["cost"]
    assert judged["kind"] == "kv" and set(judged["answered"]) == {"none", "text", "memory", "shuffled", "last", "2"}
    assert cost["positions"] == pytest.approx(cost["tokens"] / 4, abs=2) and cost["vectors"] == 0
    assert (
        0 < cost["bytes"] < judged["costs"]["cache_text"] and cost["token_steps_per_token"] > 0 < cost["seconds_making"]
    )


def test_shares() -> None:
    """A score is divided by that of the text. Where the text scores nothing, there is no share."""
    found: Any = SimpleNamespace(f1={"text": 0.5, "memory": 0.4, "none": 0.0}, contained={"text": 0.0, "memory": 0.1})
    assert conditioning.of_text(found) == {"f1": {"text": 1.0, "memory": 0.8, "none": 0.0}}


def test_wrong_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, why in (("other", "'other' is no set"), (f"nq:{tmp_path / 'none'}", "No such file")):
        with pytest.raises(SystemExit):
            conditioning.main(["--set", name])
        assert why in capsys.readouterr().err
