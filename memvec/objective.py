"""What a fit minimises and measures, as pure tensor functions. Letters: T positions, D width, V vocabulary."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

LOGITS_AT_ONCE = 1 << 24  # elements of one chunk of logits; bounds memory whatever the batch


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
    size = max(16, LOGITS_AT_ONCE // len(head))
    for begin in range(0, len(targets), size):
        rows = slice(begin, begin + size)
        target = targets[rows, None]
        logits = (hidden[rows] @ head.T).float()  # (t, V)
        own = logits.gather(1, target)
        margin[rows] = (own - logits.scatter(1, target, -torch.inf).amax(1, keepdim=True))[:, 0]
        log_sum = logits.logsumexp(1, keepdim=True)
        nats[rows] = (log_sum - own)[:, 0]
        if gradient:
            weights = (logits - log_sum).exp_()  # softmax
            weights.scatter_add_(1, target, -torch.ones_like(own))
            grad[rows] = weights.to(head.dtype) @ head
    return HeadPass(nats, margin, grad)
