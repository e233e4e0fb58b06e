"""Find the active adapters of a loaded model, and the model below them. PEFT's classes are used only if PEFT is imported."""

from __future__ import annotations

import sys
from typing import Any

TUNERS, OTHERS = "peft.tuners.tuners_utils", "peft.utils.other"
WRAPPERS = ("_orig_mod", "module")  # the only child of torch.compile's, DataParallel's and DeepSpeed's wrappers


def unwrapped(model: Any) -> Any:
    """The model inside wrappers of torch, DeepSpeed and PEFT."""
    while (inner := _inside(model)) is not None:
        model = inner
    return model


def active_adapters(model: Any) -> list[str]:
    """Describe every active adapter of a model: its name, its kind, and whether it is merged.

    Adapters that are switched off (`disable_adapter`, `disable_adapters`) are left out.
    """
    found: dict[str, None] = {}
    layer: Any = model
    kinds: dict[str, str] = {}
    while layer is not None:
        kinds |= _kinds(layer)
        if _is(layer, "peft", "PeftModel") and _in_front(layer):
            found[f"{layer.active_adapter!r} ({kinds.get(layer.active_adapter, 'prompt')})"] = None
        layer = _inside(layer)
    every = modules(unwrapped(model)) if TUNERS in sys.modules else ()
    adapted = {kind for kind in set(map(type, every)) if issubclass(kind, _classes())}
    for module in every:
        if type(module) not in adapted:
            continue
        there = _available(module)
        for name in module.merged_adapters:
            found[f"{name!r} ({kinds.get(name, 'adapter')}, merged into the weights)"] = None
        if not module.disable_adapters:
            for name in module.active_adapters:
                if name in there and name not in module.merged_adapters:
                    found[f"{name!r} ({kinds.get(name, 'adapter')})"] = None
    return list(found)


def is_adapted(module: Any) -> bool:
    """Did PEFT put this layer in the place of another?"""
    return isinstance(module, _classes())


def replaced(module: Any) -> bool:
    """Does this wrapper hold a module and a trained copy of it?"""
    return _is(module, OTHERS, "AuxiliaryTrainingWrapper")


def modules(model: Any) -> list[Any]:
    """Every module of a model. Faster than `model.modules()`, because every check calls it."""
    found = {id(model): model}
    left = [model]
    while left:
        for module in left.pop().__dict__["_modules"].values():
            if module is not None and id(module) not in found:
                found[id(module)] = module
                left.append(module)
    return list(found.values())


def _inside(model: Any) -> Any:
    """The model inside a wrapper. None if `model` is not a wrapper."""
    if _is(model, "peft", "PeftModel") or _is(model, "peft", "PeftMixedModel"):
        return model.base_model
    if _is(model, TUNERS, "BaseTuner"):
        return model.model
    children = model.__dict__.get("_modules", {})
    return next((children[name] for name in WRAPPERS if list(children) == [name]), None)


def _in_front(model: Any) -> bool:
    """Does a PeftModel put a prompt, or keys and values, in front of its input now?"""
    config = model.peft_config[model.active_adapter]
    return bool(config.is_prompt_learning or config.is_adaption_prompt) and not model._adapters_disabled


def _kinds(model: Any) -> dict[str, str]:
    """PEFT's name for the kind of each adapter, by the adapter's name."""
    configs = getattr(model, "peft_config", None)
    named = configs.items() if isinstance(configs, dict) else ()
    return {name: str(getattr(config.peft_type, "value", config.peft_type)) for name, config in named}


def _available(module: Any) -> set[str]:
    return set(module._adapters) if replaced(module) else set(module._get_available_adapters())


def _classes() -> tuple[type, ...]:
    """PEFT's classes of layers that take the place of others, as far as they are imported."""
    named = ((TUNERS, "BaseTunerLayer"), (OTHERS, "AuxiliaryTrainingWrapper"))
    found = (getattr(sys.modules.get(module), name, None) for module, name in named)
    return tuple(kind for kind in found if kind is not None)


def _is(value: Any, module: str, name: str) -> bool:
    """Is `value` an instance of a class by name? Never, if the class's module is not imported."""
    kind = getattr(sys.modules.get(module), name, None)
    return kind is not None and isinstance(value, kind)
