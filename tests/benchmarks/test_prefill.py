"""benchmarks/prefill.py times every kind of memory against its text."""

from __future__ import annotations

import json
from pathlib import Path

import prefill
import pytest


def test_kinds(tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A row for each kind and length. Only kv memories have to be put in their place."""
    out = tmp_path / "out.json"
    prefill.main(
        ["--model", tiny, "--lengths", "80,160", "--ratio", "4", "--device", "cpu", "--rounds", "2", "--json", str(out)]
    )
    whole = json.loads(out.read_text())
    assert (whole["model"], whole["dtype"], whole["ratio"]) == (tiny, "torch.float32", 4)
    found = {(one["kind"], one["tokens"]): one for one in whole["found"]}
    assert set(found) == {(kind, tokens) for kind in ("context", "head", "even") for tokens in (80, 160)}
    for (kind, tokens), one in found.items():
        assert (one["positions_text"], one["positions_memory"]) == (tokens, tokens / 4)
        assert one["cache_memory"] == one["cache_text"] / 4 > 0 and one["prefill_memory"] > 0
        assert (one["place_memory"] is None) == (kind == "context")
    assert found["head", 80]["stored_memory"] > 2 * found["context", 80]["stored_memory"] > 0
    assert capsys.readouterr().out.count("\n| head | ") == 2
