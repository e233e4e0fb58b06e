"""`pack`: documents in, records out, into a store."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from memvec.arguments import checked, instance, literal, several
from memvec.checkpoints.identify import identify_folder
from memvec.checkpoints.named import folder_named
from memvec.checkpoints.resolve import DEFAULT_MODEL, KNOWN, lasting_name, resolve
from memvec.errors import InterruptedPackError, PartialError, UsageError
from memvec.evaluation.questions import Question
from memvec.filesystem.sources import Gathered, Source, check_given, check_together, gather
from memvec.formats.manifest import Manifest
from memvec.identity.fingerprint import check_identity
from memvec.identity.verdict import stored_identity
from memvec.interrupts import held_back
from memvec.lm.device import pick_device, pick_dtype
from memvec.packing.calibrate import Preset, with_preset
from memvec.packing.context import Generate
from memvec.packing.exact import PackKind, PackRun, Wanted
from memvec.progress import Progress, Watch, enter, unwatched
from memvec.retrieval.embedders import DEFAULT, check_embedder
from memvec.settings import ContextSettings, PackSettings
from memvec.store import catalogue
from memvec.store.lock import writing
from memvec.store.store import Store
from memvec.store.totals import summarise
from memvec.store.transaction import Transaction
from memvec.types import Identity, PackReport
from memvec.version import TOOL


@checked(
    kind=literal(PackKind),
    settings=instance(PackSettings),
    preset=literal(Preset),
    context=instance(ContextSettings),
    questions=several(instance(Question), "Questions"),
)
def pack(
    sources: str | Path | Source | Sequence[str | Path | Source],
    store: str | Path,
    *,
    model: str = DEFAULT_MODEL,
    kind: PackKind = "exact",
    settings: PackSettings | None = None,
    preset: Preset | None = None,
    context: ContextSettings | None = None,
    questions: Sequence[Question] = (),
    generate: Generate | None = None,
    keys: str | Sequence[str] = DEFAULT,
    meta: Mapping[str, str] | None = None,
    include: str | Sequence[str] = (),
    exclude: str | Sequence[str] = (),
    reuse: bool = True,
    device: str | None = None,
    dtype: str | None = None,
    lock_wait: float = 0.0,
    watch: Watch = unwatched,
) -> PackReport:
    """Pack files, folders and `Source`s into a store, which is made or added to.

    Documents already there with the same bytes are left as they are; changed ones replace the old when complete. A text
    that the store holds under another name is copied and not fitted again, whatever budget it was fitted with, if its
    record keeps to the margin, corrections and number of vectors that `settings` ask for.

    Args:
        sources: What to pack. A file is named by the last part of its path, what is in a folder relative to it.
        store: The store's folder.
        model: A known name, a checkpoint folder, a GGUF file or a hub id.
        kind: "exact" makes records that give the bytes back, each certified. "context" makes memories to condition
            the model with, each measured, from which nothing can be unpacked. "both" makes both.
        settings: Of exact records.
        preset: Take nats per vector and learning rate from the model's profile (see `calibrate`), over `settings`.
        context: Settings of memories.
        questions: What memories learn from beside the text itself.
        generate: Called with (text, count); returns (question, answer) pairs to learn from too.
        keys: The embedders whose keys are stored, for `search`. None makes a store that has to be indexed first.
        meta: Said of every document named, to filter by. It replaces what was said before; {} takes it away.
        include: Only files that these patterns take, by gitignore's rules (see `memvec.filesystem.names`).
        exclude: No files that these take, those named in `sources` neither. Excluded folders are not entered.
        reuse: Copy records of the same text from the store. False fits every new document anew.
        device: Torch device; by default CUDA where there is one.
        dtype: What vectors are fitted in; by default bfloat16 where the processor has it. Certifying is float32.
        lock_wait: How long to wait for another writer [s].
        watch: Called with the progress.

    Returns:
        What the documents take in the store now.

    Raises:
        UsageError: An argument is invalid, or there is nothing to pack.
        NotFoundError: A source or the model does not exist.
        FingerprintError: The store belongs to another model.
        StoreDamagedError, StoreLockedError, WriteError: The store cannot be used.
        PartialError: Inputs were skipped. Everything else is in the store.
        InterruptedPackError: Ctrl-C stopped the pack. What was finished is in the store.
    """
    begun = time.perf_counter()
    documents, skipped, unmatched = gathered(sources, include, exclude, Path(store))
    if strangers := sorted({q.document for q in questions} - {d.name for d in documents}):
        raise UsageError(f"a question is about {strangers[0]!r}, which is not among the documents. Check its name.")
    device = pick_device(device)
    for name in keys:
        check_embedder(name)
    fast = pick_dtype(dtype, device)
    progress = Progress(documents=len(documents))
    folder = resolve(model, lambda message: enter(message, progress, watch))
    with writing(store, lock_wait):
        enter("fingerprinting the model", progress, watch)
        found = identify_folder(folder, source=lasting_name(model))
        settings = with_preset(settings or PackSettings(), preset, found.fingerprint.id, model)
        transaction = _open_or_create(Path(store), found, folder)
        wanted = Wanted(kind, settings, context or ContextSettings(), questions, generate, keys, reuse)
        run = PackRun(transaction, wanted, progress, watch)
        fresh = outstanding(transaction.store, documents, kind)
        if _bring_back(transaction, documents):
            fresh = outstanding(transaction.store, documents, kind)
        progress.documents_done = len(documents) - len(fresh)
        interrupted = _interrupted(run, lambda: run.work(fresh, folder, device, fast))
        _describe(transaction, documents, meta)
        opened = transaction.store
        names = {(d.name, d.sha256) for d in documents}
        packed = [v for v in opened.versions() if (v.document.name, v.document.sha256) in names]
        report = dataclasses.replace(
            summarise(opened, packed, time.perf_counter() - begun),
            unchanged=len(documents) - len(fresh),
            reused=run.reused,
            unmatched=tuple(unmatched),
        )
        catalogue.refresh(opened)
        skipped += run.refused
    if interrupted:
        raise InterruptedPackError(report, run.finished)
    if skipped:
        raise PartialError(skipped, report)
    return report


def _interrupted(run: PackRun, work: Callable[[], None]) -> bool:
    """Do the work of a run. Return whether Ctrl-C stopped it; however it ends, what is finished is kept."""
    try:
        work()
    except KeyboardInterrupt:
        run.finish_early()
        return True
    except Exception:
        with contextlib.suppress(Exception):  # what ended the work may well end this too
            run.commit()
        raise
    return False


@checked()
def add(
    sources: str | Path | Source | Sequence[str | Path | Source],
    store: str | Path,
    *,
    model: str | None = None,
    **options: Any,
) -> PackReport:
    """As `pack`, into a store that is there: NotFoundError where there is none. `model` is by default the store's."""
    return pack(sources, store, model=model_for(store, model), **options)


def model_for(store: str | Path, model: str | None) -> str:
    """The model of that name, or else the one that the store names. NotFoundError where there is no store, or not that."""
    source = Store.open(store).manifest.fingerprint.source
    if model or source in ("", *KNOWN):
        return model or source or DEFAULT_MODEL
    return str(folder_named(source))


def gathered(
    sources: str | Path | Source | Sequence[str | Path | Source],
    include: str | Sequence[str],
    exclude: str | Sequence[str],
    store: Path,
) -> Gathered:
    """The documents of a pack: files and folders as `gather` finds them, and `Source`s. UsageError, NotFoundError, PartialError."""
    every = [sources] if isinstance(sources, str | Path | Source) else list(sources)
    paths = [source for source in every if not isinstance(source, Source)]
    given = [source for source in every if isinstance(source, Source)]
    for source in given:
        check_given(source)
    found, skipped, unmatched = gather(paths, include, exclude, store)
    documents = sorted([*found, *given], key=lambda source: source.name)
    twice = [name for name, count in Counter(d.name for d in documents).items() if count > 1]
    if twice:
        raise UsageError(f"two inputs are named {twice[0]!r}. Give each document its own name.")
    if not documents and skipped:
        raise PartialError(skipped)
    if not documents:
        idle = f" No file matches {', '.join(map(repr, unmatched))}." if unmatched else ""
        raise UsageError(f"there is nothing to pack.{idle} Check the sources, include=… and exclude=….")
    return Gathered(documents, skipped, unmatched)


def outstanding(store: Store, documents: Sequence[Source], kind: PackKind) -> list[Source]:
    """The documents of which something wanted is not in the store. UsageError where a file would be a folder too."""
    live = store.documents()
    check_together([*live, *(d.name for d in documents)])
    held = {
        (name, stored.document.sha256)
        for name, stored in live.items()
        if (stored.complete or kind == "context") and (stored.memory or kind == "exact")
    }
    return [d for d in documents if (d.name, d.sha256) not in held]


def _bring_back(transaction: Transaction, documents: Sequence[Source]) -> bool:
    """Undo `rm` for documents that are packed again, so that their records are reused. Return whether any were restored."""
    given = {(d.name, d.sha256) for d in documents}
    removed = set(transaction.store.manifest.removed)
    back = given & removed
    if back:
        with held_back():
            transaction.commit([], TOOL, removed=removed - back)
    return bool(back)


def _describe(transaction: Transaction, documents: Sequence[Source], meta: Mapping[str, str] | None) -> None:
    """Commit what is said of documents, where it is something new."""
    if meta is None:
        return
    known = transaction.store.manifest.meta
    said = {d.name: dict(meta) for d in documents if dict(known.get(d.name, {})) != dict(meta)}
    if said:
        with held_back():
            transaction.commit([], TOOL, meta=said)


def _open_or_create(path: Path, found: Identity, folder: Path) -> Transaction:
    if not Store.exists(path):
        vocabulary = int(found.fingerprint.architecture["vocab_size"])
        state = Manifest(found.fingerprint, vocabulary, tool=TOOL, tensors=found.tensors, probe=found.probe)
        return Transaction.create(path, state)
    transaction = Transaction.open(path)
    state = transaction.store.manifest
    check_identity(stored_identity(state), found, folder)
    # Stores of early writers explain nothing; it is the same model, so the next commit can say what they did not.
    transaction.explain(state.tensors or found.tensors, state.probe or found.probe)
    return transaction
