"""`pack`: documents in, records out, into a store."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch

from memvec.arguments import checked, instance, literal, several
from memvec.checkpoints.identify import identify_folder
from memvec.checkpoints.named import folder_named
from memvec.checkpoints.resolve import DEFAULT_MODEL, KNOWN, lasting_name, resolve
from memvec.corpora.choose import Sources, gathered
from memvec.corpora.documents import Documents
from memvec.errors import InterruptedPackError, PartialError, UsageError
from memvec.evaluation.questions import Question
from memvec.filesystem.names import NameSet
from memvec.formats.manifest import Manifest
from memvec.identity.fingerprint import check_identity
from memvec.identity.verdict import stored_identity
from memvec.lm.device import pick_device, pick_dtype
from memvec.lm.frozen import FrozenLM
from memvec.lm.load import in_float32, load
from memvec.packing.calibrate import Preset, with_preset
from memvec.packing.commit import Committer
from memvec.packing.context import ContextRecords
from memvec.packing.exact import ExactRecords
from memvec.packing.kv import KVRecords
from memvec.packing.memories import Generate, MemoryRecords, MemoryWork
from memvec.packing.outstanding import Outstanding, PackKind
from memvec.packing.records import Made
from memvec.progress import Progress, Watch, enter, unwatched
from memvec.retrieval.embedders import DEFAULT, check_embedder, maker
from memvec.settings import ContextSettings, CorpusSettings, KVSettings, PackSettings
from memvec.store import catalogue
from memvec.store.documents import Version
from memvec.store.lock import writing
from memvec.store.store import Store
from memvec.store.totals import summary
from memvec.store.transaction import Transaction
from memvec.types import Identity, PackReport
from memvec.version import TOOL


@checked(
    kind=literal(PackKind),
    settings=instance(PackSettings),
    preset=literal(Preset),
    context=instance(ContextSettings),
    kv=instance(KVSettings),
    corpus=instance(CorpusSettings),
    questions=several(instance(Question), "Questions"),
)
def pack(
    sources: Sources,
    store: str | Path,
    *,
    model: str = DEFAULT_MODEL,
    kind: PackKind = "exact",
    settings: PackSettings | None = None,
    preset: Preset | None = None,
    context: ContextSettings | None = None,
    kv: KVSettings | None = None,
    corpus: CorpusSettings | None = None,
    questions: Sequence[Question] = (),
    generate: Generate | None = None,
    keys: str | Sequence[str] = DEFAULT,
    meta: Mapping[str, str] | None = None,
    include: str | Sequence[str] = (),
    exclude: str | Sequence[str] = (),
    reuse: bool = True,
    trial: bool = True,
    device: str | None = None,
    dtype: str | None = None,
    lock_wait: float = 0.0,
    watch: Watch = unwatched,
) -> PackReport:
    """Pack files, folders, corpora and `Source`s into a store. The store is made if it is not there.

    A corpus is a file of JSON lines (.jsonl, .ndjson), a Parquet file or a tar archive that is named in `sources`, a folder
    that `datasets` saved, or hf://datasets/OWNER/NAME[:SPLIT]. Each of its rows or files is a document. JSON lines and
    archives may be compressed (.gz, .zst). Inside a folder, such files are documents themselves.

    Files are listed first and then read one at a time, corpora row by row. Finished records are committed while later
    files are still unread. A document that the store holds with the same bytes stays as it is. A changed one replaces the old version when it is
    complete. The record of a text that the store holds under another name is copied, and the text is not fitted. The copy
    must satisfy `settings`: the margin, the corrections and the number of vectors.

    A file that cannot be read does not stop a pack: it is in `skipped` of the report. On one
    thread of a CPU, the same documents and settings give the same vectors.

    Args:
        sources: The files, folders, corpora and `Source`s to pack. The name of a file is the last part of its path. The
            name of a file in a folder is its path in that folder. An iterator may yield more `Source`s than fit in memory.
        store: The store's folder.
        model: A known name, a checkpoint folder, a GGUF file or a hub id.
        kind: "exact" makes records that give the bytes back; each is certified. "context" makes memories to condition
            the model with; each is measured, and nothing can be unpacked from them. "both" makes both. "kv" makes
            memories of keys and values: a thousand times faster, several times larger, for memvec and transformers.
        settings: Settings of exact records.
        preset: Take nats per vector and learning rate from the model's profile, instead of from `settings`. See
            `calibrate`.
        context: Settings of context memories.
        kv: Settings of kv memories.
        corpus: How rows of JSON lines, Parquet files and datasets become documents.
        questions: Questions with answers that memories learn from, beside the text itself. Kv memories learn only if
            they are refined.
        generate: A function of (text, count) that returns (question, answer) pairs for memories to learn from.
        keys: The embedders whose keys are stored, for `search`. Without any, `build_index` must run before a search.
        meta: Metadata of all these documents, to filter by. It replaces earlier metadata; {} removes it.
        include: Patterns as in .gitignore (see `memvec.filesystem.names`). Only files that match are packed, and documents of
            corpora whose names match.
        exclude: Patterns. Files and documents of corpora that match are left out, also files named in `sources`. Excluded
            folders are not entered.
        reuse: Copy records of the same text from the store. False fits every new document anew.
        trial: Take nats per vector and learning rate from the model's profile, unless `settings` name them. A pack of more
            than 64 KiB with a model that has no profile makes one first, in at most two minutes.
        device: The torch device. Default: CUDA if there is one. "auto" also offloads layers that do not fit.
        dtype: The dtype that vectors are fitted in. Default: bfloat16 if the processor has it. Records are certified in
            float32.
        lock_wait: How long to wait for another writer [s].
        watch: A function that is called with the progress.

    Returns:
        Totals of these documents as they are in the store now, and the inputs that were skipped.

    Raises:
        UsageError: An argument is invalid, or there is nothing to pack.
        NotFoundError: A source or the model does not exist.
        FingerprintError: The store belongs to another model.
        StoreDamagedError: The store is damaged.
        StoreLockedError: Another process writes to the store.
        WriteError: The system refused to write.
        PartialError: Every input was skipped.
        InterruptedPackError: Ctrl-C stopped the pack. Finished records are in the store.

    Example:
        >>> settings = memvec.PackSettings(nats_per_vector=9.0, segment_tokens=32, max_steps=40, learning_rate=1.0)
        >>> report = memvec.pack(text_folder, tmp / "letters.memvec", model=model, settings=settings)
        >>> report.documents, report.exact, report.skipped
        (2, True, ())
    """
    begun = time.perf_counter()
    kv = kv or KVSettings()
    if kind == "kv" and not kv.refine and (questions or generate):
        raise UsageError("kv memories learn from questions only while they are refined. Set KVSettings(refine=20).")
    documents = gathered(sources, include, exclude, Path(store), corpus or CorpusSettings())
    device = pick_device(device)
    for name in keys:
        check_embedder(name)
    fit_dtype = pick_dtype(dtype, device)
    progress = Progress(documents=documents.count)
    folder = resolve(model, lambda message: enter(message, progress, watch))
    with writing(store, lock_wait):
        enter("fingerprinting the model", progress, watch)
        found = identify_folder(folder, source=lasting_name(model))
        settings = with_preset(settings or PackSettings(), preset, found.fingerprint.id, model)
        listed(documents, Path(store), questions, progress, watch)
        committer = Committer(_open_or_create(Path(store), found, folder))
        committer.restore(removed(committer.store, documents))
        outstanding = Outstanding(documents, catalogue.known(committer.store), kind)
        outstanding.measure()
        models = _Models(folder, fit_dtype, device, keys, committer, progress, watch)
        exact = ExactRecords(outstanding, committer, models, settings, trial, reuse, progress, watch)
        work = MemoryWork(outstanding, committer, models, questions, generate, reuse, progress, watch)
        memories: MemoryRecords = (
            KVRecords(work, kv, found.fingerprint.id)
            if kind == "kv"
            else ContextRecords(work, context or ContextSettings())
        )
        made = chain(
            exact.records() if kind in ("exact", "both") else (), memories.records() if kind != "exact" else ()
        )
        interrupted = _interrupted(made, committer, exact, lambda message: enter(message, progress, watch))
        opened = committer.store
        scan = catalogue.scan(opened)
        packed = scan.versions.among(outstanding.seen)
        named = map(scan.versions.name, np.flatnonzero(packed).tolist()) if meta is not None else outstanding.meta
        committer.describe({name: {**(meta or {}), **outstanding.meta.get(name, {})} for name in named})
        # With "both" the content of a document without text is packed, so it is not skipped.
        skipped = [*documents.skipped, *(memories.refused if kind in ("context", "kv") else ())]
        report = dataclasses.replace(
            summary(committer.store, scan, packed, time.perf_counter() - begun),
            unchanged=outstanding.unchanged,
            reused=committer.copied,
            unmatched=documents.unmatched,
            skipped=tuple(skipped),
            zstd_sampled=outstanding.baseline.sampled,
        )
        catalogue.refresh(committer.store, scan)
    if interrupted:
        raise InterruptedPackError(report, committer.finished)
    if skipped and not packed.any():
        raise PartialError(skipped)
    return report


def _interrupted(made: Iterable[Made], committer: Committer, exact: ExactRecords, say: Callable[[str], None]) -> bool:
    """Add the records of a pack to the store. Return whether Ctrl-C stopped it. Finished work is stored, even after an error."""
    try:
        for each in made:
            committer.add(*each)
        committer.commit()
    except KeyboardInterrupt:
        try:
            say("stopping: storing finished fits (Ctrl-C again drops them)")
            committer.commit()  # finished work first: the user may not wait long
            for each in exact.rest():
                committer.add(*each)
        except KeyboardInterrupt:
            with contextlib.suppress(KeyboardInterrupt):
                for each in exact.certified():
                    committer.add(*each)
        committer.commit_through()
        return True
    except Exception:
        with contextlib.suppress(Exception):  # the same error may stop this commit too
            committer.commit()
        raise
    return False


@checked()
def add(
    sources: Sources,
    store: str | Path,
    *,
    model: str | None = None,
    **options: Any,
) -> PackReport:
    """Pack into an existing store. Everything else is as in `pack`.

    Args:
        sources: The files, folders, corpora and `Source`s to pack.
        store: The store's folder.
        model: The model. Default: the model that the store names.
        options: Further keyword arguments of `pack`.

    Returns:
        Totals of these documents as they are in the store now, and the inputs that were skipped.

    Raises:
        NotFoundError: There is no store at `store`, or its model is not found.
        MemvecError: The errors of `pack`.

    Example:
        >>> settings = memvec.PackSettings(nats_per_vector=9.0, segment_tokens=32, max_steps=40, learning_rate=1.0)
        >>> note = memvec.Source("note.txt", b"The ferry is late.")
        >>> report = memvec.add([note], store, model=model, settings=settings)
        >>> "note.txt" in [row.name for row in memvec.documents(store)]
        True
    """
    return pack(sources, store, model=model_for(store, model), **options)


def model_for(store: str | Path, model: str | None) -> str:
    """Return `model`, or without it the model that the store names. NotFoundError if there is no store or no such model."""
    source = Store.open(store).manifest.fingerprint.source
    if model or source in ("", *KNOWN):
        return model or source or DEFAULT_MODEL
    return str(folder_named(source))


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
        loaded = load(self.folder, self.dtype, self.device, lambda stage: enter(stage, self.progress, self.watch))
        origin = self.committer.store.manifest.fingerprint
        self.committer.makers = [maker(name, self.folder, origin, loaded.splitter) for name in self.keys]
        self.committer.remember(loaded)
        return loaded

    @cached_property
    def exact(self) -> FrozenLM:
        """In float32, to certify with."""
        loaded = in_float32(self.fast, self.folder)
        self.committer.remember(loaded)
        return loaded


def listed(documents: Documents, store: Path, questions: Sequence[Question], progress: Progress, watch: Watch) -> None:
    """List the documents of a pack and compare their names with those of the store, before anything is written."""
    enter("listing the documents", progress, watch)
    opened = Store.open(store) if Store.exists(store) else None
    asked = sorted({question.document for question in questions})

    def tick() -> None:
        progress.documents = documents.count
        watch(progress)

    documents.list(lambda: catalogue.names(opened) if opened else (), asked, tick)
    tick()


def removed(store: Store, documents: Documents) -> set[Version]:
    """The document versions of this pack that `rm` took out of the store."""
    gone = set(store.manifest.removed)
    if not gone:
        return set()
    named = NameSet(name for name, _ in gone)
    return {(source.name, source.sha256) for source in documents.read(only=named)} & gone


def first_manifest(model: Identity) -> Manifest:
    """The manifest of a new store."""
    vocabulary = int(model.fingerprint.architecture["vocab_size"])
    return Manifest(model.fingerprint, vocabulary, tool=TOOL, tensors=model.tensors, probe=model.probe)


def _open_or_create(path: Path, found: Identity, folder: Path) -> Transaction:
    if not Store.exists(path):
        return Transaction.create(path, first_manifest(found))
    transaction = Transaction.open(path)
    state = transaction.store.manifest
    check_identity(stored_identity(state), found, folder)
    # Early writers stored no digests of tensors and no probe. It is the same model, so the next commit can add them.
    transaction.explain(state.tensors or found.tensors, state.probe or found.probe)
    return transaction
