"""Right answers are found in generated text."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from memvec.evaluation.answers import NEW_TOKENS, TOGETHER, holds, right
from memvec.evaluation.forms import question_row


@pytest.mark.parametrize(
    ("said", "answer", "right"),
    [
        ("A ticket costs Nine  Crowns.", "nine crowns", True),
        ("It draws 2.3 metres (at most).", "2.3 metres", True),
        ("It draws 12.3 metres.", "2.3 metres", False),
        ("She keeps nineteen crowns", "nine", False),
        ("nine, she said, of her crowns", "nine crowns", False),
        ("", "nine", False),
        ("It is --", "--", False),
        ("船在上海停了。", "上海", True),
        ("船在上海停了。", "北京", False),
    ],
)
def test_holds(said: str, answer: str, right: bool) -> None:
    """An answer is right if its words are in the text, next to each other."""
    assert holds(said, answer) == right


def test_right(tiny_lm: Any) -> None:
    """The model's own line is a right answer, and no other text is."""
    asked = ["It is a truth", "The ladies of the house were", "However little known", "a single man"] * TOGETHER
    rows = [question_row(tiny_lm.tokenizer, question, "-", "text") for question in asked]
    prefix = torch.zeros(0, tiny_lm.width)
    said = []
    for row in rows[:4]:
        ids = torch.tensor([row.ids[: row.start]])
        out = tiny_lm.model.generate(ids, max_new_tokens=NEW_TOKENS, do_sample=False)
        said.append(tiny_lm.tokenizer.decode(out[0, ids.shape[1] :]).strip().split("\n")[0])
    assert all(any(map(str.isalnum, line)) for line in said)
    wanted = said * TOGETHER
    assert right(tiny_lm, [(prefix, *pair) for pair in zip(rows, wanted, strict=True)]) == [True] * len(rows)
    wanted[5:-1] = ["zq xx"] * (len(rows) - 6)
    expected = [True] * 5 + [False] * (len(rows) - 6) + [True]
    assert right(tiny_lm, [(prefix, *pair) for pair in zip(rows, wanted, strict=True)]) == expected
