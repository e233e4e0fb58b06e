"""`estimate`: predict the records of a pack and its duration. It plans the pack and times one batch."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

from memvec.arguments import checked, instance, literal
from memvec.checkpoints.identify import identify_folder
from memvec.checkpoints.resolve import DEFAULT_MODEL, lasting_name, resolve
from memvec.decoding.greedy import certify, rows_at_once
from memvec.filesystem.sources import Gathered, Source, check_together
from memvec.formats import raw
from memvec.identity.fingerprint import check_identity
from memvec.identity.verdict import stored_identity
from memvec.lm.device import pick_device, pick_dtype
from memvec.lm.frozen import FrozenLM
from memvec.lm.load import in_float32, load
from memvec.packing.calibrate import Preset, profile_of, with_preset
from memvec.packing.outstanding import Outstanding
from memvec.packing.pack import gathered, removed
from memvec.packing.plan import lots, partial_content, plan, tasks
from memvec.packing.reuse import Held
from memvec.progress import USUAL_TOKEN_STEPS, Progress, Watch, enter, unwatched
from memvec.retrieval.embedders import DEFAULT, TABLE, check_embedder
from memvec.settings import PackSettings
from memvec.store.store import Store
from memvec.store.transaction import Transaction
from memvec.training.fit import MOST_SLOTS_GPU, FitEngine, Fitted, Task, shown_at
from memvec.training.layout import row_length
from memvec.training.static_batch import StaticBatch, even
from memvec.types import Identity

TIMED_STEPS = 5  # the first step and the search for starts warm the allocator up and are not counted
# Bytes of a store without its vectors. A record has its row, corrections and words. A store without records has its
# manifest, with a digest of each of the model's tensors.
RECORD_BYTES, STORE_BYTES, TENSOR_BYTES = 700, 5_000, 60


@dataclass(frozen=True, slots=True)
class Estimate:
    """The prediction of `estimate`. Records and vectors are counted before any refit."""

    documents: int
    unchanged: int  # of them, those that the store holds already
    records: int
    raw_records: int  # of them, those that will be raw in any case
    tokens: int  # to be fitted
    vectors: int  # to be fitted
    token_steps: int
    token_steps_per_second: float  # measured now, on a full batch, before anything is compiled
    seconds: float  # fitting and certifying
    store_bytes: int  # that would be added
    profiled: bool  # by a profile of this model; else by the costs of the default model
    skipped: int  # inputs that cannot be read
    reused: int = 0  # of the records, copies of a text that the store or this pack has in another place
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
    """Estimate what `pack` with these arguments would make and how long it would take. Nothing is written.

    The estimate is for exact records. It reads all documents, runs the model over them once, and times one batch.

    Args:
        sources: The files, folders and `Source`s to pack.
        store: The store's folder. It need not be there.
        model: A known name, a checkpoint folder, a GGUF file or a hub id.
        settings: Settings of exact records.
        preset: Take nats per vector and learning rate from the model's profile, instead of from `settings`.
        keys: The embedders whose keys would be stored.
        include: Patterns as in .gitignore. Only files that match are packed.
        exclude: Patterns. Files that match are left out.
        reuse: Copy records of the same text from the store.
        device: The torch device. Default: CUDA if there is one.
        dtype: The dtype that vectors are fitted in. Default: bfloat16 if the processor has it.
        watch: A function that is called with the progress.

    Returns:
        Records, vectors, time and bytes.

    Raises:
        UsageError: An argument is invalid, or there is nothing to pack.
        NotFoundError: A source or the model does not exist.
        FingerprintError: The store belongs to another model.
        PartialError: Every input was skipped.

    Example:
        >>> found = memvec.estimate(text_folder, tmp / "letters.memvec", model=model)
        >>> found.documents, found.unchanged
        (2, 0)
    """
    for name in keys:
        check_embedder(name)
    progress = Progress()
    documents = gathered(sources, include, exclude, Path(store))
    device = pick_device(device)
    kind = pick_dtype(dtype, device)
    folder = resolve(model, lambda message: enter(message, progress, watch))
    identity = identify_folder(folder, source=lasting_name(model))
    found = identity.fingerprint
    settings = with_preset(settings or PackSettings(), preset, found.id, model)
    opened = _opened(Path(store), documents, identity, folder)
    enter("measuring surprisal and cutting segments", progress, watch)
    fast = load(folder, kind, device)
    outstanding = Outstanding(documents, opened, "exact")
    counted = _count(outstanding, opened, fast, settings, reuse)
    profile = profile_of(found.id)
    per_token = profile.token_steps_at(settings.budget(fast.width)) if profile else USUAL_TOKEN_STEPS
    enter("timing a batch", progress, watch)
    exact = in_float32(fast, folder)
    engine = FitEngine(fast, replace(settings, max_steps=TIMED_STEPS, growth=0))  # whole texts, as most steps have
    speed, certifying = _speeds(engine, exact, counted.first[: engine.most])
    tokens, vectors = sum(n for n, _ in counted.sizes), sum(m for _, m in counted.sizes)
    token_steps = tokens * per_token
    if isinstance(engine.batch, StaticBatch):
        token_steps = _of_whole_rows(token_steps, counted.sizes, settings.grown)
    records = len(counted.sizes) + counted.raw_records + len(counted.copies)
    new = 0 if opened else STORE_BYTES + TENSOR_BYTES * len(identity.tensors)
    return Estimate(
        documents=len(documents.entries) - len(outstanding.documents.failed),
        unchanged=outstanding.unchanged,
        records=records,
        raw_records=counted.raw_records,
        tokens=tokens,
        vectors=vectors,
        token_steps=round(token_steps),
        token_steps_per_second=speed,
        seconds=(fast.fused.seconds(token_steps, speed) if speed else 0.0) + tokens * certifying,
        store_bytes=(vectors + sum(counted.copies) + records * (TABLE in keys)) * fast.width * 2
        + records * RECORD_BYTES
        + counted.raw_bytes
        + new,
        profiled=profile is not None,
        skipped=len(documents.skipped),
        reused=len(counted.copies),
        unmatched=documents.unmatched,
    )


def _opened(path: Path, documents: Gathered, identity: Identity, folder: Path) -> Store | None:
    """Open the store, if there is one, as a pack would: with the versions that it would restore."""
    if not Store.exists(path):
        return None
    opened = Transaction.open(path).store
    check_identity(stored_identity(opened.manifest), identity, folder)
    check_together([*opened.documents(), *documents.names])
    back = removed(opened, documents)  # this copy of the manifest is not written
    return Store(path, replace(opened.manifest, removed=tuple(v for v in opened.manifest.removed if v not in back)))


@dataclass
class _Counted:
    """Sums over the documents of a pack."""

    sizes: list[tuple[int, int]] = field(default_factory=list)  # (tokens, vectors) of each segment to be fitted
    first: list[Task] = field(default_factory=list)  # tasks of the first lots, to be timed
    copies: list[int] = field(default_factory=list)  # vectors of each record that is copied
    raw_records: int = 0
    raw_bytes: int = 0  # of raw records and copies


def _count(
    outstanding: Outstanding, store: Store | None, lm: FrozenLM, settings: PackSettings, reuse: bool
) -> _Counted:
    """Plan every lot and count. A segment with the text of an earlier lot counts as a copy."""
    counted = _Counted()
    held = Held(store) if store and reuse else None
    partial = partial_content(store) if store else {}
    vectors: dict[bytes, int] = {}  # by the text's sha256
    compress = raw.Compressor()
    for lot in lots(outstanding.lacking(outstanding.content)):
        made = plan(lot, partial, lm, settings, held)
        planned = list(tasks(made.waiting, lm.width, settings))
        if len(counted.first) < MOST_SLOTS_GPU:
            counted.first += planned
        for task in sorted(planned, key=lambda task: task.key):
            item = made.waiting[task.key]
            if item.digest not in vectors:
                vectors[item.digest] = task.vectors
                counted.sizes.append((len(task.ids), task.vectors))
            else:
                counted.copies.append(task.vectors)
            counted.copies += [task.vectors for _ in item.again]
        counted.copies += [len(each.record.vectors) for each in made.reused]
        counted.raw_bytes += sum(len(each.record.payload) for each in made.reused)
        for unfit in made.raw:
            for record in unfit.records(lm.width, compress):
                counted.raw_records += 1
                counted.raw_bytes += len(record.payload)
    return counted


def _speeds(engine: FitEngine, exact: FrozenLM, some: Sequence[Task]) -> tuple[float, float]:
    """(token-steps per second of a full batch, seconds to certify a token). (0, 0) if there is nothing to fit."""
    if not some:
        return 0.0, 0.0
    engine.add(some)
    ticks: list[tuple[float, int]] = []
    made: list[Fitted] = []
    for batch in engine.run(lambda token_steps: ticks.append((time.perf_counter(), token_steps))):
        made += batch
    graphs = isinstance(engine.batch, StaticBatch)  # the second step makes one
    apart = [(after[0] - before[0], after[1]) for before, after in pairwise(ticks[1 + graphs :])]
    speed = sum(steps for _, steps in apart) / max(1e-9, sum(seconds for seconds, _ in apart))
    lot = made[: rows_at_once(exact)]
    begun = time.perf_counter()
    certify(exact, [f.vectors for f in lot], [f.task.ids for f in lot], engine.settings.margin)
    return speed, (time.perf_counter() - begun) / sum(len(f.task.ids) for f in lot)


def _of_whole_rows(token_steps: float, sizes: Sequence[tuple[int, int]], grown: int) -> float:
    """Token-steps on a GPU, from the `token_steps` on a CPU. On a GPU every row is as long as the longest at every step."""
    lengths = [row_length(*size) for size in sizes]
    not_shown = sum(n - shown_at(n, age, grown) for n, _ in sizes for age in range(grown))
    return (token_steps + not_shown) * even(max(lengths, default=0)) * len(lengths) / max(1, sum(lengths))
