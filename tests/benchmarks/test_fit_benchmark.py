"""benchmarks/fit.py: texts to tune on and to report on are apart, and recipes are judged by what their vectors decode to."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
from fit import FULL, MEMVEC, TOKENS, Result, Text, judge, run, table, texts

from memvec.decoding.greedy import decode
from memvec.lm.frozen import FrozenLM


def test_texts_apart(tiny_lm: FrozenLM) -> None:
    tuned, reported = (texts(tiny_lm, part, 3) for part in ("tune", "report"))
    for found in (tuned, reported):
        assert [text.sort for text in found] == ["prose"] * 3 + ["technical"] * 3 + ["code"] * 3
        assert all(len(text.ids) == TOKENS for text in found)
    said = [tiny_lm.decode(text.ids) for text in reported]
    assert not any(tiny_lm.decode(text.ids) in said for text in tuned)
    assert len({text.ids for text in (*tuned, *reported)}) == 18


def test_judged_by_decoding(tiny_lm: FrozenLM) -> None:
    noise = np.random.default_rng(0).standard_normal((4, tiny_lm.width)).astype(np.float16)
    ((own,),) = [decode(tiny_lm, [noise], [12], [()])]
    other = [(own[0] + 1) % tiny_lm.vocabulary, *own[1:]]
    kept, changed = (Text("prose", tuple(ids)) for ids in (own, other))
    (right, wrong) = judge(tiny_lm, [(kept, noise), (changed, noise)], margin=0.0)
    assert right == (0, 12, 12)
    assert wrong[0] >= 1  # the first token has to be corrected
    assert wrong[1] == 0  # and nothing comes before it
    assert wrong[2] >= 1  # given, it is no error


def test_costs(tiny_lm: FrozenLM) -> None:
    words = "The letter was written by a lady who had never been there before, and it was read aloud to all of them."
    ids = tiny_lm.encode(words)
    chosen = [Text("prose", tuple(ids[:12])), Text("code", tuple(ids[-16:]))]
    options = SimpleNamespace(most=200, budget=3, grow=4, alone=False)
    ours, *rivals = run(tiny_lm, tiny_lm, chosen, 6, options)
    assert [row.recipe for row in ours] == [MEMVEC] * 2 and all(row.solved and row.corrected <= 1 for row in ours)
    assert [rows[0].recipe.split(" ")[0] for rows in rivals] == ["full", "progressive", "progressive"]
    for rows in (ours, *rivals):
        assert [(row.sort, row.tokens, row.vectors) for row in rows] == [("prose", 12, 6), ("code", 16, 6)]
        assert all(row.seconds > 0 and row.token_steps > row.steps for row in rows)
    full, *growing = rivals
    assert full[0].recipe == FULL
    assert [(row.steps, row.token_steps, row.solved) for row in full] == [(3, 51, False), (3, 63, False)]
    assert all(row.token_steps == 3 * (6 + 3) for rows in growing for row in rows)  # of the first four tokens
    alone = list(run(tiny_lm, tiny_lm, chosen, 6, SimpleNamespace(**{**vars(options), "alone": True})))
    assert [[row.recipe for row in rows] for rows in alone] == [[MEMVEC] * 2]


def test_table() -> None:
    rows: list[Any] = [
        Result("ours", "prose", 8, 64, 50, 3550, 5.0, True, corrected=corrected, free=10, free_behind_first=20)
        for corrected in (0, 32)
    ]
    line = table(rows).splitlines()[-1]
    assert "| 2 of 2 |" in line and "| 8.0 |" in line
    assert "| 83 (" in line  # the median of 3550 / 64 and 3550 / 32 token-steps
    assert "| 0.10 |" in line and "| 25.0% |" in line
