"""Greedy generation: by whole forward passes, and by transformers."""

from __future__ import annotations

from typing import Any

import torch

from memvec.memory.memory import Memory
from memvec.memory.prompt import tensor


def reference(model: Any, before: Any, memory: Memory | None, after: Any, new: int = 8) -> list[int]:
    """Greedy tokens by whole forward passes of one row: no cache, no mask, no padding, no generate()."""
    look = model.get_input_embeddings()
    middle = [] if memory is None else [tensor(memory)]
    pieces = [
        look(torch.tensor(list(before), dtype=torch.long)),
        *middle,
        look(torch.tensor(list(after), dtype=torch.long)),
    ]
    row = torch.cat(pieces)[None]
    out = []
    with torch.inference_mode():
        for _ in range(new):
            token = model(inputs_embeds=row).logits[0, -1].argmax()
            out.append(int(token))
            row = torch.cat([row, look(token)[None, None]], dim=1)
    return out


def greedy(model: Any, kwargs: dict[str, Any], new: int = 8, **options: Any) -> list[list[int]]:
    kwargs = {"eos_token_id": None, "do_sample": False, "max_new_tokens": new, **kwargs, **options}
    out = model.generate(**kwargs)
    return [row[kwargs["input_ids"].shape[1] :].tolist() for row in out]
