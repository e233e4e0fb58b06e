"""Load models, and change them in memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def load_model(folder: str, dtype: torch.dtype = torch.float32) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()


def moved(model: Any) -> Any:
    model.name_or_path = model.config._name_or_path = "moved/away"
    return model


def nudge(value: Tensor, by: float = 0.5) -> None:
    with torch.no_grad():
        value.view(-1)[: value.numel() * 3 // 4] += by
