"""A text's language is found by its letters and its common words."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memvec.languages.detect import language_of
from memvec.languages.language import with_common_words

TEXTS = {
    "en": "The harbour master rows out at six, and nobody knows who keeps the key.",
    "es": "El capitán del puerto sale a las seis y nadie sabe quién tiene la llave.",
    "de": "Der Hafenmeister rudert um sechs hinaus, und niemand weiß, wer den Schlüssel hat.",
    "fr": "Le maître du port sort à six heures et personne ne sait qui garde la clé.",
    "pt": "O mestre do porto sai às seis e ninguém sabe quem tem a chave do armazém.",
    "it": "Il capitano del porto esce alle sei e nessuno sa chi ha la chiave della torre.",
    "nl": "De havenmeester roeit om zes uur naar buiten en niemand weet wie de sleutel van de toren heeft.",
    "sv": "Hamnmästaren ror ut klockan sex och ingen vet vem som har nyckeln till det gamla tornet.",
    "pl": "Kapitan portu wypływa o szóstej i nikt nie wie, kto ma klucz do wieży.",
    "other": "Начальник порта выходит в море в шесть, и никто не знает, у кого ключ.",
    "unspaced": "港务长六点划船出海，没有人知道钥匙在谁那里。",
}


@pytest.mark.parametrize("code", TEXTS)
def test_sentences(code: str) -> None:
    assert language_of(TEXTS[code]).code == code


@pytest.mark.parametrize("text", ["港長は6時に船を出す。", "นายท่าออกเรือตอนหกโมง", "ເມືອງຫຼວງ", "မြို့တော်", "រាជធានី"])
def test_scripts_without_spaces(text: str) -> None:
    assert language_of(text).code == "unspaced"


@pytest.mark.parametrize(
    "text",
    [
        "항구 책임자는 여섯 시에 나간다",
        "يخرج مدير الميناء في السادسة",
        "बंदरगाह का मालिक छह बजे निकलता है",
        "Ο λιμενάρχης βγαίνει στις έξι",
    ],
)
def test_other_scripts(text: str) -> None:
    assert language_of(text).code == "other"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "17 – 31 (42)",
        "Osric Venn, Ingrid Vale, Tomas Reuter, Ada Holt",
        "Los Angeles, La Paz, El Paso, Las Vegas, San Diego, Los Alamos",
        "While en route, Washington learned of it.",
        "The word 船 means ship, and 港 means harbour.",
        "def run(self, x):\n    return x + 1",
    ],
)
def test_english_unless_clear(text: str) -> None:
    """Lists, names, code and short texts are asked about as English ones."""
    assert language_of(text).code == "en"


def test_most_of_the_text_counts() -> None:
    assert language_of(TEXTS["en"] * 3 + TEXTS["de"]).code == "en"
    assert language_of(TEXTS["de"] * 3 + TEXTS["en"]).code == "de"
    assert language_of(TEXTS["unspaced"] * 3 + "NFL (National Football League)").code == "unspaced"


def test_long_words_are_longer_than_usual() -> None:
    """In other scripts, a text's own words say which of them are long."""
    assert language_of("항구 책임자는 여섯 시에 나간다").long < language_of(TEXTS["other"]).long


@given(st.text())
@settings(max_examples=200, deadline=None)
def test_any_text(text: str) -> None:
    codes = {known.code for known in with_common_words()} | {"other", "unspaced"}
    assert language_of(text).code in codes and language_of(text) == language_of(text)
