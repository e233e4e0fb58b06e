"""`diff`: tell how far a model is from the one a store was packed with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from memvec.arguments import RUNNING, checked
from memvec.checkpoints.identify import identify_folder
from memvec.checkpoints.resolve import lasting_name, resolve
from memvec.guard import loading_alone
from memvec.identity.fingerprint import compared
from memvec.identity.runtime import Running, Runtime, runtime_of
from memvec.identity.verdict import OUTPUTS, Comparison, Verdict
from memvec.store.store import Store

if TYPE_CHECKING:
    from typing_extensions import Unpack


@checked(opening=RUNNING)
def diff(
    store: str | Path | Store | Runtime, model: str, *, probe: bool = True, **opening: Unpack[Running]
) -> Comparison:
    """Compare the model that packed a store with another one.

    Args:
        store: The store, or what `memvec.open` returns.
        model: The other model by name, folder, GGUF file or hub id.
        probe: Load the model and compare its answers, if only its weights differ and the store holds a numeric probe.
        **opening: As in `memvec.open`: device, watch.

    Returns:
        The verdict, and what differs.

    Raises:
        NotFoundError: There is no store or no such model.
        StoreDamagedError: The store is damaged.
        UnsupportedModelError: memvec cannot use the model.

    Example:
        >>> memvec.diff(store, model).verdict.value
        'identical'
    """
    runtime = runtime_of(store, **opening)
    stored, notify = runtime.identity, runtime.notify
    folder = resolve(model, notify)
    notify("fingerprinting the model")
    found = identify_folder(folder, source=lasting_name(model))
    made = compared(stored, found, folder)
    open_question = made.verdict in (Verdict.RELATIVE, Verdict.UNTOLD)
    if not (probe and open_question and all(part in stored.probe for part in OUTPUTS)):
        return made
    with loading_alone():
        import torch

        from memvec.identity.probe import probed
        from memvec.lm.device import pick_device
        from memvec.lm.load import load

    notify("loading the model")
    lm = load(folder, torch.float32, pick_device(runtime.device), runtime.notify)
    notify("asking the model")
    return compared(stored, probed(found, lm, stored.probe), folder)
