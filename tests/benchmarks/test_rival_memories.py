"""benchmarks/rival_memories.py: others' memories stand in the store, as large as memvec's."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import kv
import pytest
from rival_memories import SCRIPT, first_tokens, kept_rows

from memvec.evaluation.controls import run_arms
from memvec.kv.compact import compact
from memvec.lm.scoring import Row, embedded, run_prefixes, score
from memvec.templates.template import frame


@pytest.fixture
def options(tiny: str, tmp_path: Path) -> list[str]:
    """A command line with two documents."""
    given = ["--model", tiny, "--documents", "2", "--forms", "text", "--ratios", "4", "--lean", "--no-harm"]
    return [str(tmp_path / "found.json"), *given]


def found(options: list[str]) -> list[Any]:
    rows: list[Any] = json.loads(Path(options[0]).read_text())["found"]
    return rows


def test_first_tokens(tiny_lm: Any, disorder: str) -> None:
    """An untrained cartridge is worth exactly the first tokens of the text."""
    ids = tuple(tiny_lm.encode(disorder[:400]))
    start = first_tokens(tiny_lm, ids, 4.0)
    count = round(len(ids) / 4)
    assert (start.tokens, start.positions, set(start.counts.flatten().tolist())) == (count, count, {count})
    before, row = frame(tiny_lm.tokenizer, "").before, [Row(tuple(tiny_lm.encode(disorder[400:440])), 1)]
    text = run_prefixes(tiny_lm, [embedded(tiny_lm, [*before, *ids[:count]])])
    ours = score(tiny_lm, run_arms(tiny_lm, before, [start]), row)
    assert ours == pytest.approx(score(tiny_lm, text, row), abs=1e-3)


def test_cartridges(options: list[str]) -> None:
    """They are trained. They are as large as even memories, and differ from untrained ones."""
    kv.main([*options, "--arms", "even,cartridge,cartridge+2"])
    even, start, trained = found(options)
    assert trained["arm"] == "cartridge+2" and (start["settings"]["refine"], trained["settings"]["refine"]) == (0, 2)
    for name in ("tokens", "positions", "bytes"):
        assert even["cost"][name] == start["cost"][name] == trained["cost"][name]
    assert len({one["forms"]["text"]["nll"]["memory"] for one in (even, start, trained)}) == 3
    assert trained["cost"]["token_steps_per_token"] > 0 == start["cost"]["token_steps_per_token"]
    picture = Path(options[0]).with_name("found-report.svg").read_text().replace("&#39;", "'")
    assert "PEFT's cartridge, 2 steps" in picture and {kv.lean(one) for one in (even, start, trained)} == {True}
    assert even["forms"]["text"]["harm"] is None


def test_kept_rows(tiny_lm: Any, disorder: str) -> None:
    """Rows chosen by their places are those that memvec chose at the same places."""
    ids = tiny_lm.encode(disorder[:200])
    (ours,) = compact(tiny_lm, [ids], 4.0, "even")
    layers, heads = ours.counts.shape
    places = (len(ids) - ours.distances).view(layers, heads, -1).tolist()
    rows = kept_rows(tiny_lm, ids, ours.positions, places)
    for name in ("counts", "distances", "keys", "values"):
        assert getattr(rows, name).equal(getattr(ours, name)), name
    assert (rows.tokens, rows.positions) == (ours.tokens, ours.positions)


def test_presses(options: list[str], tmp_path: Path) -> None:
    """The places come from another interpreter, which sees the tokens and no question."""
    python = tmp_path / "python"
    python.write_text(
        f"#!{sys.executable}\n"
        "import json, sys\n"
        "asked = json.load(sys.stdin)\n"
        f"open({str(tmp_path / 'asked.json')!r}, 'w').write(json.dumps(asked | {{'script': sys.argv[1]}}))\n"
        "print(json.dumps([[[list(range(most)), []]] * 4 for most in asked['positions']]))\n"
    )
    python.chmod(0o755)
    kv.main([*options, "--arms", "kvzip", "--kvpress", str(python)])
    asked = json.loads((tmp_path / "asked.json").read_text())
    assert set(asked) == {"model", "press", "before", "texts", "positions", "script"}
    assert asked["press"] == "kvzip" and asked["script"] == str(SCRIPT)
    assert asked["positions"] == [round(len(text) / 4) for text in asked["texts"]]
    (one,) = found(options)
    assert one["cost"]["positions"] == sum(asked["positions"]) and one["forms"]["text"]["costs"]["cache_memory"] > 0


def test_missing(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Sentences say how to get kvpress."""
    with pytest.raises(SystemExit):
        kv.main([*options, "--arms", "kvzip"])
    assert "kvzip needs --kvpress" in capsys.readouterr().err
    done = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "pip install kvpress==" in done.stderr
