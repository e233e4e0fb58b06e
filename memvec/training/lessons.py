"""Compute the teacher's answers to rows once: those of the frozen LM behind the text, mixed with the right answers.

Letters: N tokens, T scored tokens, K likeliest tokens kept of a teacher, P positions, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from memvec.lm.frozen import FrozenLM
from memvec.lm.head import TeacherPass, teacher_pass
from memvec.lm.scoring import Prefixes, Row, rows_that_fit, run_prefixes, run_rows, targets, together

LIKELIEST = 32  # tokens kept of each answer; all others are one bucket


@dataclass(frozen=True, slots=True)
class Lesson:
    """Rows that a step may ask, and the teacher's answer to each."""

    rows: list[Row]
    answers: list[TeacherPass]
    weights: list[list[float]]  # of each scored token in the loss


@dataclass(frozen=True, slots=True)
class LossMix:
    """The share of the right answer in a target, beside the teacher's, and the weight of each token in the loss."""

    truth: float = 0.0  # share of the right token in the target [0..1]; 0 is the teacher alone
    first_truth: float | None = None  # the same for an answer's first token; None: as for the others
    weight: float = 1.0  # weight of an answer's tokens in the loss
    question_weight: float = 0.0  # weight of a question's tokens in the loss; with 0 they are not scored


PLAIN = LossMix()


def teach(lm: FrozenLM, prefix: Tensor, rows: Sequence[Row], mix: LossMix = PLAIN) -> Lesson:
    """Run the LM behind a prefix (P, D) over rows, and return its answers at the scored tokens.

    The tokens of questions are scored too if `mix` gives them a weight.
    """
    scored = _Scored.of(rows, mix)
    answers: list[TeacherPass] = []
    with torch.inference_mode():
        run = run_prefixes(lm, [prefix])
        for chunk in together(lm, len(prefix), scored.rows):
            answers += scored.answers(lm, run, [0] * len(chunk), len(answers))
    return Lesson(scored.rows, answers, scored.weights)


@torch.inference_mode()
def teach_each(
    lm: FrozenLM, prefixes: Sequence[Tensor], owner: Sequence[int], rows: Sequence[Row], mix: LossMix = PLAIN
) -> Lesson:
    """As `teach`, with each row behind the prefix (P, D) of its owner. Several prefixes are run at once."""
    scored = _Scored.of(rows, mix)
    longest = max((len(row.ids) for row in scored.rows), default=0)
    size = rows_that_fit(lm, max(map(len, prefixes)) + longest)
    answers: list[TeacherPass] = []
    while len(answers) < len(rows):
        owners = owner[len(answers) : len(answers) + size]
        own = sorted(set(owners))
        run = run_prefixes(lm, [prefixes[number] for number in own])
        answers += scored.answers(lm, run, [own.index(number) for number in owners], len(answers))
    return Lesson(scored.rows, answers, scored.weights)


@dataclass(frozen=True, slots=True)
class _Scored:
    """Rows with the tokens that a loss scores, their weights, and the share of the right answer in each target."""

    rows: list[Row]
    weights: list[list[float]]
    shares: list[list[float]]

    @classmethod
    def of(cls, rows: Sequence[Row], mix: LossMix) -> _Scored:
        """What `mix` scores of rows."""
        asked = [Row(row.ids, 1) for row in rows] if mix.question_weight else list(rows)
        before = [row.start - one.start for row, one in zip(rows, asked, strict=True)]  # scored tokens of the question
        first = mix.truth if mix.first_truth is None else mix.first_truth
        pairs = list(zip(before, rows, strict=True))
        return cls(
            asked,
            [[mix.question_weight] * count + [mix.weight] * row.scored for count, row in pairs],
            [[mix.truth] * count + [first] + [mix.truth] * (row.scored - 1) for count, row in pairs],
        )

    def answers(self, lm: FrozenLM, run: Prefixes, owner: Sequence[int], done: int) -> list[TeacherPass]:
        """The LM's answers to as many rows as there are owners, after the `done` ones, with the right answers mixed in."""
        chunk = slice(done, done + len(owner))
        some = self.rows[chunk]
        said = teacher_pass(run_rows(lm, run, owner, some), lm.head, LIKELIEST)
        share = torch.tensor([s for row in self.shares[chunk] for s in row], device=lm.device)
        if share.any():
            said = corrected(said, targets(lm, some), share)
        sizes = [row.scored for row in some]
        split = zip(torch.split(said.ids, sizes), torch.split(said.log_probs, sizes), strict=True)
        return [TeacherPass(ids.clone(), log_probs.clone()) for ids, log_probs in split]


def corrected(said: TeacherPass, right: Tensor, truth: Tensor) -> TeacherPass:
    """Mix a teacher's answers with the right tokens (T,), which get the shares `truth` (T,)."""
    truth = truth[:, None]
    ids, odds = said.ids.clone(), said.log_probs.exp() * (1 - truth)
    there = ids == right[:, None]
    missing = ~there.any(1) & (truth[:, 0] > 0)
    ids[missing, -1], odds[missing, -1] = right[missing], 0.0  # the probability of the replaced token goes to the rest
    odds += truth * (ids == right[:, None])
    return TeacherPass(ids, odds.clamp(min=1e-9).log())


def span_phases(tokens: int, span: int, stride: int) -> tuple[list[tuple[int, int]], list[list[int]]]:
    """((begin, end) of every span, the spans of each phase). Each phase covers N = `tokens` without overlap.

    With a `span` of 0 there are no spans.
    """
    if not span:
        return [], [[]]
    spans: list[tuple[int, int]] = []
    phases: list[list[int]] = []
    for phase in range(0, span, stride):
        cuts = range(phase - span, tokens, span)
        pieces = [(max(0, begin), min(begin + span, tokens)) for begin in cuts]
        pieces = [(begin, end) for begin, end in pieces if end - begin > 1]  # a span is asked for by its first token
        phases.append(list(range(len(spans), len(spans) + len(pieces))))
        spans += pieces
    return spans, phases
