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
from memvec.lm.scoring import Row, run_prefixes, run_rows, targets, together

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
    answers: list[TeacherPass] = []
    asked = [Row(row.ids, 1) for row in rows] if mix.question_weight else list(rows)
    before = [row.start - one.start for row, one in zip(rows, asked, strict=True)]  # scored tokens of the question
    weights = [
        [mix.question_weight] * count + [mix.weight] * row.scored for count, row in zip(before, rows, strict=True)
    ]
    shares = [
        [mix.truth] * count + [first] + [mix.truth] * (row.scored - 1)
        for count, row in zip(before, rows, strict=True)
        for first in [mix.truth if mix.first_truth is None else mix.first_truth]
    ]
    with torch.inference_mode():
        run = run_prefixes(lm, [prefix])
        done = 0
        for chunk in together(lm, len(prefix), asked):
            said = teacher_pass(run_rows(lm, run, [0] * len(chunk), chunk), lm.head, LIKELIEST)
            share = torch.tensor([s for row in shares[done : done + len(chunk)] for s in row], device=lm.device)
            done += len(chunk)
            if share.any():
                said = corrected(said, targets(lm, chunk), share)
            sizes = [row.scored for row in chunk]
            split = zip(torch.split(said.ids, sizes), torch.split(said.log_probs, sizes), strict=True)
            answers += [TeacherPass(ids.clone(), log_probs.clone()) for ids, log_probs in split]
    return Lesson(asked, answers, weights)


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
