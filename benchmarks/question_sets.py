"""Sets of documents with questions: invented facts, passages of published texts, and questions that people wrote.

People's questions are files outside the project; only their paths are given:

    xquad:PATH  lines {"article", "paragraph", "text", "questions": [{"question", "answer"}]}, as made from XQuAD
    nq:PATH     lines {"title", "text", "question", "answers"}, Natural Questions beside the passage with the answer

A path may end in .gz. A document of XQuAD is a paragraph, or an article: its paragraphs, joined by blank lines. Documents
are drawn at random by a seed, paragraphs evenly over the articles. A document comes with all of its questions.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

from memvec.evaluation.questions import Question, cloze_questions, read_questions

HERE = Path(__file__).parent
OWN = ("report", "develop", "prose")
UNITS = ("paragraph", "article")
PASSAGE, FURTHER, FIRST_WORDS = 600, 250, 4  # characters of a passage and of how it goes on; words of that given
PARAGRAPH = re.compile(r"-\d+\.txt$")  # the end of a paragraph's name
QUICK = 6
SHORT = 700  # bytes; the quick run takes invented facts up to this

Texts = dict[str, str]  # by the document's name


@dataclass(frozen=True)
class QuestionSet:
    """Documents and the questions about them."""

    name: str  # of the set; a file outside the project is named without its folder
    texts: Texts
    questions: list[Question]
    further: list[Question] = field(default_factory=list)  # how the texts go on, where they do
    origin: dict[str, str] = field(default_factory=dict)  # of a file outside the project: sha256 and unit


def question_set(name: str, documents: int | None, seed: int, only: str, quick: bool, unit: str) -> QuestionSet:
    """The set of a name as `--set` takes it, with at most `documents` documents. ValueError for another name."""
    kind, _, path = name.partition(":")
    if name == "prose":
        return prose(documents)
    if name in OWN:
        return facts(name, quick, documents, only)
    if kind not in READERS or not path:
        raise ValueError(
            f"{name!r} is no set. Give {', '.join(OWN)}, {' or '.join(f'{known}:PATH' for known in READERS)}."
        )
    texts, questions = READERS[kind](Path(path), unit)
    names = sample([n for n in texts if fnmatch(n, only)], documents or (QUICK if quick else None), seed)
    return QuestionSet(
        f"{kind}:{Path(path).name}",
        {n: texts[n] for n in names},
        [question for question in questions if question.document in names],
        origin={"sha256": hashlib.sha256(Path(path).read_bytes()).hexdigest()}
        | ({"unit": unit} if kind == "xquad" else {}),
    )


def sample(names: Iterable[str], count: int | None, seed: int) -> list[str]:
    """Draw `count` names at random, in their order. A larger sample of the same seed holds every smaller one.

    A second paragraph of an article is drawn only when every article has one, so that another document's memory is about
    something else. The digest of a seed and a name decides, so translations of a set give the same documents.
    """
    every = list(names)
    articles: Counter[str] = Counter()
    turns = {}
    for name in sorted(every, key=lambda name: hashlib.sha256(f"{seed} {name}".encode()).digest()):
        article = PARAGRAPH.sub("", name)
        turns[name] = articles[article]
        articles[article] += 1
    drawn = set(sorted(turns, key=turns.__getitem__)[:count])
    return [name for name in every if name in drawn]


def xquad(path: Path, unit: str) -> tuple[Texts, list[Question]]:
    """The paragraphs or articles of a file of XQuAD."""
    texts: Texts = {}
    questions = []
    for line in sorted(_lines(path), key=lambda line: (line["article"], line["paragraph"])):
        name = f"{line['article']}-{line['paragraph']}.txt" if unit == "paragraph" else f"{line['article']}.txt"
        texts[name] = f"{texts[name]}\n\n{line['text']}" if name in texts else line["text"]
        questions += [Question(name, one["question"], one["answer"]) for one in line["questions"]]
    return texts, questions


def natural_questions(path: Path, unit: str) -> tuple[Texts, list[Question]]:
    """The passages of a file of Natural Questions. A passage with several questions is one document."""
    names: dict[str, str] = {}
    questions = []
    for number, line in enumerate(_lines(path), 1):
        name = names.setdefault(line["text"], f"{number:04}.txt")
        questions.append(Question(name, line["question"], line["answers"][0], line["answers"]))
    return {name: text for text, name in names.items()}, questions


READERS: dict[str, Callable[[Path, str], tuple[Texts, list[Question]]]] = {"xquad": xquad, "nq": natural_questions}


def _lines(path: Path) -> list[Any]:
    data = path.read_bytes()
    text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode()
    return [json.loads(line) for line in text.split("\n") if line.strip()]


def facts(name: str, quick: bool, most: int | None, only: str) -> QuestionSet:
    """A set of invented facts. The quick ones are short and evenly spaced over the set."""
    asked = read_questions(HERE / "facts" / name / "questions.jsonl")
    names = sorted({question.document for question in asked if fnmatch(question.document, only)})
    texts = {n: (HERE / "facts" / name / n).read_text("utf-8").strip() for n in names}
    if quick:
        short = [n for n in names if len(texts[n]) <= SHORT]
        names = short[:: max(1, len(short) // QUICK)][:QUICK]
    names = names[:most]
    return QuestionSet(
        name, {n: texts[n] for n in names}, [question for question in asked if question.document in names]
    )


def prose(most: int | None) -> QuestionSet:
    """Evenly spaced passages of published texts, with cloze questions and continuations."""
    texts: Texts = {}
    further: list[Question] = []
    found = _passages()
    for number, (passage, rest) in enumerate(found[:: max(1, len(found) // (most or len(found)))][:most]):
        words = rest.split(" ")
        texts[f"{number}.txt"] = passage
        first, then = " ".join(words[:FIRST_WORDS]), " " + " ".join(words[FIRST_WORDS:])
        further.append(Question(f"{number}.txt", first, then))
    return QuestionSet(
        "prose", texts, [q for name, text in texts.items() for q in cloze_questions(name, text, 8)], further
    )


def _passages() -> list[tuple[str, str]]:
    """(passage, its continuation) from published texts."""
    novel = (HERE.parent / "tests/tiny/corpus.txt").read_text("utf-8")
    sources = [(novel, at) for at in range(20_000, 120_000, 25_000)]
    sources += [(topics[name], 200) for name in ("with", "bltin-types", "naming", "exceptions") if name in topics]
    ends = [at + PASSAGE for _, at in sources]
    return [(t[at:end].strip(), t[end : end + FURTHER].strip()) for (t, at), end in zip(sources, ends, strict=True)]
