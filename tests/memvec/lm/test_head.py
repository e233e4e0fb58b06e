"""The passes over the LM head: their numbers are those of autograd."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from memvec.lm.head import TeacherPass, distil_pass, head_pass, weigh


@pytest.mark.parametrize("weighed", [None, weigh])
@pytest.mark.parametrize("chunk", [1 << 8, 1 << 24])
def test_the_chunked_head_is_cross_entropy(monkeypatch: pytest.MonkeyPatch, chunk: int, weighed: Any) -> None:
    monkeypatch.setattr("memvec.lm.head.LOGITS_AT_ONCE", chunk)
    torch.manual_seed(0)
    hidden = torch.randn(150, 8, requires_grad=True)  # more than the smallest chunk
    head, targets = torch.randn(30, 8), torch.randint(30, (150,))
    logits = hidden @ head.T
    loss = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
    (expected,) = torch.autograd.grad(loss.sum(), hidden)
    passed = head_pass(hidden.detach(), head, targets, weigh=weighed)
    torch.testing.assert_close(passed.nats, loss.detach())
    torch.testing.assert_close(passed.gradient, expected)
    top = logits.topk(2).values
    right = logits.argmax(1) == targets
    torch.testing.assert_close(passed.margin[right], (top[:, 0] - top[:, 1])[right])
    assert (passed.margin[~right] <= 0).all()
    assert head_pass(hidden.detach(), head, targets, gradient=False).gradient.numel() == 0


def test_the_divergence_and_its_gradient_are_those_of_autograd(tiny_lm: Any) -> None:
    chance = torch.Generator().manual_seed(0)
    hidden = torch.randn(5, tiny_lm.width, generator=chance, requires_grad=True)
    teacher = torch.randn(5, tiny_lm.vocabulary, generator=chance).mul(3).log_softmax(1)
    best = teacher.topk(6)
    nats, gradient = distil_pass(hidden.detach(), tiny_lm.head, TeacherPass(best.indices, best.values))
    student = (hidden @ tiny_lm.head.T).log_softmax(1)
    q, p = best.values.exp(), student.gather(1, best.indices).exp()
    rest_q, rest_p = 1 - q.sum(1), 1 - p.sum(1)
    wanted = (q * (q / p).log()).sum(1) + rest_q * (rest_q / rest_p).log()
    torch.testing.assert_close(nats, wanted)
    torch.testing.assert_close(gradient, torch.autograd.grad(wanted.sum(), hidden)[0])
