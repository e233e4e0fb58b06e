"""Lessons: the teacher's answers, mixed with right ones, and the spans that cover a text."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from memvec.lm.head import TeacherPass
from memvec.lm.scoring import Row
from memvec.training.lessons import LossMix, corrected, span_phases, teach

BEFORE = (0,)


@pytest.fixture
def ids(tiny_lm: Any) -> tuple[int, ...]:
    """Tokens of a text."""
    return tuple(
        tiny_lm.encode("Mr. Bennet was so odd a mixture of quick parts, sarcastic humour, reserve, and caprice.")
    )


def test_a_corrected_teacher_gives_the_right_token_its_share() -> None:
    said = TeacherPass(torch.tensor([[5, 7], [5, 7]]), torch.tensor([[0.6, 0.3], [0.6, 0.3]]).log())
    mixed = corrected(said, torch.tensor([7, 9]), torch.tensor([0.5, 0.5]))
    assert mixed.ids.tolist() == [[5, 7], [5, 9]]  # the last makes room for a token the teacher did not name
    torch.testing.assert_close(mixed.log_probs.exp(), torch.tensor([[0.3, 0.65], [0.3, 0.5]]))
    same = corrected(said, torch.tensor([7, 9]), torch.tensor([0.5, 0.0]))
    torch.testing.assert_close(same.log_probs.exp(), torch.tensor([[0.3, 0.65], [0.6, 0.3]]))


def test_a_loss_mix_gives_shares_and_weights(tiny_lm: Any, ids: tuple[int, ...]) -> None:
    row = Row(ids[:9], 5)
    before = tiny_lm.embed(torch.tensor(BEFORE))
    lesson = teach(tiny_lm, before, [row], LossMix(truth=1.0, first_truth=0.5, weight=2.0, question_weight=0.25))
    assert lesson.weights == [[0.25] * 4 + [2.0] * 4] and lesson.rows == [Row(row.ids, 1)]
    plain = teach(tiny_lm, before, [Row(row.ids, 1)]).answers[0]
    (answer,) = lesson.answers
    own = [float(answer.log_probs[place][answer.ids[place] == row.ids[place + 1]].exp()) for place in range(8)]
    was = [float(plain.log_probs[place][plain.ids[place] == row.ids[place + 1]].exp().sum()) for place in range(8)]
    assert own == pytest.approx([1.0] * 4 + [0.5 + was[4] / 2] + [1.0] * 3, abs=1e-4)


@pytest.mark.parametrize(("tokens", "span", "stride"), [(72, 16, 4), (10, 16, 4), (33, 8, 3), (2, 16, 16)])
def test_every_phase_covers_the_text_once(tokens: int, span: int, stride: int) -> None:
    spans, phases = span_phases(tokens, span, stride)
    for phase in phases:
        covered = [place for i in phase for place in range(*spans[i])]
        assert len(covered) == len(set(covered)) >= tokens - 2  # at most a single token at each end is left out
        assert all(1 < end - begin <= span for begin, end in (spans[i] for i in phase))


def test_a_teacher_with_all_tokens_named_says_what_the_lm_says(tiny_lm: Any, ids: tuple[int, ...]) -> None:
    row = Row(ids[:12], 1)
    said = teach(tiny_lm, tiny_lm.embed(torch.tensor(BEFORE)), [row])
    (answer,) = said.answers
    assert answer.ids.shape == (11, 32)
    with torch.inference_mode():
        logits = tiny_lm.model(input_ids=torch.tensor([[*BEFORE, *row.ids]])).logits[0, 1:-1].log_softmax(1)
    torch.testing.assert_close(answer.log_probs, logits.topk(32).values, atol=1e-4, rtol=1e-3)
