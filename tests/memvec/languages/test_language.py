"""The table of languages is complete, and languages know their words."""

from __future__ import annotations

import pytest

from memvec.languages.language import by_code, with_common_words

KINDS = {"ordinary", "names", "places", "numbers", "dates", "reasons", "agents"}
ASKING = ("en", "es", "de", "fr")


@pytest.mark.parametrize("code", ASKING)
def test_languages_with_question_words(code: str) -> None:
    """They have words of every kind, and common words hold the articles."""
    language = by_code(code)
    assert set(language.leads) == KINDS and all(language.leads.values())
    assert set(language.articles) <= language.common and "{}" in language.question
    assert language.places and language.because and language.by and language.dated


def test_others_have_blanks() -> None:
    others = [language for language in with_common_words() if language.code not in ASKING]
    assert len(others) > 10 and not any(language.leads or language.articles for language in others)
    assert not by_code("unspaced").leads and not by_code("tlh").leads
    assert all(word == word.lower() for language in with_common_words() for word in language.common)


@pytest.mark.parametrize(
    ("code", "answer"),
    [
        ("en", "7 February 1848"),
        ("es", "7 de febrero de 1848"),
        ("de", "7. Februar 1848"),
        ("fr", "7 février 1848"),
        ("fr", "1848"),
    ],
)
def test_dates(code: str, answer: str) -> None:
    dated = by_code(code).dated
    assert dated and dated.match(answer) and not dated.match("7 Lisboa") and not dated.match("1848000")


def test_bare() -> None:
    assert (
        by_code("fr").bare("« l'Université »,") == "Université" and by_code("fr").bare("aujourd'hui") == "aujourd'hui"
    )
    assert by_code("es").bare("¿Qué?") == "Qué" and by_code("unspaced").bare("（国家） ") == "国家"
    assert by_code("en").bare("“key”") == "“key”"  # as ever


def test_apart() -> None:
    """Marks between words part them. In English only those behind the first do."""
    assert by_code("de").apart("Bremen,", "der") and by_code("de").apart("Bremen", "(Hafen)")
    assert by_code("unspaced").apart("队，", "以") and not by_code("unspaced").apart("以 ", "24")
    assert not by_code("en").apart("Bremen", "(port)") and by_code("en").apart("Bremen,", "a")
