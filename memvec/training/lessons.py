"""What a teacher says to rows, computed once: the frozen LM behind the text, mixed with right answers where they are known.

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

LIKELIEST = 32  # tokens of a teacher kept by name; the rest is one bucket


@dataclass(frozen=True, slots=True)
class Lesson:
    """Rows to be asked and what the teacher says to each."""

    rows: list[Row]
    answers: list[TeacherPass]
    weights: list[list[float]]  # of each scored token in the loss


@dataclass(frozen=True, slots=True)
class Manner:
    """How rows are taught: shares of a row's own tokens in what the teacher says, and weights in the loss."""

    truth: float = 0.0  # [0..1]: 0 is the teacher alone, 1 the right answer alone
    first_truth: float | None = None  # the same of an answer's first token; None: as of the others
    weight: float = 1.0  # of the tokens of answers
    question_weight: float = 0.0  # of the tokens before them; 0: they are not scored


PLAIN = Manner()


def teach(lm: FrozenLM, prefix: Tensor, rows: Sequence[Row], manner: Manner = PLAIN) -> Lesson:
    """What the LM behind a prefix (P, D) says at the scored tokens of rows, and at those of the questions if they count."""
    answers: list[TeacherPass] = []
    asked = [Row(row.ids, 1) for row in rows] if manner.question_weight else list(rows)
    before = [row.start - one.start for row, one in zip(rows, asked, strict=True)]  # scored tokens of the question
    weights = [
        [manner.question_weight] * count + [manner.weight] * row.scored for count, row in zip(before, rows, strict=True)
    ]
    shares = [
        [manner.truth] * count + [first] + [manner.truth] * (row.scored - 1)
        for count, row in zip(before, rows, strict=True)
        for first in [manner.truth if manner.first_truth is None else manner.first_truth]
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
    """A teacher's answers mixed with the right tokens (T,), which take the shares `truth` (T,)."""
    truth = truth[:, None]
    ids, odds = said.ids.clone(), said.log_probs.exp() * (1 - truth)
    there = ids == right[:, None]
    missing = ~there.any(1) & (truth[:, 0] > 0)
    ids[missing, -1], odds[missing, -1] = right[missing], 0.0  # the mass of what it replaces falls to the rest
    odds += truth * (ids == right[:, None])
    return TeacherPass(ids, odds.clamp(min=1e-9).log())


def combs(tokens: int, span: int, stride: int) -> tuple[list[tuple[int, int]], list[list[int]]]:
    """((begin, end) of every span, the spans of each phase): each phase covers N = `tokens` without overlap.

    A `span` of 0 asks for none.
    """
    if not span:
        return [], [[]]
    spans: list[tuple[int, int]] = []
    phases: list[list[int]] = []
    for phase in range(0, span, stride):
        cuts = range(phase - span, tokens, span)
        pieces = [(max(0, begin), min(begin + span, tokens)) for begin in cuts]
        pieces = [(begin, end) for begin, end in pieces if end - begin > 1]  # one token alone asks nothing
        phases.append(list(range(len(spans), len(spans) + len(pieces))))
        spans += pieces
    return spans, phases
