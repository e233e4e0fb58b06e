"""`estimate`: predict the records of a pack and its duration. It plans the pack, and times one batch or a few memories."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Literal

from memvec.arguments import checked, instance, literal
from memvec.checkpoints.identify import identify_folder
from memvec.checkpoints.resolve import DEFAULT_MODEL, lasting_name, resolve
from memvec.corpora.choose import Sources, gathered
from memvec.corpora.documents import Documents
from memvec.decoding.greedy import certify, rows_at_once
from memvec.formats import raw
from memvec.identity.fingerprint import check_identity
from memvec.identity.verdict import stored_identity
from memvec.lm.device import pick_device, pick_dtype, resident_bytes
from memvec.lm.frozen import FrozenLM
from memvec.lm.load import in_float32, load
from memvec.lm.widen import layer_bytes, weights_bytes
from memvec.packing.calibrate import Preset, profile_of, with_preset, with_profile
from memvec.packing.commit import Committer
from memvec.packing.context import ContextRecords
from memvec.packing.kv import KVRecords
from memvec.packing.memories import MemoryRecords, MemoryWork
from memvec.packing.outstanding import Outstanding
from memvec.packing.pack import first_manifest, listed, removed
from memvec.packing.plan import lots, partial_content, plan, tasks
from memvec.packing.reuse import Held
from memvec.progress import USUAL_TOKEN_STEPS, Progress, Watch, enter, unwatched
from memvec.retrieval.embedders import DEFAULT, TABLE, check_embedder
from memvec.settings import ContextSettings, CorpusSettings, KVSettings, PackSettings
from memvec.store import catalogue
from memvec.store.documents import Known
from memvec.store.store import Store
from memvec.store.transaction import Transaction
from memvec.training.fit import MOST_SLOTS_GPU, FitEngine, Fitted, Task, bytes_of_position, shown_at
from memvec.training.layout import row_length
from memvec.training.static_batch import StaticBatch, even
from memvec.types import Identity, Kind

EstimateKind = Literal["exact", "context", "kv"]

TIMED_STEPS = 5  # the first step and the search for starts warm the allocator up and are not counted
# Bytes of a store without its vectors. A record has its row, corrections and words. A store without records has its
# manifest, with a digest of each of the model's tensors.
RECORD_BYTES, STORE_BYTES, TENSOR_BYTES = 700, 5_000, 60


@dataclass(frozen=True, slots=True)
class Estimate:
    """The prediction of `estimate`. Exact records and their vectors are counted before any refit."""

    documents: int = 0
    unchanged: int = 0  # of them, those that the store holds already
    records: int = 0
    raw_records: int = 0  # of them, those that will be raw in any case
    tokens: int = 0  # to be fitted, or to be read for memories
    vectors: int = 0  # to be fitted
    token_steps: int = 0  # 0 for kv memories that are not refined
    token_steps_per_second: float = 0.0  # measured now, before anything is compiled
    seconds: float = 0.0  # fitting and certifying, or making and measuring memories
    store_bytes: int = 0  # that would be added
    profiled: bool = False  # by a profile of this model; else by the costs of the default model, or by a trial
    skipped: int = 0  # inputs that cannot be read, or have no text for a memory
    reused: int = 0  # of the records, copies of a text that the store or this pack has in another place
    unmatched: tuple[str, ...] = ()  # patterns of `include` and `exclude` that matched no file and no folder
    kind: EstimateKind = "exact"
    positions: int = 0  # that memories take in front of prompts
    memory_bytes: int = 0  # of the vectors, or keys and values, of memories as stored
    text_bytes: int = 0  # of their text
    cache_bytes: int = 0  # of all keys and values of their text, in 16 bits
    # About the most memory that exact records take: program, weights and activations. On a GPU, its own without the program.
    peak_bytes: int = 0


@checked(
    kind=literal(EstimateKind),
    settings=instance(PackSettings),
    preset=literal(Preset),
    context=instance(ContextSettings),
    kv=instance(KVSettings),
    corpus=instance(CorpusSettings),
)
def estimate(
    sources: Sources,
    store: str | Path,
    *,
    model: str = DEFAULT_MODEL,
    kind: EstimateKind = "exact",
    settings: PackSettings | None = None,
    preset: Preset | None = None,
    context: ContextSettings | None = None,
    kv: KVSettings | None = None,
    corpus: CorpusSettings | None = None,
    keys: str | Sequence[str] = DEFAULT,
    include: str | Sequence[str] = (),
    exclude: str | Sequence[str] = (),
    reuse: bool = True,
    trial: bool = True,
    device: str | None = None,
    dtype: str | None = None,
    watch: Watch = unwatched,
) -> Estimate:
    """Estimate what `pack` with these arguments would make and how long it would take. Nothing is written to the store.

    It reads all documents. For exact records it runs the model over them once, and times one batch. For memories it makes a
    few of them, context vectors with fewer steps. The bytes and positions of memories are those that a pack gives.

    Args:
        sources: The files, folders, corpora and `Source`s to pack.
        store: The store's folder. It need not be there.
        model: A known name, a checkpoint folder, a GGUF file or a hub id.
        kind: The kind of records, as for `pack`. Estimate "exact" and "context" in turn for a pack of both.
        settings: Settings of exact records.
        preset: Take nats per vector and learning rate from the model's profile, instead of from `settings`.
        context: Settings of context memories.
        kv: Settings of kv memories.
        corpus: How rows of JSON lines, Parquet files and datasets become documents.
        keys: The embedders whose keys would be stored.
        include: Patterns as in .gitignore. Only files that match are packed.
        exclude: Patterns. Files that match are left out.
        reuse: Copy records of the same text from the store.
        trial: Estimate with the model's profile, if it has one. No trial is made.
        device: The torch device. Default: CUDA if there is one. "auto" also offloads layers that do not fit.
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
    documents = gathered(sources, include, exclude, Path(store), corpus or CorpusSettings())
    device = pick_device(device)
    fit_dtype = pick_dtype(dtype, device)
    folder = resolve(model, lambda message: enter(message, progress, watch))
    identity = identify_folder(folder, source=lasting_name(model))
    settings = with_preset(settings or PackSettings(), preset, identity.fingerprint.id, model)
    settings = with_profile(settings, identity.fingerprint.id) if trial else settings
    listed(documents, Path(store), (), progress, watch)
    opened = _opened(Path(store), documents, identity, folder)
    enter("planning memories" if kind != "exact" else "measuring surprisal and cutting segments", progress, watch)
    lm = load(folder, fit_dtype, device, lambda stage: enter(stage, progress, watch))
    outstanding = Outstanding(documents, catalogue.known(opened) if opened else Known(), kind)
    if kind == "exact":
        now = weights_bytes(lm) - layer_bytes(lm)  # no layer runs
        program = max(0, resident_bytes() - now) + (TABLE in keys) * lm.vocabulary * lm.width * 2
        made = _of_exact(outstanding, opened, lm, settings, reuse, identity, folder, progress, watch)
        made = replace(made, peak_bytes=made.peak_bytes + (program if lm.device.type == "cpu" else 0))
    else:
        state = opened or Store(Path(store), first_manifest(identity))  # this manifest is not written
        work = MemoryWork(outstanding, Committer(Transaction(state)), _Loaded(lm, lm), (), None, reuse, progress, watch)
        made = _of_memories(
            KVRecords(work, kv or KVSettings(), identity.fingerprint.id)
            if kind == "kv"
            else ContextRecords(work, context or ContextSettings())
        )
    around = made.records * (RECORD_BYTES + (TABLE in keys) * lm.width * 2)
    new = 0 if opened else STORE_BYTES + TENSOR_BYTES * len(identity.tensors)
    return replace(
        made,
        documents=documents.count - len(documents.failed) - made.skipped,
        unchanged=outstanding.unchanged,
        store_bytes=made.store_bytes + around + new,
        skipped=len(documents.skipped) + made.skipped,
        unmatched=documents.unmatched,
        kind=kind,
    )


def _of_exact(
    outstanding: Outstanding,
    opened: Store | None,
    fast: FrozenLM,
    settings: PackSettings,
    reuse: bool,
    identity: Identity,
    folder: Path,
    progress: Progress,
    watch: Watch,
) -> Estimate:
    """The estimate of exact records, with the bytes of their content alone."""
    counted = _count(outstanding, opened, fast, settings, reuse)
    profile = profile_of(identity.fingerprint.id)
    per_token = profile.token_steps_at(settings.budget(fast.width)) if profile else USUAL_TOKEN_STEPS
    enter("timing a batch", progress, watch)
    exact = in_float32(fast, folder)
    engine = FitEngine(fast, replace(settings, max_steps=TIMED_STEPS, growth=0))  # whole texts, as most steps have
    speed, certifying = _speeds(engine, exact, counted.first[: engine.most])
    tokens, vectors = sum(n for n, _ in counted.sizes), sum(m for _, m in counted.sizes)
    token_steps = tokens * per_token
    longest = sorted((row_length(*size) for size in counted.sizes), reverse=True)[: engine.most]
    at_once = max(min(engine.positions, sum(longest)), *longest[:1], 0)  # one row runs even if it takes more
    if isinstance(engine.batch, StaticBatch):
        token_steps = _of_whole_rows(token_steps, counted.sizes, settings.grown)
    return Estimate(
        records=len(counted.sizes) + counted.raw_records + len(counted.copies),
        raw_records=counted.raw_records,
        tokens=tokens,
        vectors=vectors,
        token_steps=round(token_steps),
        token_steps_per_second=speed,
        seconds=(fast.fused.seconds(token_steps, speed) if speed else 0.0) + tokens * certifying,
        store_bytes=(vectors + sum(counted.copies)) * fast.width * 2 + counted.raw_bytes,
        profiled=profile is not None,
        reused=len(counted.copies),
        peak_bytes=weights_bytes(fast, exact) + at_once * bytes_of_position(fast),
    )


def _of_memories(records: MemoryRecords) -> Estimate:
    """The estimate of memories, with the bytes of their numbers alone. Documents without text are `skipped`."""
    planned = records.planned()
    enter("timing a few memories", records.work.progress, records.work.watch)
    found = records.forecast(planned)
    made = planned.made
    return Estimate(
        records=len(made) + len(planned.copied),
        tokens=sum(made),
        vectors=found.positions if records.kind == Kind.CONTEXT else 0,
        token_steps=found.token_steps,
        token_steps_per_second=found.token_steps_per_second,
        seconds=found.seconds,
        store_bytes=found.memory_bytes,
        skipped=len(records.refused),
        reused=len(planned.copied),
        positions=found.positions,
        memory_bytes=found.memory_bytes,
        text_bytes=planned.text_bytes,
        cache_bytes=found.cache_bytes,
    )


@dataclass(frozen=True, slots=True)
class _Loaded:
    """A model that is loaded already."""

    fast: FrozenLM
    exact: FrozenLM


def _opened(path: Path, documents: Documents, identity: Identity, folder: Path) -> Store | None:
    """Open the store, if there is one, as a pack would: with the versions that it would restore."""
    if not Store.exists(path):
        return None
    opened = Transaction.open(path).store
    check_identity(stored_identity(opened.manifest), identity, folder)
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
