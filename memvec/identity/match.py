"""Find the model that a store was packed with, compare it, and load it once for all callers.

`find_model` compares a checkpoint's files. `load_lm` also loads the model. Models stay loaded for later calls until `unload`.
"""

from __future__ import annotations

import gc
import sys
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memvec.arguments import checked
from memvec.causes import reading_checkpoint
from memvec.checkpoints import cache as identity_cache
from memvec.checkpoints.named import folder_named
from memvec.checkpoints.resolve import Notify, resolve, silent
from memvec.guard import Lock, loading_alone
from memvec.identity.verdict import Verdict, compare
from memvec.types import Fingerprint, Identity

if TYPE_CHECKING:
    import torch

    from memvec.lm.frozen import FrozenLM

MOST_MODELS = 2  # that stay loaded; the least recently used one is dropped first

_models: OrderedDict[tuple[Any, ...], FrozenLM] = OrderedDict()  # the newest use last
_models_lock = Lock()  # held for moments only; taken after `loading_alone`, never before it


def load_lm(
    expected: Fingerprint | Identity,
    model: str | None = None,
    device: str | None = None,
    notify: Notify = silent,
    allow: Verdict = Verdict.IDENTICAL,
) -> FrozenLM:
    """Find the model of a fingerprint, compare it and load it in float32, in which all stores are certified.

    Other callers share the model, so do not change it.

    Args:
        expected: The fingerprint or identity to compare the model with.
        model: The model by name, folder, GGUF file or hub id; by default the one that the fingerprint names.
        device: Torch device; by default CUDA where there is one.
        notify: Called with the name of each stage that takes long.
        allow: The farthest verdict that is accepted. Unless this is IDENTICAL, the model is loaded before it is compared.

    Raises:
        NotFoundError: The model is not here.
        FingerprintError: It is another one.
        OutOfMemoryError: It does not fit into memory.
    """
    known = Identity.of(expected)
    if allow is Verdict.IDENTICAL:
        return load_found(find_model(known, model, notify), known, device, notify)
    with loading_alone():  # the first import of torch
        import torch

        from memvec.lm.device import pick_device
    from memvec.checkpoints.identify import identify_folder
    from memvec.identity.probe import probed

    name = model or known.fingerprint.source
    folder = resolve(model, notify) if model else folder_named(name, notify)
    notify("loading the model")
    found = identify_folder(folder, name)
    lm = shared(folder, torch.float32, pick_device(device), found.fingerprint.id, notify)
    made = compare(known, probed(found, lm, known.probe))
    if not made.verdict.within(allow):
        raise made.error()
    return lm


def load_found(folder: Path, known: Identity, device: str | None = None, notify: Notify = silent) -> FrozenLM:
    """Load the model in a folder that `find_model` returned for `known`, as `load_lm` does. UsageError for the device."""
    with loading_alone():  # the first import of torch
        import torch

        from memvec.lm.device import pick_device
    chosen = pick_device(device)
    notify("loading the model")
    return shared(folder, torch.float32, chosen, known.fingerprint.id, notify)


def find_model(expected: Fingerprint | Identity, model: str | None = None, notify: Notify = silent) -> Path:
    """Find the checkpoint folder of a fingerprint and compare the two. NotFoundError, FingerprintError."""
    from memvec.checkpoints.identify import identify_folder
    from memvec.identity.fingerprint import check_identity

    known = Identity.of(expected)
    name = model or known.fingerprint.source
    folder = resolve(model, notify) if model else folder_named(name, notify)
    notify("fingerprinting the model")
    check_identity(known, identify_folder(folder, source=name), folder)
    return folder


def shared(folder: Path, dtype: torch.dtype, device: str, fingerprint: str, notify: Notify = silent) -> FrozenLM:
    """Load the model in `folder` once for all callers in the process. OutOfMemoryError, NotFoundError.

    `fingerprint` is the id of the files as they are now. If a file has changed since, the model is loaded again.
    """
    from memvec.lm.load import load

    where = str(folder.resolve())
    with reading_checkpoint(folder):
        stamp = identity_cache.stamp(folder)
    key = (where, fingerprint, repr(stamp), dtype, _device(device))
    if (found := _loaded(key)) is not None:
        return found
    with loading_alone():
        if (found := _loaded(key)) is not None:  # another thread loaded it in the meantime
            return found
        with _models_lock():
            for old in [known for known in _models if known[0] == where and known[:3] != key[:3]]:
                del _models[old]
            _trim(MOST_MODELS - 1)  # before loading, so that no more models are in memory at once
        lm = load(folder, dtype, device, notify)
        if identity_cache.stamp(folder) == stamp:  # else a file was replaced after it was compared
            with _models_lock():
                _models[key] = lm
        return lm


@checked()
def unload(keep: int = 0) -> int:
    """Free the memory of models that stay loaded between calls.

    The two models that were used last stay loaded. Running calls hold theirs, and so does a Runtime of `memvec.open`.

    Args:
        keep: How many models stay loaded.

    Returns:
        How many models were dropped.

    Raises:
        UsageError: `keep` is negative or no whole number.

    Example:
        >>> memvec.unload()
        >>> memvec.unload()
        0
    """
    with _models_lock():
        dropped = _trim(keep)
    if dropped:
        gc.collect()  # modules refer to each other
        torch = sys.modules["torch"]
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            torch.cuda.empty_cache()
    return dropped


def _loaded(key: tuple[Any, ...]) -> FrozenLM | None:
    with _models_lock():
        if key in _models:
            _models.move_to_end(key)
        return _models.get(key)


def _trim(most: int) -> int:
    """Drop all but the `most` models that were used last. Return how many were dropped."""
    dropped = max(0, len(_models) - most)
    for _ in range(dropped):
        _models.popitem(last=False)
    return dropped


def _device(name: str) -> str:
    """The name of a device with its number: "cuda" is the current GPU."""
    import torch

    from memvec.lm.device import AUTO

    if name == AUTO:
        return name
    device = torch.device(name)
    return f"cuda:{torch.cuda.current_device()}" if device.type == "cuda" and device.index is None else str(device)
