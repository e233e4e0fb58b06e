"""What stands around a transformers model: PEFT, torch.compile, DataParallel, accelerate's offload."""

from __future__ import annotations

from typing import Any

import torch

from memvec.errors import UsageError


def unwrapped(model: Any) -> Any:
    """Return the transformers model inside wrappers; `model` itself where there is none."""
    while True:
        parts = vars(model).get("_modules", {})
        if "_orig_mod" in parts:  # torch.compile
            model = parts["_orig_mod"]
        elif isinstance(model, torch.nn.parallel.DataParallel | torch.nn.parallel.DistributedDataParallel):
            model = model.module
        elif type(model).__module__.startswith("peft.") and hasattr(model, "get_base_model"):
            model = model.get_base_model()
        else:
            return model


def device_of(module: Any) -> torch.device:
    """Return the device on which a module with a weight takes its input, also where its weight is offloaded.

    Raises:
        UsageError: The weight is on the meta device and nothing will load it.
    """
    device: torch.device = module.weight.device
    if device.type != "meta":
        return device
    execution = getattr(getattr(module, "_hf_hook", None), "execution_device", None)  # accelerate's, loads it when run
    if execution is None:
        raise UsageError(
            "the model's input embeddings are on the meta device, so it holds no weights. Load the checkpoint first."
        )
    return torch.device(execution)
