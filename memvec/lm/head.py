"""Compute the losses of fitting and distilling, and margins, as pure tensor functions.

Letters: T positions, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from memvec.chunks import chunked, slices

LOGITS_AT_ONCE = 3 << 22  # about the most elements in one chunk of logits, which bounds the memory of any batch
LOGITS_AT_ONCE_GPU = 1 << 27
BLOCK = 64  # a chunk has a multiple of so many rows, at which matrix products are fast


@dataclass(frozen=True, slots=True)
class HeadPass:
    """Surprisal, margin and gradient at each position."""

    nats: Tensor  # (T,) float32 [nats]
    margin: Tensor  # (T,) float32 [logits]; negative where the argmax is wrong
    gradient: Tensor  # (T, D) of the summed nats by the hidden states, in their dtype; (0, D) if not asked for


class Weighed(NamedTuple):
    """Surprisal and margin of t rows of logits, and the weights of the head's rows in the gradient."""

    nats: Tensor  # (t, 1) float32
    margin: Tensor  # (t, 1) float32
    weights: Tensor  # (t, V): softmax, less 1 at the target, both times `total`
    total: Tensor  # (t, 1) float32


# A function of logits (t, V) in any dtype, which may be overwritten, and of targets (t, 1).
Weigh = Callable[[Tensor, Tensor], Weighed]


@torch.no_grad()
def head_pass(
    hidden: Tensor, head: Tensor, targets: Tensor, gradient: bool = True, weigh: Weigh | None = None
) -> HeadPass:
    """Run the LM head over hidden states (T, D) and targets (T,) in chunks, never holding (T, V) logits at once."""
    nats = hidden.new_empty(len(targets), dtype=torch.float32)
    margin = torch.empty_like(nats)
    grad = torch.empty_like(hidden if gradient else hidden[:0])
    for rows in slices(len(targets), chunk_rows(head)):
        found = (weigh or weigh_in_place)(hidden[rows] @ head.T, targets[rows, None])
        nats[rows], margin[rows] = found.nats[:, 0], found.margin[:, 0]
        if gradient:
            grad[rows] = ((found.weights.to(head.dtype) @ head) / found.total).to(grad.dtype)
    return HeadPass(nats, margin, grad)


def weigh_in_place(logits: Tensor, target: Tensor) -> Weighed:
    """`weigh` for a CPU, with as few passes over the logits as possible."""
    logits = logits.float()
    own = logits.gather(1, target)
    best = logits.scatter_(1, target, -torch.inf).amax(1, keepdim=True)  # of the others
    margin, shift = own - best, torch.maximum(own, best)
    likely, others = (own - shift).exp(), logits.sub_(shift).exp_()  # both in parts of their sum
    rest = others.sum(1, keepdim=True)
    total = rest + likely
    return Weighed(shift + total.log() - own, margin, others.scatter_(1, target, -rest), total)


def weigh(logits: Tensor, target: Tensor) -> Weighed:
    """`weigh_in_place` without writing in place, so that a compiler can fuse its passes."""
    raw = logits.float()
    own = raw.gather(1, target)
    is_target = torch.arange(logits.shape[1], device=logits.device)[None] == target
    best = torch.where(is_target, -torch.inf, raw).amax(1, keepdim=True)
    shift = torch.maximum(own, best)
    others = torch.where(is_target, 0.0, (raw - shift).exp())
    rest = others.sum(1, keepdim=True)
    total = rest + (own - shift).exp()
    weights = torch.where(is_target, -rest, others).to(logits.dtype)
    return Weighed(shift + total.log() - own, own - best, weights, total)


def chunk_rows(head: Tensor) -> int:
    """Rows of logits of a head (V, D) that are held at once."""
    most = LOGITS_AT_ONCE if head.device.type == "cpu" else LOGITS_AT_ONCE_GPU
    return max(1, most // len(head) // BLOCK) * BLOCK


@dataclass(frozen=True, slots=True)
class TeacherPass:
    """A teacher's answer at each position: its K likeliest tokens. All others are one bucket."""

    ids: Tensor  # (T, K)
    log_probs: Tensor  # (T, K) float32 [nats]


@torch.no_grad()
def teacher_pass(hidden: Tensor, head: Tensor, likeliest: int) -> TeacherPass:
    """The K = `likeliest` best tokens and their log-probabilities at hidden states (T, D)."""
    ids, values = [], []
    for part in chunked(hidden, chunk_rows(head)):
        best = (part @ head.T).float().log_softmax(1).topk(likeliest)
        ids.append(best.indices)
        values.append(best.values)
    return TeacherPass(torch.cat(ids), torch.cat(values))


@torch.no_grad()
def distil_pass(hidden: Tensor, head: Tensor, teacher: TeacherPass) -> tuple[Tensor, Tensor]:
    """KL from the teacher to the student at hidden states (T, D): (nats (T,), gradient of their sum (T, D)).

    It is taken over the teacher's K tokens and one bucket for all others: a lower bound of the full divergence.
    """
    nats = hidden.new_empty(len(hidden), dtype=torch.float32)
    grad = torch.empty_like(hidden)
    for rows in slices(len(hidden), chunk_rows(head)):
        log_q, ids = teacher.log_probs[rows], teacher.ids[rows]
        student = (hidden[rows] @ head.T).float().log_softmax(1)  # (t, V)
        log_p = student.gather(1, ids)
        q, p = log_q.exp(), log_p.exp()
        rest_q = (1 - q.sum(1, keepdim=True)).clamp(min=1e-6)
        rest_p = (1 - p.sum(1, keepdim=True)).clamp(min=1e-6)
        nats[rows] = (q * (log_q - log_p)).sum(1) + (rest_q * (rest_q.log() - rest_p.log()))[:, 0]
        # d KL / d logit is p - q for the K tokens, and p (1 - rest_q / rest_p) for each token in the bucket.
        weights = student.exp_().mul_(1 - rest_q / rest_p)
        weights.scatter_(1, ids, p - q)
        grad[rows] = weights.to(head.dtype) @ head
    return nats, grad
