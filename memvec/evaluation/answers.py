"""Judge the lines that the LM generates. Users see those lines. Surprisal scores only given answers.

F1 and containment compare words as SQuAD does: without case, punctuation and articles. Articles are those of the text's
language, and in scripts without spaces each character is a word. This is what `mlqa_evaluation_v1.py` of MLQA does (Lewis
et al. 2020), for English, Spanish, German and Chinese. MLQA has no French.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import torch
from torch import Tensor

from memvec.evaluation.controls import Arm, positions, run_arms
from memvec.evaluation.gain import ratio_interval
from memvec.kv.place import windowed
from memvec.kv.selection import Selection
from memvec.languages.language import UNSPACED_LETTERS, Language, by_code
from memvec.lm.frozen import FrozenLM
from memvec.lm.scoring import Row, embedded, rows_that_fit, sample

NEW_TOKENS = 32
SHORT_TOKENS = 16  # the start of a line that F1 and containment judge; the right answers are shorter
TOGETHER, TOGETHER_GPU = 24, 256  # most prompts at once; fewer if memory allows no more
ENGLISH = by_code("en")
_WORDS = re.compile(rf"{UNSPACED_LETTERS}|(?:(?!{UNSPACED_LETTERS})\S)+")

# The arm in front, a question's row, the accepted answers, and the language of the text
Prompt = tuple[Arm, Row, Sequence[str], Language]


@dataclass(frozen=True, slots=True)
class Marks:
    """How well a generated line answers a question, by the accepted answer that fits it best."""

    right: bool  # the line holds the answer's words, next to each other
    f1: float  # of the words in the line's start and in the answer [0..1]
    contained: bool  # the line's start holds the answer's words after SQuAD's normalisation, next to each other


Judged = Mapping[str, Sequence[Marks]]  # of one document's questions, by the arm in front


def judged(lm: FrozenLM, before: Sequence[int], prompts: Sequence[Prompt]) -> list[Marks]:
    """Generate one line for each prompt, greedily, and compare it with the accepted answers.

    Every prompt is the tokens `before`, its arm, and the row up to the answer.
    """
    # Arms of a kind go together. The longest come first, as their length bounds their batch, and those of one document
    # in a row, as they share its cache.
    numbers = {arm: n for n, arm in enumerate(dict.fromkeys(id(arm) for arm, *_ in prompts))}
    keys = [(isinstance(arm, Selection), positions(arm), numbers[id(arm)], row.start) for arm, row, *_ in prompts]
    order = sorted(range(len(prompts)), key=keys.__getitem__, reverse=True)
    found: dict[int, Marks] = {}
    while len(found) < len(prompts):
        left = order[len(found) :]
        longest = len(before) + keys[left[0]][1] + max(prompts[number][1].start for number in left) + NEW_TOKENS
        size = min(TOGETHER if lm.device.type == "cpu" else TOGETHER_GPU, rows_that_fit(lm, longest))
        batch = [number for number in left[:size] if keys[number][0] == keys[left[0]][0]]
        said = _generated(lm, before, [prompts[number] for number in batch])
        for number, ids in zip(batch, said, strict=True):
            *_, answers, language = prompts[number]
            found[number] = marks(_line(lm, ids), _line(lm, ids[:SHORT_TOKENS]), answers, language)
    return [found[number] for number in range(len(prompts))]


def _generated(lm: FrozenLM, before: Sequence[int], prompts: Sequence[Prompt]) -> list[list[int]]:
    """The ids that the LM generates for each prompt, at least to the end of the first line or up to NEW_TOKENS."""
    heads = [row.ids[: row.start] for _, row, *_ in prompts]
    arms: dict[int, Arm] = {id(arm): arm for arm, *_ in prompts}
    owner = [list(arms).index(id(arm)) for arm, *_ in prompts]
    vectors = [arm.to(lm.dtype) for arm, *_ in prompts if isinstance(arm, Tensor)]
    if vectors and (lm.recurrent or windowed(lm.model)):
        # The first kind reads several tokens only from the start on. Windows would count the padding between a text and its
        # question.
        questions = [embedded(lm, head[:-1]) for head in heads]
        arms = {n: torch.cat(pair) for n, pair in enumerate(zip(vectors, questions, strict=True))}
        owner, heads = list(range(len(heads))), [head[-1:] for head in heads]

    def over(ids: Sequence[int]) -> bool:
        return lm.tokenizer.eos_token_id in ids or "\n" in _text(lm, ids)

    return sample(lm, run_arms(lm, before, list(arms.values())), owner, heads, NEW_TOKENS, 0.0, over=over)


def marks(line: str, start: str, answers: Sequence[str], language: Language = ENGLISH) -> Marks:
    """Compare a generated line, and its start, with each accepted answer. The best of each measure counts."""
    return Marks(
        right=any(holds(line, answer) for answer in answers),
        f1=max(f1(start, answer, language) for answer in answers),
        contained=any(contains(start, answer, language) for answer in answers),
    )


def means(documents: Sequence[Judged], measure: str) -> dict[str, float]:
    """The mean over all questions, by the arm in front. `measure` is a field of Marks."""
    arms = dict.fromkeys(arm for document in documents for arm in document)
    return {
        arm: fmean(getattr(one, measure) for document in documents for one in document.get(arm, ())) for arm in arms
    }


def share_bounds(documents: Sequence[Judged], measure: str) -> tuple[float, float] | None:
    """The interval of the memory's share of the text's score, by bootstrap over documents."""

    def total(document: Judged, arm: str) -> float:
        return float(sum(getattr(one, measure) for one in document[arm]))

    return ratio_interval([(total(document, "memory"), total(document, "text")) for document in documents])


def holds(said: str, answer: str) -> bool:
    """Does a text hold the words of an answer, next to each other? Case and punctuation are ignored."""
    wanted = _words(answer)
    return bool(wanted.strip()) and wanted in _words(said)


def f1(said: str, answer: str, language: Language = ENGLISH) -> float:
    """The harmonic mean of precision and recall of the normalised words. Order does not count."""
    found, wanted = normalised(said, language), normalised(answer, language)
    if not found or not wanted:
        return float(found == wanted)
    both = (Counter(found) & Counter(wanted)).total()
    return 2 * both / (len(found) + len(wanted))


def contains(said: str, answer: str, language: Language = ENGLISH) -> bool:
    """Does a text hold the normalised words of an answer, next to each other?"""
    found, wanted = normalised(said, language), normalised(answer, language)
    return bool(wanted) and any(found[at : at + len(wanted)] == wanted for at in range(len(found)))


def normalised(text: str, language: Language = ENGLISH) -> list[str]:
    """The words of a text in lower case, without punctuation and the articles of its language."""
    if language.code == "fr":
        text = text.replace("'", " ").replace("’", " ")  # "l'eau" has two words
    letters = "".join(letter for letter in text.lower() if not _is_punctuation(letter))
    return _WORDS.findall(
        re.sub(rf"\b({'|'.join(language.articles)})\b", " ", letters) if language.articles else letters
    )


def _is_punctuation(letter: str) -> bool:
    """Is it punctuation, or a character of which the cut left only some bytes?"""
    return letter in string.punctuation or letter == "\ufffd" or unicodedata.category(letter).startswith("P")


def _words(text: str) -> str:
    # Vowels and accents that combine with a letter belong to its word.
    letters = [c if c.isalnum() or unicodedata.combining(c) or unicodedata.category(c) == "Mc" else " " for c in text]
    return " ".join(["", *_WORDS.findall("".join(letters).casefold()), ""])


def _line(lm: FrozenLM, ids: Sequence[int]) -> str:
    """The first line of the text of the ids."""
    return _text(lm, ids).split("\n")[0]


def _text(lm: FrozenLM, ids: Sequence[int]) -> str:
    """The text of the ids up to the end token, without space around it."""
    end = lm.tokenizer.eos_token_id
    return str(lm.tokenizer.decode(ids[: ids.index(end)] if end in ids else ids)).strip()
