"""The model a store was packed with, found and checked before it is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from memvec.model_cache import Notify, resolve, silent
from memvec.types import Fingerprint

if TYPE_CHECKING:
    from memvec.lm import FrozenLM


def load_lm(
    expected: Fingerprint, model: str | None = None, device: str | None = None, notify: Notify = silent
) -> FrozenLM:
    """The model of a fingerprint in float32, the numerics stores are certified in. NotFoundError, FingerprintError.

    `model` is by default the one that the fingerprint names.
    """
    import torch

    from memvec.lm import FrozenLM, pick_device

    chosen = pick_device(device)
    folder = find_model(expected, model, notify)
    notify("loading the model")
    return FrozenLM(folder, torch.float32, chosen)


def find_model(expected: Fingerprint, model: str | None = None, notify: Notify = silent) -> Path:
    """The checkpoint folder of a fingerprint, compared with it. NotFoundError, FingerprintError."""
    from memvec.identity import check_fingerprint, fingerprint_folder

    name = model or expected.source
    # A store from a stranger may name any hub id: only one the user asks for is downloaded.
    folder = resolve(name, notify, model is not None)
    notify("fingerprinting the model")
    check_fingerprint(expected, fingerprint_folder(folder, source=name))
    return folder
