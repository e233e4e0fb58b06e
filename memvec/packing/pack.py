"""`pack`: documents in, records out, into a store."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from memvec.arguments import checked, instance, literal, several
from memvec.checkpoints.identify import identify_folder
from memvec.checkpoints.named import folder_named
from memvec.checkpoints.resolve import DEFAULT_MODEL, KNOWN, lasting_name, resolve
from memvec.errors import InterruptedPackError, PartialError, UsageError
from memvec.evaluation.questions import Question
from memvec.filesystem.sources import Entry, Gathered, Source, check_given, check_together, gather
from memvec.formats.manifest import Manifest
from memvec.identity.fingerprint import check_identity
from memvec.identity.verdict import stored_identity
from memvec.lm.device import pick_device, pick_dtype
from memvec.lm.frozen import FrozenLM
from memvec.lm.load import in_float32, load
from memvec.packing.calibrate import Preset, with_preset
from memvec.packing.commit import Committer
from memvec.packing.context import ContextRecords, Generate
from memvec.packing.exact import ExactRecords
from memvec.packing.outstanding import Outstanding, PackKind, Version
from memvec.packing.records import Made
from memvec.progress import Progress, Watch, enter, unwatched
from memvec.retrieval.embedders import DEFAULT, check_embedder, maker
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
    documents = gathered(sources, include, exclude, Path(store))
    if strangers := sorted({q.document for q in questions} - set(documents.names)):
        raise UsageError(f"a question is about {strangers[0]!r}, which is not among the documents. Check its name.")
    device = pick_device(device)
    for name in keys:
        check_embedder(name)
    fit_dtype = pick_dtype(dtype, device)
    progress = Progress(documents=len(documents.entries))
    folder = resolve(model, lambda message: enter(message, progress, watch))
    with writing(store, lock_wait):
        enter("fingerprinting the model", progress, watch)
        found = identify_folder(folder, source=lasting_name(model))
        settings = with_preset(settings or PackSettings(), preset, found.fingerprint.id, model)
        committer = Committer(_open_or_create(Path(store), found, folder))
        check_together([*committer.store.documents(), *documents.names])
        committer.restore(removed(committer.store, documents))
        outstanding = Outstanding(documents, committer.store, kind)
        outstanding.measure()
        models = _Models(folder, fit_dtype, device, keys, committer, progress, watch)
        exact = ExactRecords(outstanding, committer, models, settings, reuse, progress, watch)
        memories = ContextRecords(
            outstanding, committer, models, context or ContextSettings(), questions, generate, reuse, progress, watch
        )
        made = chain(exact.records() if kind != "context" else (), memories.records() if kind != "exact" else ())
        interrupted = _interrupted(made, committer, exact, lambda message: enter(message, progress, watch))
        if meta is not None:
            committer.describe(outstanding.seen, meta)
        opened = committer.store
        packed = [v for v in opened.versions() if outstanding.seen.get(v.document.name) == v.document.sha256]
        # With "both" the content of a document without text is packed, so it is not skipped.
        skipped = [*documents.skipped, *(memories.refused if kind == "context" else ())]
        report = dataclasses.replace(
            summarise(opened, packed, time.perf_counter() - begun),
            unchanged=outstanding.unchanged,
            reused=committer.copied,
            unmatched=documents.unmatched,
            skipped=tuple(skipped),
            zstd_sampled=outstanding.baseline.sampled,
        )
        catalogue.refresh(opened)
    if interrupted:
        raise InterruptedPackError(report, committer.finished)
    if skipped and not packed:
        raise PartialError(skipped)
    return report


def _interrupted(made: Iterable[Made], committer: Committer, exact: ExactRecords, say: Callable[[str], None]) -> bool:
    """Add the records of a pack to the store. Return whether Ctrl-C stopped it. Whatever ends it, finished work is kept."""
    try:
        for each in made:
            committer.add(*each)
        committer.commit()
    except KeyboardInterrupt:
        try:
            say("stopping: keeping what was fitted (Ctrl-C again drops it)")
            committer.commit()  # finished work first: the user may not wait long
            committer.commit_all(exact.rest())
        except KeyboardInterrupt:
            committer.commit_all(exact.certified())
        return True
    except Exception:
        with contextlib.suppress(Exception):  # what ended the pack may well end this too
            committer.commit()
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
    """List the documents of a pack: files and folders as `gather` finds them, and `Source`s.

    UsageError, NotFoundError; PartialError if every input was skipped.
    """
    every = [sources] if isinstance(sources, str | Path | Source) else list(sources)
    paths = [source for source in every if not isinstance(source, Source)]
    given = [source for source in every if isinstance(source, Source)]
    for source in given:
        check_given(source)
    found = gather(paths, include, exclude, store)
    entries = [*found.entries, *(Entry(source.name, len(source.data), source) for source in given)]
    twice = [name for name, count in Counter(entry.name for entry in entries).items() if count > 1]
    if twice:
        raise UsageError(f"two inputs are named {min(twice)!r}. Give each document its own name.")
    if not entries and found.skipped:
        raise PartialError(found.skipped)
    if not entries:
        idle = f" No file matches {', '.join(map(repr, found.unmatched))}." if found.unmatched else ""
        raise UsageError(f"there is nothing to pack.{idle} Check the sources, include=… and exclude=….")
    return Gathered(entries, found.skipped, found.unmatched)


class _Models:
    """The model of a pack, loaded when the first document needs it."""

    def __init__(
        self,
        folder: Path,
        dtype: torch.dtype,
        device: str,
        keys: Sequence[str],
        committer: Committer,
        progress: Progress,
        watch: Watch,
    ) -> None:
        self.folder, self.dtype, self.device, self.keys = folder, dtype, device, keys
        self.committer, self.progress, self.watch = committer, progress, watch

    @cached_property
    def fast(self) -> FrozenLM:
        """In the dtype that vectors are fitted in. The makers of keys come with it."""
        enter("loading the model", self.progress, self.watch)
        loaded = load(self.folder, self.dtype, self.device)
        origin = self.committer.store.manifest.fingerprint
        self.committer.makers = [maker(name, self.folder, origin) for name in self.keys]
        self.committer.remember(loaded)
        return loaded

    @cached_property
    def exact(self) -> FrozenLM:
        """In float32, to certify with."""
        loaded = in_float32(self.fast, self.folder)
        self.committer.remember(loaded)
        return loaded


def removed(store: Store, documents: Gathered) -> set[Version]:
    """The versions that `rm` took out of the store and that are packed again. Their records need not be written anew."""
    gone = set(store.manifest.removed)
    named = {name for name, _ in gone}
    others = [name for name in documents.names if name not in named]
    if len(others) == len(documents.names):
        return set()
    return {(source.name, source.sha256) for source in documents.read(without=set(others))} & gone


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
