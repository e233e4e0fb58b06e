"""What a fit minimises and measures, as pure tensor functions. Letters: T positions, D width, V vocabulary."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

LOGITS_AT_ONCE = 3 << 22  # elements of one chunk of logits, about; bounds memory whatever the batch
BLOCK = 64  # rows of a chunk come in multiples of this, which matrix products like


@dataclass(frozen=True, slots=True)
class HeadPass:
    """Per position: surprisal of the target, its logit's lead over the best other, and the gradient."""

    nats: Tensor  # (T,) float32 [nats]
    margin: Tensor  # (T,) float32 [logits]; negative where the argmax is wrong
    gradient: Tensor  # (T, D) of the summed nats by the hidden states, in their dtype; empty when not asked for


@torch.no_grad()
def head_pass(hidden: Tensor, head: Tensor, targets: Tensor, gradient: bool = True) -> HeadPass:
    """Run the LM head over hidden states (T, D) and targets (T,) in chunks, never holding (T, V) logits at once."""
    nats = hidden.new_empty(len(targets), dtype=torch.float32)
    margin = torch.empty_like(nats)
    grad = torch.empty_like(hidden if gradient else hidden[:0])
    size = chunk_rows(head)
    for begin in range(0, len(targets), size):
        rows = slice(begin, begin + size)
        target = targets[rows, None]
        logits = (hidden[rows] @ head.T).float()  # (t, V); from here on in place, as passes over it cost most
        own = logits.gather(1, target)
        best = logits.scatter_(1, target, -torch.inf).amax(1, keepdim=True)  # of the others
        margin[rows] = (own - best)[:, 0]
        shift = torch.maximum(own, best)
        likely, others = (own - shift).exp(), logits.sub_(shift).exp_()  # both in parts of their sum
        rest = others.sum(1, keepdim=True)
        total = rest + likely
        nats[rows] = (shift + total.log() - own)[:, 0]
        if gradient:
            weights = others.scatter_(1, target, -rest)  # softmax, less 1 at the target, times the sum
            grad[rows] = ((weights.to(head.dtype) @ head) / total).to(grad.dtype)
    return HeadPass(nats, margin, grad)


def chunk_rows(head: Tensor) -> int:
    """How many rows of logits of a head (V, D) are held at once."""
    return max(1, LOGITS_AT_ONCE // len(head) // BLOCK) * BLOCK


@dataclass(frozen=True, slots=True)
class TeacherPass:
    """What a teacher says at each position: its likeliest tokens; the rest is one bucket."""

    ids: Tensor  # (T, K)
    log_probs: Tensor  # (T, K) float32 [nats]


@torch.no_grad()
def teacher_pass(hidden: Tensor, head: Tensor, likeliest: int) -> TeacherPass:
    """The K = `likeliest` best tokens and their log-probabilities at hidden states (T, D)."""
    ids, values = [], []
    size = chunk_rows(head)
    for begin in range(0, len(hidden), size):
        best = (hidden[begin : begin + size] @ head.T).float().log_softmax(1).topk(likeliest)
        ids.append(best.indices)
        values.append(best.values)
    return TeacherPass(torch.cat(ids), torch.cat(values))


@torch.no_grad()
def distil_pass(hidden: Tensor, head: Tensor, teacher: TeacherPass) -> tuple[Tensor, Tensor]:
    """KL from the teacher to the student at hidden states (T, D): (nats (T,), gradient of their sum (T, D)).

    Over the teacher's K tokens and one bucket for all others, a lower bound of the whole divergence.
    """
    nats = hidden.new_empty(len(hidden), dtype=torch.float32)
    grad = torch.empty_like(hidden)
    size = chunk_rows(head)
    for begin in range(0, len(hidden), size):
        rows = slice(begin, begin + size)
        log_q, ids = teacher.log_probs[rows], teacher.ids[rows]
        student = (hidden[rows] @ head.T).float().log_softmax(1)  # (t, V)
        log_p = student.gather(1, ids)
        q, p = log_q.exp(), log_p.exp()
        rest_q = (1 - q.sum(1, keepdim=True)).clamp(min=1e-6)
        rest_p = (1 - p.sum(1, keepdim=True)).clamp(min=1e-6)
        nats[rows] = (q * (log_q - log_p)).sum(1) + (rest_q * (rest_q.log() - rest_p.log()))[:, 0]
        # d KL / d logit is p - q for the K tokens, and p (1 - rest_q / rest_p) for each in the bucket.
        weights = student.exp_().mul_(1 - rest_q / rest_p)
        weights.scatter_(1, ids, p - q)
        grad[rows] = weights.to(head.dtype) @ head
    return nats, grad
