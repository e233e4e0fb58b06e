"""Make rotary positions that a forward pass changes safe for threads, and independent of earlier passes.

Models of the rope types "dynamic" and "longrope" choose their frequencies by the length of what they read, and keep them
on the module. Another thread's pass would then be run with them.
"""

from __future__ import annotations

import types
from typing import Any

from memvec.guard import Lock

_one_at_a_time = Lock()


def isolate(model: Any) -> None:
    """Let each forward pass of `model` choose its rotary frequencies alone, from the model's own."""
    for module in model.modules():
        if any("dynamic" in kind or kind == "longrope" for kind in _types(module).values()):
            module.forward = types.MethodType(_forward, module)  # a bound method: a deep copy of the model has its own


def _forward(self: Any, *given: Any, **named: Any) -> Any:
    with _one_at_a_time():
        for prefix, kind in _types(self).items():
            if "dynamic" in kind:  # it grows with the longest text so far: begin again
                name = f"{prefix}inv_freq"
                setattr(self, name, getattr(self, f"{prefix}original_inv_freq").to(getattr(self, name).device))
                setattr(self, f"{prefix}max_seq_len_cached", self.original_max_seq_len)
        return type(self).forward(self, *given, **named)


def _types(module: Any) -> dict[str, str]:
    """The rope type of each kind of layer, by the prefix of its attributes."""
    kinds = getattr(module, "rope_type", None)
    if isinstance(kinds, dict):
        return {f"{layer}_": str(kind) for layer, kind in kinds.items()}
    return {} if kinds is None else {"": str(kinds)}
