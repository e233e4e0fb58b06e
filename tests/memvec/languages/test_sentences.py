"""Texts are cut into sentences and words, and joined again."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memvec.languages.detect import language_of
from memvec.languages.language import by_code
from memvec.languages.sentences import run_starts, sentences, telling_places


@pytest.mark.parametrize(
    ("code", "text", "count"),
    [
        ("en", "One two three four five. Six seven eight nine ten!", 2),
        ("de", "Sie kam am 7. Februar und am 12. März zurück. Er blieb z. B. im Jahr 1998. Das war im Mai so.", 3),
        ("es", "El tren salió a las 24. El otro tren no salió.", 2),
        ("fr", "Qui est là ce soir ? Il y a « un chat » ici !", 2),
        ("other", "Κάτι έγινε εδώ και τώρα· είναι αργά. Δεν ξέρω τι να σου πω.", 2),
        ("unspaced", "他在北京工作了很久。她回答说：“我也要去北京！”\n东京是日本的首都", 3),
        ("unspaced", "นายท่าออกเรือตอนหกโมงเช้า ไม่มีใครรู้ว่ากุญแจอยู่ที่ไหน", 2),
    ],
)
def test_sentences(code: str, text: str, count: int) -> None:
    assert len(sentences(text, by_code(code))) == count


@pytest.mark.parametrize(
    ("code", "text", "words"),
    [
        ("fr", "Il dit « bonjour » aux amis !", ["Il", "dit «", "bonjour »", "aux", "amis !"]),
        ("de", "– Er trank 50 % des Wassers.", ["– Er", "trank", "50 %", "des", "Wassers."]),
        ("unspaced", "黑豹队以 24 次（NFL）领先", ["黑豹队", "以 ", "24 ", "次", "（NFL）", "领先"]),
        ("unspaced", "スカイツリーは634.5メートルの塔", ["スカイツリー", "は", "634.5", "メートル", "の", "塔"]),
        ("unspaced", "เรือใบที่แล่นไปทะเล", ["เรือใบที่", "แล่นไปทะ", "เล"]),
    ],
)
def test_words(code: str, text: str, words: list[str]) -> None:
    """Marks go with a word. In scripts without spaces, letters of one kind stand together, and vowels with theirs."""
    (found,) = sentences(text, by_code(code))
    assert found == words and by_code(code).glue.join(found) == text


@pytest.mark.parametrize(
    ("code", "text", "telling"),
    [
        ("es", "El «Prado» también tiene 3 esculturas.", ["«Prado»", "3", "esculturas."]),
        ("fr", "Il vient de l'Isère et d'ailleurs depuis toujours.", ["l'Isère", "d'ailleurs"]),
        ("unspaced", "东京的人口在1958年", ["东京", "人口", "1958", "年"]),
    ],
)
def test_telling(code: str, text: str, telling: list[str]) -> None:
    """Names, numbers and long words are worth asking for, common words are not."""
    (words,) = sentences(text, by_code(code))
    assert [words[place] for place in telling_places(words, by_code(code))] == telling


def test_run_starts() -> None:
    """A run of telling words begins behind a common word or a mark."""
    (words,) = sentences("东京塔，高333米的塔", by_code("unspaced"))
    assert words == ["东京塔，", "高", "333", "米", "的", "塔"]
    assert run_starts(words, telling_places(words, by_code("unspaced")), by_code("unspaced")) == [0, 1, 5]


@given(st.text() | st.text("人的アก่เ（「。！ \n1a", max_size=60))
@settings(max_examples=300, deadline=None)
def test_words_of_any_text_are_next_to_each_other(text: str) -> None:
    language = language_of(text)
    for words in sentences(text, language):
        assert all(words) and language.glue.join(words) in " ".join(text.split())
