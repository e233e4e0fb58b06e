"""Generated lines are compared with the accepted answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from families import make

from memvec.evaluation.answers import (
    ENGLISH,
    NEW_TOKENS,
    SHORT_TOKENS,
    TOGETHER,
    Marks,
    Prompt,
    contains,
    f1,
    holds,
    judged,
    marks,
    means,
    normalised,
    share_bounds,
)
from memvec.evaluation.controls import Arm
from memvec.evaluation.forms import question_row
from memvec.kv.compact import compact
from memvec.languages.language import by_code
from memvec.lm.load import load
from memvec.lm.scoring import embedded
from memvec.templates.template import frame


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
        ("他完成了136次擒杀。", "136 次", True),
        ("他完成了1136次擒杀。", "136次", False),
        ("वह कानपुर की है", "की", True),
        ("वह कानपुर का है", "की", False),
        ("船在上海停了。", "北京", False),
    ],
)
def test_holds(said: str, answer: str, right: bool) -> None:
    """An answer is right if its words are in the text, next to each other."""
    assert holds(said, answer) == right


@pytest.mark.parametrize(
    ("said", "answer", "words", "inside"),
    [
        ("the Cat sat", "cat sat", 1.0, True),
        ("Sat, the cat!", "cat sat", 1.0, False),
        ("the cat sat down", "cat sat", 0.8, True),
        ("a cat", "the cat sat on the mat", 0.4, False),
        ("cat cat cat", "cat", 0.5, True),
        ("dog", "cat", 0.0, False),
        ("", "cat", 0.0, False),
        ("cat", "", 0.0, False),
        ("", "", 1.0, False),
        ("the", "an", 1.0, False),
        ("¿El “gato”?", "el gato", 1.0, True),
        ("1308 points", "308", 0.0, False),
        ("anthem", "them", 0.0, False),
        ("北京。", "北京", 1.0, True),
        ("他在北京", "北京", 2 / 3, True),
        ("136次擒杀", "136 次", 2 / 3, True),
        ("南京", "北京", 0.5, False),
        ("ที่กรุงเทพ", "กรุงเทพ", 14 / 17, True),
    ],
)
def test_squad(said: str, answer: str, words: float, inside: bool) -> None:
    """F1 counts common words in any order, containment wants them next to each other."""
    assert f1(said, answer) == pytest.approx(words)
    assert contains(said, answer) == inside


def test_normalised() -> None:
    """Case, punctuation, articles and space go; each character of an unspaced script is a word."""
    assert normalised(" An  U.S.\tofficer—the “3rd” of a\u3000theme, $5") == [
        "us",
        "officerthe",
        "3rd",
        "of",
        "theme",
        "5",
    ]
    assert normalised("NFL的 AFC冠军（2次）") == ["nfl", "的", "afc", "冠", "军", "2", "次"]
    assert normalised("开\ufffd") == ["开"]  # the cut left half a character


@pytest.mark.parametrize(
    ("code", "text", "words"),
    [
        ("es", "El a la Habana, un día", ["a", "habana", "día"]),
        ("de", "Die an dem Haus des Vaters", ["an", "haus", "vaters"]),
        ("fr", "L'eau de l’Isère, une rivière", ["eau", "de", "isère", "rivière"]),
        ("it", "la the Roma", ["la", "the", "roma"]),
        ("unspaced", "the 北京", ["the", "北", "京"]),
    ],
)
def test_articles(code: str, text: str, words: list[str]) -> None:
    """Articles of the text's language go, and only those."""
    assert normalised(text, by_code(code)) == words


def test_judging_knows_the_language() -> None:
    """`der Hund` answers `Hund` wholly only where `der` is an article."""
    assert marks("der Hund", "der Hund", ["Hund"], by_code("de")).f1 == 1.0
    assert marks("der Hund", "der Hund", ["Hund"]).f1 < 1.0


def test_best() -> None:
    """The accepted answer that fits best counts, for each measure by itself."""
    assert marks("the red cat", "the red cat", ["dog", "cat", "red cat on mats"]) == Marks(
        True, pytest.approx(2 / 3), True
    )
    assert marks("a dog or a cat", "a dog", ["cat"]) == Marks(True, 0.0, False)


def test_documents() -> None:
    """Means are over questions, and intervals over documents."""
    good, half, bad = Marks(True, 1.0, True), Marks(False, 0.5, True), Marks(False, 0.0, False)
    documents = [{"text": [good, half, half], "memory": [half, bad, bad]}, {"text": [good], "memory": [good]}]
    assert means(documents, "f1") == {"text": 0.75, "memory": 0.375}
    assert means(documents, "contained") == {"text": 1.0, "memory": 0.5}
    assert means(documents, "right") == {"text": 0.5, "memory": 0.25} and means([], "f1") == {}
    assert share_bounds(documents, "f1") == (0.25, 1.0) and share_bounds(documents, "contained") == (1 / 3, 1.0)
    assert share_bounds(documents[:1], "f1") is None


def test_judged(tiny_lm: Any) -> None:
    """The model's own line is a right answer, and no other text is. F1 sees only the start of the line."""
    asked = ["It is a truth", "The ladies of the house were", "However little known", "a single man"] * TOGETHER
    rows = [question_row(tiny_lm.tokenizer, question, "-", "text") for question in asked]
    prefix = torch.zeros(0, tiny_lm.width)
    said, starts = [], []
    for row in rows[:4]:
        ids = torch.tensor([row.ids[: row.start]])
        out = tiny_lm.model.generate(ids, max_new_tokens=NEW_TOKENS, do_sample=False)[0, ids.shape[1] :]
        for lines, new in ((said, out), (starts, out[:SHORT_TOKENS])):
            lines.append(tiny_lm.tokenizer.decode(new).strip().split("\n")[0])
    assert all(any(map(str.isalnum, line)) for line in said)
    assert any(len(start) < len(line) for start, line in zip(starts, said, strict=True))

    def found(wanted: list[list[str]]) -> list[Marks]:
        return judged(tiny_lm, [], [(prefix, *pair, ENGLISH) for pair in zip(rows, wanted, strict=True)])

    lines, short = said * TOGETHER, starts * TOGETHER
    expected = [Marks(True, f1(*pair), contains(*pair)) for pair in zip(short, lines, strict=True)]
    assert found([[line] for line in lines]) == expected
    wanted = [["zq xx", *pair] for pair in zip(short, lines, strict=True)]
    wanted[5:-1] = [["zq xx"]] * (len(rows) - 6)
    expected = [Marks(True, 1.0, True)] * 5 + [Marks(False, 0.0, False)] * (len(rows) - 6) + [Marks(True, 1.0, True)]
    assert found(wanted) == expected


@pytest.mark.parametrize("family", ["mamba", "mistral", "gpt2", "qwen2"])
def test_families(family: str, tmp_path: Path) -> None:
    """Prompts of several lengths, behind texts and behind all of their keys and values, give what each gives alone."""
    lm = load(make(family, tmp_path))
    before = frame(lm.tokenizer, "", "text").before
    texts = [lm.encode(text) for text in ("The ferry leaves from the north pier at six.", "Ingrid Vale keeps the key.")]
    rows = [question_row(lm.tokenizer, question, "-") for question in ("Who?", "When does the ferry leave?")]
    prompts: list[Prompt] = []
    for ids in texts:
        arms: list[Arm] = [embedded(lm, ids)]
        if not lm.recurrent:
            arms += compact(lm, [ids], 1.0, "even", "norm")
        for row in rows:
            alone = torch.tensor([[*before, *ids, *row.ids[: row.start]]])
            out = lm.model.generate(alone, max_new_tokens=NEW_TOKENS, do_sample=False)[0, alone.shape[1] :]
            line = lm.tokenizer.decode(out).split(lm.tokenizer.eos_token)[0].strip().split("\n")[0]
            assert any(map(str.isalnum, line))
            prompts += [(arm, row, [line], ENGLISH) for arm in arms]
    assert all(found.right for found in judged(lm, before, prompts))
    turned = [(arm, row, *prompts[-1 - n][2:]) for n, (arm, row, *_) in enumerate(prompts)]
    assert not any(found.right for found in judged(lm, before, turned))
