"""`diff`: how far a model is from the one a store was packed with."""

from __future__ import annotations

from pathlib import Path

from memvec.arguments import checked
from memvec.checkpoints.identify import identify_folder
from memvec.checkpoints.resolve import lasting_name, resolve
from memvec.guard import loading_alone
from memvec.identity.fingerprint import compared
from memvec.identity.verdict import OUTPUTS, Comparison, Verdict, stored_identity
from memvec.progress import Progress, Watch, enter, unwatched
from memvec.store.store import Store


@checked()
def diff(
    store: str | Path, model: str, *, probe: bool = True, device: str | None = None, watch: Watch = unwatched
) -> Comparison:
    """A store's model and `model`, compared. NotFoundError, StoreDamagedError, UnsupportedModelError.

    With `probe` the model is loaded where that can tell more: where nothing but its weights differ and the store knows
    what its own model said.
    """
    stored = stored_identity(Store.open(store).manifest)
    progress = Progress()
    folder = resolve(model, lambda message: enter(message, progress, watch))
    enter("fingerprinting the model", progress, watch)
    found = identify_folder(folder, source=lasting_name(model))
    made = compared(stored, found, folder)
    open_question = made.verdict in (Verdict.RELATIVE, Verdict.UNTOLD)
    if not (probe and open_question and all(part in stored.probe for part in OUTPUTS)):
        return made
    with loading_alone():
        import torch

        from memvec.identity.probe import probed
        from memvec.lm.frozen import FrozenLM, pick_device

    enter("loading the model", progress, watch)
    lm = FrozenLM(folder, torch.float32, pick_device(device))
    enter("asking the model", progress, watch)
    return compared(stored, probed(found, lm, stored.probe), folder)
