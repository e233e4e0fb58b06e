"""benchmarks/cartridges.py: the first tokens of a document stand at their own places, and are trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import kv
import pytest
from cartridges import first_tokens

from memvec.evaluation.controls import run_arms
from memvec.lm.scoring import Row, embedded, run_prefixes, score
from memvec.templates.template import frame


def test_start(tiny_lm: Any, disorder: str) -> None:
    """An untrained cartridge is worth exactly the first tokens of the text."""
    ids = tuple(tiny_lm.encode(disorder[:400]))
    start = first_tokens(tiny_lm, ids, 4.0)
    count = round(len(ids) / 4)
    assert (start.tokens, start.positions, set(start.counts.flatten().tolist())) == (count, count, {count})
    before, row = frame(tiny_lm.tokenizer, "").before, [Row(tuple(tiny_lm.encode(disorder[400:440])), 1)]
    text = run_prefixes(tiny_lm, [embedded(tiny_lm, [*before, *ids[:count]])])
    ours = score(tiny_lm, run_arms(tiny_lm, before, [start]), row)
    assert ours == pytest.approx(score(tiny_lm, text, row), abs=1e-3)


def test_arm(tiny: str, tmp_path: Path) -> None:
    """The benchmark trains cartridges. They are as large as even memories, and differ from untrained ones."""
    file = tmp_path / "found.json"
    options = ["--model", tiny, "--documents", "2", "--forms", "text", "--ratios", "4"]
    kv.main([str(file), *options, "--arms", "even,cartridge,cartridge+2"])
    even, start, trained = json.loads(file.read_text())["found"]
    assert trained["arm"] == "cartridge+2" and (start["settings"]["refine"], trained["settings"]["refine"]) == (0, 2)
    for name in ("tokens", "positions", "bytes"):
        assert even["cost"][name] == start["cost"][name] == trained["cost"][name]
    assert len({one["forms"]["text"]["nll"]["memory"] for one in (even, start, trained)}) == 3
    assert trained["cost"]["token_steps_per_token"] > 0 == start["cost"]["token_steps_per_token"]
    assert "PEFT's cartridge, 2 steps" in (tmp_path / "found-report.svg").read_text().replace("&#39;", "'")
