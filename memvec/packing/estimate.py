"""`pack --dry-run`: what a pack would make and take, from the cuts it would make, the model's profile and one timed batch."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from memvec.arguments import checked, instance, literal
from memvec.checkpoints.identify import identify_folder
from memvec.checkpoints.resolve import DEFAULT_MODEL, lasting_name, resolve
from memvec.decoding.greedy import certify, rows_at_once
from memvec.filesystem.sources import Source
from memvec.identity.fingerprint import check_identity
from memvec.identity.verdict import stored_identity
from memvec.lm.device import pick_device, pick_dtype
from memvec.lm.frozen import FrozenLM
from memvec.lm.load import in_float32, load
from memvec.packing.calibrate import Preset, profile_of, with_preset
from memvec.packing.pack import gathered, outstanding
from memvec.packing.plan import Partial, plan, tasks
from memvec.packing.reuse import Held
from memvec.progress import USUAL_TOKEN_STEPS, Progress, Watch, enter, unwatched
from memvec.retrieval.embedders import DEFAULT, TABLE, check_embedder
from memvec.settings import PackSettings
from memvec.store.store import Store
from memvec.store.transaction import Transaction
from memvec.training.allocator import keeping_memory
from memvec.training.fit import FitEngine, Fitted, Task, shown_at
from memvec.training.layout import row_length
from memvec.training.static_batch import StaticBatch, even
from memvec.types import Identity

TIMED_STEPS = 5  # of which the first is left out, as the search for starts is: it warms the allocator up
# Of a store, vectors aside: for each record its row, corrections and words (its key of the width comes to it); for a
# store without records its manifest, in which each of the model's tensors has a digest.
RECORD_BYTES, STORE_BYTES, TENSOR_BYTES = 700, 5_000, 60


@dataclass(frozen=True, slots=True)
class Estimate:
    """What `pack` would do. Records and vectors are counted before any refit."""

    documents: int
    unchanged: int  # of them there already
    records: int
    raw_records: int  # of them known to be raw
    tokens: int  # to be fitted
    vectors: int  # the same
    token_steps: int
    token_steps_per_second: float  # measured now, on a full batch, before anything is compiled
    seconds: float  # fitting and certifying
    store_bytes: int  # what would be added
    profiled: bool  # from a profile of this model; else from what the default model takes
    skipped: int  # inputs that could not be read
    reused: int = 0  # of the records, copies of what the store or this pack has under another name or in another place
    unmatched: tuple[str, ...] = ()  # patterns of `include` and `exclude` that matched no file and no folder


@checked(settings=instance(PackSettings), preset=literal(Preset))
def estimate(
    sources: Sequence[str | Path | Source],
    store: str | Path,
    *,
    model: str = DEFAULT_MODEL,
    settings: PackSettings | None = None,
    preset: Preset | None = None,
    keys: str | Sequence[str] = DEFAULT,
    include: str | Sequence[str] = (),
    exclude: str | Sequence[str] = (),
    reuse: bool = True,
    device: str | None = None,
    dtype: str | None = None,
    watch: Watch = unwatched,
) -> Estimate:
    """What `pack` with these arguments would make and take, for exact records. Nothing is written.

    Raises what `pack` raises, but for a lock and for inputs that were skipped, which are counted.
    """
    for name in keys:
        check_embedder(name)
    progress = Progress()
    documents, skipped, unmatched = gathered(sources, include, exclude, Path(store))
    device = pick_device(device)
    kind = pick_dtype(dtype, device)
    folder = resolve(model, lambda message: enter(message, progress, watch))
    identity = identify_folder(folder, source=lasting_name(model))
    found = identity.fingerprint
    settings = with_preset(settings or PackSettings(), preset, found.id, model)
    fresh, partial, held = _outstanding(Path(store), documents, identity, folder)
    enter("measuring surprisal and cutting segments", progress, watch)
    fast = load(folder, kind, device)
    made = plan(fresh, partial, fast, settings, held if reuse else None)
    profile = profile_of(found.id)
    per_token = profile.token_steps_at(settings.budget(fast.width)) if profile else USUAL_TOKEN_STEPS
    enter("timing a batch", progress, watch)
    exact = in_float32(fast, folder)
    engine = FitEngine(fast, replace(settings, max_steps=TIMED_STEPS, growth=0))  # whole texts, as most steps have
    planned = list(tasks(made.waiting, fast.width, settings))
    with keeping_memory():
        speed, certifying = _speeds(engine, exact, planned[: engine.most])
    tokens, vectors = sum(len(task.ids) for task in planned), sum(task.vectors for task in planned)
    copies = [len(record.vectors) for record in made.reused]
    copies += [task.vectors for task in planned for _ in made.waiting[task.key].again]
    token_steps = tokens * per_token
    if isinstance(engine.batch, StaticBatch):
        token_steps = _of_whole_rows(token_steps, planned, settings.grown)
    records = len(planned) + len(made.raw) + len(copies)
    raw = sum(len(record.payload) for record in [*made.raw, *made.reused])
    new = 0 if Store.exists(Path(store)) else STORE_BYTES + TENSOR_BYTES * len(identity.tensors)
    return Estimate(
        documents=len(documents),
        unchanged=len(documents) - len(fresh),
        records=records,
        raw_records=len(made.raw),
        tokens=tokens,
        vectors=vectors,
        token_steps=round(token_steps),
        token_steps_per_second=speed,
        seconds=(fast.fused.seconds(token_steps, speed) if speed else 0.0) + tokens * certifying,
        store_bytes=(vectors + sum(copies) + records * (TABLE in keys)) * fast.width * 2
        + records * RECORD_BYTES
        + raw
        + new,
        profiled=profile is not None,
        skipped=len(skipped),
        reused=len(copies),
        unmatched=tuple(unmatched),
    )


def _outstanding(
    path: Path, documents: Sequence[Source], identity: Identity, folder: Path
) -> tuple[Sequence[Source], Partial, Held | None]:
    """(documents that a pack into `path` would work on, what of them is there already, what may be copied)."""
    if not Store.exists(path):
        return documents, {}, None
    state = Transaction.open(path).store.manifest
    check_identity(stored_identity(state), identity, folder)
    given = {(d.name, d.sha256) for d in documents}
    # A pack brings removed documents back when they are packed again. This copy of the manifest is not written.
    opened = Store(path, replace(state, removed=tuple(version for version in state.removed if version not in given)))
    partial = {(v.document.name, v.document.sha256): v for v in opened.versions() if not v.complete}
    return outstanding(opened, documents, "exact"), partial, Held(opened)


def _speeds(engine: FitEngine, exact: FrozenLM, some: Sequence[Task]) -> tuple[float, float]:
    """(token-steps a second of a full batch, seconds to certify a token); (0, 0) with nothing to fit."""
    if not some:
        return 0.0, 0.0
    engine.add(some)
    ticks: list[tuple[float, int]] = []
    made: list[Fitted] = []
    for batch in engine.run(lambda token_steps: ticks.append((time.perf_counter(), token_steps))):
        made += batch
    graphs = isinstance(engine.batch, StaticBatch)  # of which a second step makes one
    apart = [(after[0] - before[0], after[1]) for before, after in pairwise(ticks[1 + graphs :])]
    speed = sum(steps for _, steps in apart) / max(1e-9, sum(seconds for seconds, _ in apart))
    lot = made[: rows_at_once(exact)]
    begun = time.perf_counter()
    certify(exact, [f.vectors for f in lot], [f.task.ids for f in lot], engine.settings.margin)
    return speed, (time.perf_counter() - begun) / sum(len(f.task.ids) for f in lot)


def _of_whole_rows(token_steps: float, planned: Sequence[Task], grown: int) -> float:
    """Token-steps where a text has the longest's row from its first step on, of those where rows are as long as shown."""
    lengths = [row_length(len(task.ids), task.vectors) for task in planned]
    not_shown = sum(n - shown_at(n, age, grown) for n in (len(task.ids) for task in planned) for age in range(grown))
    return (token_steps + not_shown) * even(max(lengths, default=0)) * len(lengths) / max(1, sum(lengths))
