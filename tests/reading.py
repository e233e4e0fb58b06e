"""What a model says behind a text, and behind a memory of it. Tests of kv memories compare the two."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from families import CORPUS
from torch import Tensor

from memvec.kv.compact import compact
from memvec.kv.place import Placing
from memvec.kv.selection import Selection
from memvec.lm.frozen import FrozenLM
from memvec.lm.scoring import Prefixes, Row, run_rows


def tokens(lm: FrozenLM, many: int, seed: int = 0) -> list[int]:
    """Token ids of a made-up text."""
    chance = torch.Generator().manual_seed(seed)
    return torch.randint(1, lm.vocabulary, (many,), generator=chance).tolist()


def prose(lm: FrozenLM, many: int) -> list[int]:
    """Token ids of a text as the tiny LM knows them."""
    return lm.encode(CORPUS.read_text("utf-8")[5000 : 5000 + 8 * many])[:many]


@torch.inference_mode()
def behind_text(lm: FrozenLM, text: Sequence[int], question: Sequence[int]) -> Tensor:
    """Logits (T, V) of a question's tokens behind a text, in one plain pass."""
    logits: Tensor = lm.model(input_ids=torch.tensor([[*text, *question]], device=lm.device)).logits
    return logits[0, len(text) :].float()


def behind(lm: FrozenLM, prefixes: Prefixes, question: Sequence[int], row: int = 0) -> Tensor:
    """Logits (T, V) of a question's tokens behind one row of prefixes."""
    hidden = run_rows(lm, prefixes, [row], [Row((*question, 0), 1)])
    return (hidden @ lm.head.T).float()


def whole(lm: FrozenLM, texts: Sequence[Sequence[int]]) -> list[Selection]:
    """Memories of all rows of texts."""
    return compact(lm, texts, 1, "even")


def uneven(lm: FrozenLM, memories: Sequence[Selection], before: Sequence[Sequence[int]]) -> Prefixes:
    """The cache with fronts, even for memories that a plain cache could hold."""
    placing = Placing(lm.model, memories, before)
    rows = [torch.cat([getattr(memory, name) for memory in memories])[placing.order] for name in ("keys", "values")]
    return placing.prefixes(*rows)


def off(found: Tensor, wanted: Tensor) -> float:
    """How far apart two tensors are, as a share of the second."""
    return float((found - wanted).norm() / wanted.norm())
