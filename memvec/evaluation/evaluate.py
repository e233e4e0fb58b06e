"""`evaluate`: measure memories by questions, beside controls, and the harm they do to prompts on other subjects.

The gain is (none − memory) / (none − text), of the surprisal of the right answers. It is a ratio of sums over documents,
so that no document with a tiny denominator decides.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, get_args

from memvec import arguments, off_topic
from memvec.arguments import BYTES, checked, instance, path_or, several
from memvec.errors import NotFoundError
from memvec.evaluation.answers import Judged, Marks, Prompt, judged, means, share_bounds
from memvec.evaluation.controls import EQUAL_POSITIONS, Arm, control_arms, digest, run_arms, size, text_arms, together
from memvec.evaluation.costs import ROUNDS, Costs, Query, measure_costs
from memvec.evaluation.forms import question_row
from memvec.evaluation.gain import Sums, interval, per_token, share
from memvec.evaluation.questions import Question, read_questions
from memvec.evaluation.subjects import Subject, chosen_kind, subjects
from memvec.identity.fingerprint import check_fingerprint
from memvec.identity.runtime import Opening, Runtime, runtime_of
from memvec.languages.detect import language_of
from memvec.lm.frozen import FrozenLM
from memvec.lm.scoring import Row, embedded, score
from memvec.progress import Progress, enter
from memvec.store.store import Store
from memvec.templates.template import Template, frame

if TYPE_CHECKING:
    from typing_extensions import Unpack

COMPANY = (2, 4, 8)  # numbers of memories in front of one question
FRONTS = ("none", "text", "memory")  # put in front of off-topic prompts
# "last" is the best of the texts cut to the memory's size, on most documents.
ANSWERING = (*FRONTS, "shuffled", "last", "2", "4")  # put in front of questions that are answered freely
LEAN = (*FRONTS, "shuffled")  # arms of a lean evaluation
TIMED = 4  # documents whose prefill is timed
QUESTIONS = path_or(several(instance(Question), "Questions", ()))
PASSAGES, CHOICES = 8, 16  # off-topic items tried with each document's memory


@dataclass(frozen=True, slots=True)
class OffTopic:
    """The effect of a text or a memory on prompts that have nothing to do with it."""

    nll: Mapping[str, float]  # by none, text, memory [nats per token]
    accuracy: Mapping[str, float]  # of multiple choice, by none, text, memory [0..1]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The result of an evaluation. Gains are shares of the text's gain. The field names are those of `--json`."""

    kind: str  # of the memories: context or kv
    gain: float | None
    gain_low: float | None  # bounds of a 95 % bootstrap interval over documents
    gain_high: float | None
    shuffled: float | None  # with another document's memory
    shuffled_text: float | None  # with another document's text: form and style alone may help this much
    random: float | None  # with noise of the same size in place of the vectors, or of the keys and values
    exact: float | None  # with the exact vectors
    text_at_equal_positions: Mapping[str, float | None]  # first, last, sentences
    company: Mapping[str, float | None]  # with 2, 4 and 8 memories in front, the right one among them
    harm: float | None  # off-topic surprisal with the memory, above that with the text [nats per token]
    off_topic: OffTopic | None
    nll: Mapping[str, float | None]  # of the answers by the arm in front [nats per token]
    answered: Mapping[
        str, float
    ]  # share of greedy answers with the right words, by none, text, memory, shuffled, last, 2 and 4 memories [0..1]
    documents: int  # measured in the figures above
    questions: int
    skipped: int  # documents left out, because their text helps the model by less than 0.1 nats per token
    template: str
    costs: Costs
    by_document: Mapping[str, float | None] = field(default_factory=dict)
    elsewhere: int = 0  # questions about documents that the store does not have
    # Of the first 16 tokens of the greedy answers, by the same arms [0..1]. As in SQuAD, case, punctuation
    # and the articles of the text's language are ignored. The best of several accepted answers counts.
    f1: Mapping[str, float] = field(default_factory=dict)  # mean F1 of the words
    contained: Mapping[str, float] = field(default_factory=dict)  # share with the right words next to each other
    # Bounds of 95 % intervals over documents: the memory's share of the text's own F1 and containment
    f1_bounds: tuple[float, float] | None = None
    contained_bounds: tuple[float, float] | None = None


@checked(
    questions=QUESTIONS,
    texts=BYTES,
    kind=arguments.choice("auto", "context", "kv"),
    template=arguments.choice(*get_args(Template), "plain"),
)
def evaluate(
    store: str | Path | Store | Runtime,
    questions: str | Path | Sequence[Question],
    *,
    kind: str = "auto",
    texts: Mapping[str, bytes] | None = None,
    exact: str | Path | None = None,
    template: str = "text",
    off_topic: bool = True,
    seed: int = 0,
    **opening: Unpack[Opening],
) -> Evaluation:
    """Measure how well the memories of a store answer questions about its documents, beside several controls.

    The measure is the surprisal of the right answers. A gain of 1 means that the memory helps as much as the text itself,
    0 that it helps as little as nothing. Documents that do not help the model as text are left out.

    Args:
        store: The store, or what `memvec.open` returns.
        questions: `Question`s, or a file of JSON lines with document, question and answer. A question may have several
            accepted answers.
        kind: The memories to judge: "context", "kv", or "auto": kv if every document has a kv memory, else context.
        texts: The bytes of the documents by name. By default they are decoded from the store's exact records.
        exact: A store whose exact vectors serve as a control. By default `store`, if it has them.
        template: The form of the questions. "chat": the model's chat template. "text": `Question: … Answer: …`. "auto":
            chat if the model has a template, else text. "plain": the question alone.
        off_topic: Measure also the harm of memories to prompts on other subjects. This takes most of the time.
        seed: The seed of the controls that are drawn at random.
        **opening: As in `memvec.open`: model, device, batch, watch.

    Returns:
        The gain with its interval, the same for each control, the harm, the quality of answers and the costs.

    Raises:
        UsageError: An argument is invalid, a text is missing, or a text differs from the one that was packed.
        NotFoundError: There is no such store or model, or no question is about a document of the store.
        ConditioningError: A document has no memory of this kind.
        FingerprintError: The model is not the one that packed.

    Example:
        >>> asked = [memvec.Question("harbour.txt", "When do the pilots row out?", "at six")]
        >>> found = memvec.evaluate(store, asked, model=model, off_topic=False)
        >>> found.documents + found.skipped
        1
    """
    asked = read_questions(questions) if isinstance(questions, str | Path) else list(questions)
    runtime = runtime_of(store, **opening)
    return evaluated(runtime, asked, kind, texts, exact, template, off_topic, seed)


@dataclass(frozen=True, slots=True)
class Known:
    """Results of earlier evaluations with the same model, by the digest of what stood in front of a row."""

    nats: dict[tuple[bytes, Row], float] = field(default_factory=dict)
    # And by the accepted answers and the language's code
    marks: dict[tuple[bytes, Row, tuple[str, ...], str], Marks] = field(default_factory=dict)


def evaluated(
    runtime: Runtime,
    asked: Sequence[Question],
    kind: str,
    texts: Mapping[str, bytes] | None,
    exact: str | Path | None,
    template: str,
    off_topic: bool,
    seed: int,
    known: Known | None = None,
    lean: bool = False,
) -> Evaluation:
    """Evaluate as `evaluate` does. What is in `known` is not measured again, and new results are added to it.

    A lean evaluation measures only the arms of LEAN, the answers and the harm of FRONTS, and no times, which are nan.
    """
    progress, opened = Progress(), runtime.store
    enter("reading the documents", progress, runtime.watch)
    control = opened if exact is None else Store.open(exact)
    check_fingerprint(opened.manifest.fingerprint, control.manifest.fingerprint)
    live = opened.documents()
    names = [name for name in dict.fromkeys(q.document for q in asked) if name in live]
    if not names:
        raise NotFoundError(
            f"no question is about a document of {str(opened.path)!r}. `memvec.documents(…)` lists the names."
        )
    kind = chosen_kind(opened, names, kind)
    found = subjects(runtime, names, asked, kind, texts, control, template)
    trial = _Trial(runtime.lm, found, kind, template, off_topic, seed, known or Known(), lean)
    progress.documents = len(found)
    for number, subject in enumerate(found):
        enter("asking", progress, runtime.watch)
        trial.ask(number, subject)
        progress.documents_done += 1
    enter("timing", progress, runtime.watch)
    elsewhere = sum(question.document not in live for question in asked)
    return replace(trial.report(), elsewhere=elsewhere)


@dataclass(frozen=True, slots=True)
class _Aside:
    """Prompts on other subjects: passages, and choices with all their options and the number of the right one."""

    passages: Sequence[Row] = ()
    choices: Sequence[tuple[Sequence[Row], int]] = ()


class _Trial:
    """The questions about every document, asked with each arm in front, and the sums of the surprisal."""

    def __init__(
        self,
        lm: FrozenLM,
        found: Sequence[Subject],
        kind: str,
        template: str,
        off_topic: bool,
        seed: int,
        known: Known,
        lean: bool,
    ) -> None:
        self.lm, self.subjects, self.kind, self.template, self.off_topic = lm, found, kind, template, off_topic
        self.known, self.lean = known, lean
        self.before = frame(lm.tokenizer, "", "text" if template == "plain" else template).before
        self.chance, self.seed = random.Random(seed), seed
        self.nothing = embedded(lm, [])
        self.sums: list[Sums] = []
        # (name of the arm in front, sums of the document, prompt), to be answered at the end
        self.prompts: list[tuple[str, Sums, Prompt]] = []
        self.aside: list[Sums] = []  # of off-topic passages
        self.right: Counter[str] = Counter()  # off-topic choices answered rightly, by the arm in front
        self.tried = 0

    def ask(self, number: int, subject: Subject) -> None:
        """Ask the questions about one document with each arm in front."""
        arms = self._arms(number, subject)
        aside = self._aside() if self.off_topic else _Aside()
        off_topic_rows = [*aside.passages, *(row for options, _ in aside.choices for row in options)]
        nats, aside_nats = dict[str, float](), dict[str, float]()
        for name, arm in arms.items():
            found = self._score(arm, [*subject.rows, *(off_topic_rows if name in FRONTS else ())])
            nats[name] = sum(found[row] for row in subject.rows)
            if name in FRONTS:
                aside_nats[name] = sum(found[row] for row in aside.passages)
                for options, right in aside.choices:
                    given = [found[row] / row.scored for row in options]
                    self.right[name] += given.index(min(given)) == right
        self.sums.append(Sums(nats, sum(row.scored for row in subject.rows)))
        self.aside.append(Sums(aside_nats, sum(row.scored for row in aside.passages)))
        self.tried += len(aside.choices)
        answering, language = FRONTS if self.lean else ANSWERING, language_of(subject.text)
        self.prompts += [
            (name, self.sums[-1], (arms[name], row, accepted, language))
            for name in (answering if self.template != "plain" else ())  # a continuation is no answer
            if name in arms
            for row, accepted in zip(subject.rows, subject.answers, strict=True)
        ]

    def _arms(self, number: int, subject: Subject) -> dict[str, Arm]:
        others = [s for i, s in enumerate(self.subjects) if i != number]
        other = self.chance.choice(others) if others else None
        arms: dict[str, Arm] = {"none": self.nothing}
        arms |= text_arms(self.lm, subject.text, max(1, round(size(subject.memory))))
        arms |= control_arms(subject.memory, other.memory if other else None, subject.exact, self.seed + number)
        if other:
            arms["shuffled_text"] = embedded(self.lm, self.lm.encode(other.text))
        for count in COMPANY:
            if count <= len(self.subjects):
                company = [subject, *self.chance.sample(others, count - 1)]
                self.chance.shuffle(company)
                arms[f"{count}"] = together([s.memory for s in company])
        return {name: arm for name, arm in arms.items() if name in LEAN} if self.lean else arms

    def _aside(self) -> _Aside:
        """Draw prompts on other subjects."""
        drawn = self.chance.sample(off_topic.passages(), PASSAGES), self.chance.sample(off_topic.choices(), CHOICES)
        passages, choices = drawn[0], () if self.lean else drawn[1]
        tokenizer, form = self.lm.tokenizer, self.template
        return _Aside(
            [question_row(tokenizer, p.prompt, p.continuation, form) for p in passages],
            [([question_row(tokenizer, c.question, o, form) for o in c.choices], c.answer) for c in choices],
        )

    def _score(self, arm: Arm, rows: Sequence[Row]) -> dict[Row, float]:
        """Surprisal of rows behind an arm [nats]."""
        front, known = digest(self.before, arm), self.known.nats
        new = [row for row in dict.fromkeys(rows) if (front, row) not in known]
        if new:
            nats = score(self.lm, run_arms(self.lm, self.before, [arm]), new)
            known.update(((front, row), one) for row, one in zip(new, nats, strict=True))
        return {row: known[front, row] for row in rows}

    def report(self) -> Evaluation:
        """The result over all documents."""
        usable = [(s, sums) for s, sums in zip(self.subjects, self.sums, strict=True) if sums.usable]
        sums = [pair[1] for pair in usable]
        questions = sum(len(s.rows) for s, _ in usable)
        low, high = interval(sums, "memory") or (None, None)
        aside = {name: per_token(self.aside, name) or 0.0 for name in FRONTS} if self.off_topic else None
        arms = list(dict.fromkeys(name for s in sums for name in s.nats))
        answers = self._judged()
        seconds, queries = fmean(s.seconds for s in self.subjects), [self._query(s) for s in self.subjects[:TIMED]]
        return Evaluation(
            kind=self.kind,
            gain=share(sums, "memory"),
            gain_low=low,
            gain_high=high,
            shuffled=share(sums, "shuffled"),
            shuffled_text=share(sums, "shuffled_text"),
            random=share(sums, "random"),
            exact=share(sums, "exact"),
            text_at_equal_positions={name: share(sums, name) for name in EQUAL_POSITIONS},
            company={f"{count}": share(sums, f"{count}") for count in COMPANY},
            harm=None if aside is None else aside["memory"] - aside["text"],
            off_topic=None
            if aside is None
            else OffTopic(aside, {name: self.right[name] / self.tried for name in FRONTS if self.tried}),
            nll={name: per_token(sums, name) for name in arms},
            documents=len(sums),
            answered=means(answers, "right"),
            questions=questions,
            skipped=len(self.subjects) - len(sums),
            template=self.template,
            costs=measure_costs(self.lm, queries, seconds, 0 if self.lean else ROUNDS),
            by_document={s.name: share([one], "memory") for s, one in usable},
            f1=means(answers, "f1"),
            contained=means(answers, "contained"),
            f1_bounds=share_bounds(answers, "f1"),
            contained_bounds=share_bounds(answers, "contained"),
        )

    def _judged(self) -> list[Judged]:
        """Judge the answers to the questions of each document. All are asked at once, which is faster."""
        asked = [(name, sums, prompt) for name, sums, prompt in self.prompts if sums.usable]
        fronts = {id(arm): digest(self.before, arm) for *_, (arm, *_) in asked}
        keys = [(fronts[id(arm)], row, tuple(accepted), language.code) for *_, (arm, row, accepted, language) in asked]
        known = self.known.marks
        new = {key: prompt for key, (*_, prompt) in zip(keys, asked, strict=True) if key not in known}
        known.update(zip(new, judged(self.lm, self.before, list(new.values())), strict=True))
        found: dict[int, dict[str, list[Marks]]] = {}
        for key, (name, sums, _) in zip(keys, asked, strict=True):
            found.setdefault(id(sums), {}).setdefault(name, []).append(known[key])
        return list(found.values())

    def _query(self, subject: Subject) -> Query:
        row, text = subject.rows[0], subject.text
        ids, question = self.lm.encode(text), row.ids[: row.start]
        return Query(self.before, ids, subject.memory, question, len(text.encode()), subject.stored)
