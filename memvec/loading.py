"""The model a store was packed with, found and checked before it is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from memvec.model_cache import Notify, resolve, silent
from memvec.named_models import folder_named
from memvec.types import Fingerprint, Identity
from memvec.verdicts import Verdict, compare

if TYPE_CHECKING:
    from memvec.lm import FrozenLM


def load_lm(
    expected: Fingerprint | Identity,
    model: str | None = None,
    device: str | None = None,
    notify: Notify = silent,
    allow: Verdict = Verdict.IDENTICAL,
) -> FrozenLM:
    """The model of a fingerprint in float32, the numerics stores are certified in. NotFoundError, FingerprintError.

    `model` is by default the one that the fingerprint names. With another `allow` a model of that verdict is given too.
    """
    import torch

    from memvec.lm import FrozenLM, pick_device

    chosen, known = pick_device(device), _known(expected)
    if allow is Verdict.IDENTICAL:
        folder = find_model(known, model, notify)
        notify("loading the model")
        return FrozenLM(folder, torch.float32, chosen)
    from memvec.identity import identify_folder
    from memvec.probing import probed

    name = model or known.fingerprint.source
    folder = resolve(model, notify) if model else folder_named(name, notify)
    notify("loading the model")
    lm = FrozenLM(folder, torch.float32, chosen)
    made = compare(known, probed(identify_folder(folder, name), lm, known.probe))
    if not made.verdict.within(allow):
        raise made.error()
    return lm


def find_model(expected: Fingerprint | Identity, model: str | None = None, notify: Notify = silent) -> Path:
    """The checkpoint folder of a fingerprint, compared with it. NotFoundError, FingerprintError."""
    from memvec.identity import check_identity, identify_folder

    known = _known(expected)
    name = model or known.fingerprint.source
    folder = resolve(model, notify) if model else folder_named(name, notify)
    notify("fingerprinting the model")
    check_identity(known, identify_folder(folder, source=name), folder)
    return folder


def _known(expected: Fingerprint | Identity) -> Identity:
    return expected if isinstance(expected, Identity) else Identity(expected)
