"""benchmarks/documents.py packs what it says, and compares what comes back."""

from __future__ import annotations

import json
from pathlib import Path

import documents
import pytest

from memvec.filesystem.plain_text import as_text


def test_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    documents.main([str(tmp_path / "d.json"), "--documents", "30", "--folder", str(tmp_path)])
    assert "30 again: " in capsys.readouterr().out
    (found,) = json.loads((tmp_path / "d.json").read_text())["found"]
    assert (found["documents"], found["right"]) == (30, 30)
    assert list(found["commands"]) == ["one", "new", "again", "one more", "list", "cat", "unpack"]
    assert all(run["seconds"] > 0 and run["bytes"] > 10e6 for run in found["commands"].values())
    documents.main([str(tmp_path / "d.json"), "--documents", "30"])
    assert capsys.readouterr().out == ""
    assert [path.name for path in tmp_path.iterdir()] == ["d.json"]


def test_rows_are_no_text() -> None:
    rows = list(documents.rows(50))
    assert len({row["id"] for row in rows}) == 50
    assert all(as_text(row["text"].encode()) is None and len(row["text"]) == 300 for row in rows)
