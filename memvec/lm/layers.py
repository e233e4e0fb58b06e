"""Run the decoder layers of a model whose weights, or whose activations, do not fit in memory.

Weights that do not fit are offloaded with accelerate: each is put on the device for the product that uses it, and dropped
behind it. Activations that do not fit are computed again for the backward pass, layer by layer. Offloaded layers need that
too, because stored activations would keep every weight on the device until the backward pass. No number changes by either.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import logging
import shutil
import sys
import tempfile
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop
from transformers.cache_utils import Cache

from memvec.guard import Held, Lock
from memvec.lm import compat

AWAY = RAM, DISK = "cpu", "disk"  # accelerate's names of the places for weights that are offloaded
WIDEST = 4  # bytes of a value in float32

_offloaded_alone = Lock()  # held while a layer has its weights on the device, because threads may share the model


def decoder_layers(model: Any) -> list[Any]:
    """The layers of a model: its first list of as many modules as its configuration says, or else its longest list."""
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    config = getattr(model, "config", None)
    count = getattr(config.get_text_config(), "num_hidden_layers", None) if config else None
    return list(next((found for found in lists if len(found) == count), max(lists, key=len, default=[])))


class Recomputed:
    """The forward pass of a layer. Its activations are not stored, but computed again for the backward pass."""

    def __init__(self, forward: Any, offloaded: bool) -> None:
        """Run `forward` in place of the layer's own. Of `offloaded` layers, one runs at a time."""
        self.forward, self.offloaded = forward, offloaded

    def __call__(self, *given: Any, **named: Any) -> Any:
        """Run the layer. A cache among the arguments grows in the first run only."""
        if not torch.is_grad_enabled():
            return self._run(*given, **named)
        caches = [value for value in (*given, *named.values()) if isinstance(value, Cache)]
        if not caches:
            return _checkpointed(self._run, *given, **named)
        before = {id(cache): compat.repeated(cache) for cache in caches}
        first = True

        def run(*given: Any, **named: Any) -> Any:
            nonlocal first
            if not first:  # this run sees the cache as it was, not with what the first run added
                given = tuple(_as_it_was(value, before) for value in given)
                named = {name: _as_it_was(value, before) for name, value in named.items()}
            first = False
            return self._run(*given, **named)

        return _checkpointed(run, *given, **named)

    def _run(self, *given: Any, **named: Any) -> Any:
        if not self.offloaded:
            return self.forward(*given, **named)
        with _offloaded_alone():
            try:
                return self.forward(*given, **named)
            finally:
                _give_back()


@functools.cache
def _malloc_trim() -> Callable[[int], Any]:
    """glibc's function that gives freed memory back to the system. It does nothing where there is none."""
    if sys.platform.startswith("linux"):
        with contextlib.suppress(OSError, AttributeError):  # musl and others
            return ctypes.CDLL("libc.so.6").malloc_trim
    return lambda _: None


def _give_back() -> None:
    """Give memory of weights that were dropped back to the system. glibc keeps it, and it was as much as all the weights."""
    _malloc_trim()(0)


def _as_it_was(value: Any, before: dict[int, Any]) -> Any:
    return compat.repeated(before[id(value)]) if id(value) in before else value


def _whole_layers() -> Any:
    setting = set_checkpoint_early_stop(False)
    setting.__enter__()
    return setting


# By default torch stops in the middle of a layer, as soon as it has all that it needs. Then accelerate would not get to
# drop the last weight. It is one setting of the process.
_never_early = Held(_whole_layers, lambda setting: setting.__exit__(None, None, None))


def _checkpointed(run: Any, *given: Any, **named: Any) -> Any:
    with _never_early.holding():
        return checkpoint(run, *given, use_reentrant=False, preserve_rng_state=False, **named)


def recompute(model: Any) -> None:
    """Compute the activations of the layers of a model again for its backward passes, from now on."""
    for layer in decoder_layers(model):
        offloaded = any(weight.is_meta for weight in layer.parameters())
        layer.forward = Recomputed(layer.forward, offloaded)


def recomputes(model: Any) -> bool:
    """Are the activations of this model's layers computed again for the backward pass?"""
    return any(isinstance(vars(layer).get("forward"), Recomputed) for layer in decoder_layers(model))


def offloads(model: Any) -> bool:
    """Are weights of this model put on its device only while they are used?"""
    return any(weight.is_meta for weight in model.parameters())


def hooks(model: Any) -> list[Any]:
    """What accelerate put around the modules of a model. Copies of the model may share it."""
    return [module._hf_hook for module in model.modules() if hasattr(module, "_hf_hook")]


def places(model: Any, device: str, room: int, memory: int) -> dict[str, str] | None:
    """Share the layers of a model out: accelerate's device map. None if `device` has room for the whole model.

    Everything but layers stays on the device, and as many layers as there is room for.

    Args:
        model: The model, without weights.
        device: The device that computes.
        room: Bytes for weights on it.
        memory: Bytes for weights in memory beside the device. What does not fit there is read from the disk.
    """
    layers = decoder_layers(model.base_model)
    sizes = [sum(weight.nbytes for weight in layer.parameters()) for layer in layers]
    whole = sum(weight.nbytes for weight in model.parameters())
    if whole <= room:
        return None
    running = WIDEST // next(model.parameters()).element_size() * max(sizes)  # a layer, while it runs
    left = {RAM: memory} | {device: room - (whole - sum(sizes)) - running}
    found = dict.fromkeys(_beside(model, {id(layer) for layer in layers}), device)
    names = {id(module): name for name, module in model.named_modules()}
    for layer, size in zip(layers, sizes, strict=True):
        place = next((place for place in (device, RAM) if left[place] >= size), DISK)
        if place != DISK:
            left[place] -= size
        found[names[id(layer)]] = place
    return found


def _beside(module: Any, layers: set[int], name: str = "") -> Iterator[str]:
    """The names of the largest modules, and of weights, that hold no layer and are in none."""
    if id(module) in layers:
        return
    if not layers & {id(inner) for inner in module.modules()}:
        yield name
        return
    front = f"{name}." if name else ""
    yield from (
        front + own for own, _ in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False))
    )
    for child, inner in module.named_children():
        yield from _beside(inner, layers, front + child)


def offloaded(read: Callable[[str], Any]) -> Any:
    """The model that `read` loads with a device map. It gets a folder for weights that cannot stay in the checkpoint's files.

    The folder is deleted at once if nothing is in it, else together with the model, or when the program ends.
    """
    folder = tempfile.mkdtemp(prefix="memvec-offload-")
    try:
        with _without_warning():
            model = read(folder)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    if any(Path(folder).iterdir()):  # copies of the model share its hooks, so the last copy deletes the folder
        weakref.finalize(hooks(model)[0], shutil.rmtree, folder, ignore_errors=True)
    else:
        shutil.rmtree(folder, ignore_errors=True)
    return model


@contextlib.contextmanager
def _without_warning() -> Iterator[None]:
    """Within: accelerate does not warn that it offloads weights. They were asked to be."""
    logger = logging.getLogger("accelerate.big_modeling")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
