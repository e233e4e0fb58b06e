"""Questions are read from files, or made from a text by rules."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memvec.errors import NotFoundError, UsageError
from memvec.evaluation.questions import BLANK, Question, cloze_questions, read_questions

TEXT = (
    "The north basin at Brelland is closed from Tuesday. Visiting yachts tie up at Candle Steps, where the fee is 17 crowns. "
    "It is so. Questions go to the harbour master, Osric Venn, who listens on channel 31."
)


def test_cloze() -> None:
    """A cloze question and its answer make the sentence again."""
    found = cloze_questions("d", TEXT, 8)
    assert len(found) == 8 == len(set(found))
    for question in found:
        assert question.question.count(BLANK) == 1
        assert question.question.removeprefix("Fill in the blank: ").replace(BLANK, question.answer) in TEXT
    assert cloze_questions("d", TEXT, 8) == found != cloze_questions("d", TEXT, 8, seed=1)
    assert cloze_questions("d", "It is so.", 8) == []


@pytest.mark.parametrize(
    ("text", "answers"),
    [
        (
            "El río Tajo nace en la sierra de «Albarracín» y desemboca en Lisboa.",
            {"Tajo", "Albarracín", "desemboca", "Lisboa"},
        ),
        ("Le musée de l'Homme se trouve à Paris et il reçoit des visiteurs.", {"Homme", "Paris", "visiteurs"}),
        ("长城全长21196公里，明朝时修建。", {"21196公里", "明朝时修建"}),
    ],
)
def test_cloze_in_other_languages(text: str, answers: set[str]) -> None:
    found = cloze_questions("d", text, 40)
    assert answers <= {question.answer for question in found}
    for question in found:
        assert question.question.removeprefix("Fill in the blank: ").replace(BLANK, question.answer) == text


@given(st.text(max_size=200) | st.text("かカ的人山。，（）a1 \n«", max_size=80))
@settings(max_examples=200, deadline=None)
def test_cloze_of_any_text(text: str) -> None:
    """A cloze question is a sentence of the text."""
    for question in cloze_questions("d", text.replace(BLANK, ""), 4):
        sentence = question.question.removeprefix("Fill in the blank: ").replace(BLANK, question.answer)
        assert " ".join(sentence.split()) in " ".join(text.split())


GOOD = '{"document": "a", "question": "Who%s?", "answer": "x"}\n'


@pytest.mark.parametrize(
    ("data", "asked"),
    [
        (b"\xef\xbb\xbf" + (GOOD % "").encode(), "Who?"),
        ((GOOD % "\u2028 or \u2029\x85\x0b\x0c\x1c").replace("\x0b", "\\u000b").encode(), None),
        ((GOOD % "\u2028what").encode(), "Who\u2028what?"),
        ((GOOD % "\u0085what").encode(), "Who\u0085what?"),
        ((GOOD % "é").replace("\n", "\r\n\r\n").encode(), "Whoé?"),
        (b"\n  \n" + (GOOD % "").encode().rstrip(), "Who?"),
        ((GOOD % "\\ud83d\\ude00").encode(), "Who\U0001f600?"),
    ],
    ids=["byte order mark", "control characters", "U+2028", "U+0085", "CRLF", "no last line end", "surrogate pair"],
)
def test_line_ends(data: bytes, asked: str | None, tmp_path: Path) -> None:
    """Only LF and CRLF end a line, although str.splitlines knows more."""
    file = tmp_path / "q.jsonl"
    file.write_bytes(data)
    if asked is None:  # raw control characters are no JSON, but they must not split the line either
        with pytest.raises(UsageError, match="line 1: not JSON, Invalid control character"):
            read_questions(file)
        return
    assert [question.question for question in read_questions(file)] == [asked]


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ('{"document": "a", "question": "q?", "answer": "x"', "not JSON, Expecting ',' delimiter at character 49"),
        ('{"document": "a", "question": "q?", "question": "x", "answer": "x"}', "'question' is there twice"),
        ('{"document": "a", "question": "q?", "answer": "x", "score": NaN}', "not JSON, which has no NaN"),
        ('{"document": "a", "question": "q?", "answer": Infinity}', "not JSON, which has no Infinity"),
        ('{"document": "a", "question": "q?"}', "'answer' is missing"),
        ('{"document": "a", "question": "q?", "answer": 3}', "answer is 3, expected a text with words"),
        ('{"document": "a", "question": " ", "answer": "x"}', "question is ' ', expected a text with words"),
        ('{"document": "a", "question": "q?", "answer": null}', "answer is None, expected a text with words"),
        ('{"document": "a", "question": "\\ud800", "answer": "x"}', "question holds half a surrogate pair"),
        ('{"document": "a", "question": "q?", "answers": []}', "'answer' is missing"),
        ('{"document": "a", "question": "q?", "answers": "x"}', "'answer' is missing"),
        (
            '{"document": "a", "question": "q?", "answer": "x", "answers": "x"}',
            "answers is 'x', expected a list of texts",
        ),
        (
            '{"document": "a", "question": "q?", "answers": ["x", ""]}',
            r"answers\[1\] is '', expected a text with words",
        ),
        ('["a", "q?", "x"]', r"\['a', 'q\?', 'x'\] is no object"),
        ("a,q?,x", "not JSON, Expecting value at character 0"),
        ("[" * 100_000, "maximum recursion depth"),
        ('{"document": "a", "question": "q?", "answer": "x", "n": ' + "1" * 5000 + "}", "integer string conversion"),
    ],
)
def test_wrong_line(line: str, why: str, tmp_path: Path) -> None:
    """The error for a wrong line has its number."""
    file = tmp_path / "q.jsonl"
    file.write_text(GOOD % "" + "\r\n" + line + "\n")
    with pytest.raises(UsageError, match=f"q.jsonl' line 3: .*{why}.*Expected ") as caught:
        read_questions(file)
    assert caught.value.__cause__ is not None and len(str(caught.value)) < 400


def test_read(tmp_path: Path) -> None:
    """Questions are read, and bad lines refused."""
    file = tmp_path / "q.jsonl"
    file.write_text('{"document": "a", "question": "q?", "answer": "x", "more": 1}\n\n')
    assert read_questions(file) == [Question("a", "q?", "x")]
    for bad in ("{", '{"document": "a"}', '{"document": "a", "question": 1, "answer": "x"}', "[]"):
        file.write_text('{"document": "a", "question": "q?", "answer": "x"}\n' + bad)
        with pytest.raises(UsageError, match="line 2"):
            read_questions(file)
    file.write_text("\n")
    with pytest.raises(UsageError, match="no question"):
        read_questions(file)
    with pytest.raises(NotFoundError):
        read_questions(tmp_path / "missing")


def test_accepted(tmp_path: Path) -> None:
    """A question may accept several answers. The first is the one that memories learn."""
    one = Question("a", "q?", "x")
    assert one.answers == ("x",) and Question("a", "q?", "x", ["y", "x", "z"]).answers == ("x", "y", "z")
    assert one == Question("a", "q?", "x", ("x",)) != Question("a", "q?", "x", ("y",))
    file = tmp_path / "q.jsonl"
    lines = (
        '"answer": "x"',
        '"answers": ["y", "x"]',
        '"answer": "x", "answers": ["y", "x"]',
        '"answer": "x", "answers": []',
    )
    file.write_text("".join(f'{{"document": "a", "question": "q?", {line}}}\n' for line in lines))
    found = [(question.answer, question.answers) for question in read_questions(file)]
    assert found == [("x", ("x",)), ("y", ("y", "x")), ("x", ("x", "y")), ("x", ("x",))]
