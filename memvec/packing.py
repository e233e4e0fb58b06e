"""`pack`: documents in, certified records out, into a store. Segment, fit, round, certify, correct, commit."""

from __future__ import annotations

import dataclasses
import math
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, islice
from pathlib import Path, PurePosixPath
from typing import Literal, get_args

import torch

from memvec import __version__
from memvec.allocator import keeping_memory
from memvec.decode import Certificate, certify
from memvec.distilling import Distilling, Generate
from memvec.errors import FormatTooNewError, InterruptedPackError, PartialError, UsageError
from memvec.fit import FitEngine, Fitted
from memvec.formats.documents import check_name
from memvec.formats.manifest import Manifest
from memvec.identity import check_fingerprint, fingerprint_folder
from memvec.lm import FrozenLM, pick_device, pick_dtype
from memvec.model_cache import DEFAULT_MODEL, lasting_name, resolve
from memvec.planning import Waiting, plan, tasks
from memvec.progress import Progress, Watch, enter, unwatched
from memvec.questions import Question
from memvec.records import exact_record, raw_records
from memvec.settings import DECODE_BATCH, ContextSettings, PackSettings
from memvec.sources import Source, gather
from memvec.store import Store, writing
from memvec.summary import summarise
from memvec.types import FitReport, PackReport, RawReason, Record
from memvec.windows import windows

PackKind = Literal["exact", "context", "both"]

COMMIT_SECONDS = 120.0  # finished records wait about this long for a commit
COMMIT_RECORDS, COMMIT_BYTES = 1024, 256 * 1024 * 1024  # of one shard
CERTIFY_AT_ONCE = DECODE_BATCH
TOOL = f"memvec {__version__}"
GROWTH = 1.5  # vectors of a refit to those of the attempt before


def pack(
    sources: Sequence[str | Path | Source],
    store: str | Path,
    *,
    model: str = DEFAULT_MODEL,
    kind: PackKind = "exact",
    settings: PackSettings | None = None,
    context: ContextSettings | None = None,
    questions: Sequence[Question] = (),
    generate: Generate | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    device: str | None = None,
    dtype: str | None = None,
    watch: Watch = unwatched,
) -> PackReport:
    """Pack files, folders and `Source`s into the store at `store`, made or added to.

    `kind` "exact" makes records that give the bytes back, each certified; "context" makes memories to condition the model
    with, each measured, from which nothing can be unpacked; "both" makes both. `questions` and what `generate` (text,
    count) returns are (question, answer) pairs that memories learn from beside the text itself.
    Documents already there with the same bytes are left as they are; changed ones replace the old when complete.
    `dtype` is what vectors are fitted in (default: bfloat16 where the processor has it); certifying is float32.
    Raises UsageError, NotFoundError, FingerprintError, StoreDamagedError, StoreLockedError; PartialError when inputs
    were skipped and InterruptedPackError on Ctrl-C, both after what was finished is committed.
    """
    begun = time.perf_counter()
    documents, skipped = _documents(sources, include, exclude, Path(store))
    if kind not in get_args(PackKind):
        raise UsageError(f"kind is {kind!r}, expected {', '.join(get_args(PackKind))}.")
    device = pick_device(device)
    wanted = _Wanted(kind, settings or PackSettings(), context or ContextSettings(), questions, generate)
    fast = pick_dtype(dtype, device)
    progress = Progress(documents=len(documents))
    folder = resolve(model, lambda message: enter(message, progress, watch))
    with writing(store):
        enter("fingerprinting the model", progress, watch)
        opened = _open_or_create(Path(store), folder, model)
        run = _Run(opened, wanted, progress, watch)
        fresh = _fresh(opened, documents, kind)
        progress.documents_done = len(documents) - len(fresh)
        interrupted = False
        try:
            run.work(fresh, folder, device, fast)
        except KeyboardInterrupt:
            run.finish_early()
            interrupted = True
        names = {(d.name, d.sha256) for d in documents}
        packed = [v for v in opened.versions() if (v.document.name, v.document.sha256) in names]
        report = summarise(opened, packed, time.perf_counter() - begun)
        report = dataclasses.replace(report, unchanged=len(documents) - len(fresh))
        skipped += run.refused
    if interrupted:
        raise InterruptedPackError(report, run.finished)
    if skipped:
        raise PartialError(skipped, report)
    return report


def _documents(
    sources: Sequence[str | Path | Source], include: Sequence[str], exclude: Sequence[str], store: Path
) -> tuple[list[Source], list[tuple[str, str]]]:
    paths = [source for source in sources if not isinstance(source, Source)]
    given = [source for source in sources if isinstance(source, Source)]
    found, skipped = gather(paths, include, exclude, store)
    documents = sorted([*found, *given], key=lambda source: source.name)
    twice = [name for name, count in Counter(d.name for d in documents).items() if count > 1]
    if twice:
        raise UsageError(f"two inputs are named {twice[0]!r}. Give each document its own name.")
    for source in given:
        try:
            check_name(source.name)
        except ValueError as error:
            raise UsageError(f"{error}.") from None
    if not documents and skipped:
        raise PartialError(skipped)
    if not documents:
        raise UsageError("there is nothing to pack. Check SRC, --include and --exclude.")
    return documents, skipped


def _fresh(store: Store, documents: Sequence[Source], kind: PackKind) -> list[Source]:
    """The documents of which something wanted is not in the store. UsageError where a file would be a folder too."""
    live = store.documents()
    names = {*live, *(d.name for d in documents)}
    for name in names:
        for above in PurePosixPath(name).parents:
            if str(above) in names:
                raise UsageError(f"{str(above)!r} cannot be a document beside {name!r}: no folder could hold both.")
    held = {
        (name, stored.document.sha256)
        for name, stored in live.items()
        if (stored.complete or kind == "context") and (stored.memory or kind == "exact")
    }
    return [d for d in documents if (d.name, d.sha256) not in held]


def _open_or_create(path: Path, folder: Path, model: str) -> Store:
    found = fingerprint_folder(folder, source=lasting_name(model))
    if not Store.exists(path):
        return Store.create(path, Manifest(found, int(found.architecture["vocab_size"]), tool=TOOL))
    opened = Store.open(path)
    check_fingerprint(opened.manifest.fingerprint, found)
    if opened.manifest.foreign:
        raise FormatTooNewError(
            f"{opened.manifest.foreign} to be added to", "such a store, but would lose what is new in it"
        )
    return opened


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What a pack is asked to make."""

    kind: PackKind
    settings: PackSettings
    context: ContextSettings
    questions: Sequence[Question]
    generate: Generate | None


class _Run:
    """One pack into an open, locked store."""

    def __init__(self, store: Store, wanted: _Wanted, progress: Progress, watch: Watch) -> None:
        self.store, self.wanted, self.progress, self.watch = store, wanted, progress, watch
        self.settings = wanted.settings
        self.refused: list[tuple[str, str]] = []  # (document, why it has no memory)
        self.pending: list[Record] = []  # certified, not yet committed
        self.retired: list[Fitted] = []  # fitted, not yet certified
        self.waiting: list[Waiting] = []  # by task key
        self.left: Counter[str] = Counter()  # segments still to come, by document
        self.committed = time.monotonic()
        self.finished = 0  # records of this run that are in the store

    def work(self, fresh: Sequence[Source], folder: Path, device: str, kind: torch.dtype) -> None:
        """Make and commit what is wanted of `fresh`; vectors are fitted in `kind`."""
        if not fresh:
            return
        enter("loading the model", self.progress, self.watch)
        fast = FrozenLM(folder, kind, device)
        with keeping_memory():
            if self.wanted.kind != "context":
                self.exact = fast if kind == torch.float32 else FrozenLM(folder, torch.float32, device)
                self._plan(fresh, fast)
                self._fit(FitEngine(fast, self.settings))
                self._commit()
            if self.wanted.kind != "exact":
                self._distil(fresh, fast)
                self._commit()

    def _distil(self, fresh: Sequence[Source], lm: FrozenLM) -> None:
        known = {(v.document.name, v.document.sha256): v for v in self.store.versions()}
        todo, refused = windows(fresh, known, lm, self.wanted.context)
        self.refused = refused if self.wanted.kind == "context" else []  # with "both" their content is there
        distilling = Distilling(lm, self.wanted.context, self.wanted.questions, self.wanted.generate)
        for records in distilling.run(todo, self.progress, self.watch) if todo else ():
            self.pending += records
            if time.monotonic() - self.committed > COMMIT_SECONDS:
                self._commit()

    def finish_early(self) -> None:
        """After Ctrl-C: certify what was fitted and commit it."""
        enter("stopping: certifying what was fitted (Ctrl-C again drops it)", self.progress, self.watch)
        try:
            self._certify(None)
        except KeyboardInterrupt:
            self.retired.clear()
        self._commit()

    def _plan(self, fresh: Sequence[Source], lm: FrozenLM) -> None:
        enter("measuring surprisal and cutting segments", self.progress, self.watch)
        partial = {(v.document.name, v.document.sha256): v for v in self.store.versions() if not v.complete}
        whole = {(v.document.name, v.document.sha256) for v in self.store.versions() if v.complete}
        fresh = [source for source in fresh if (source.name, source.sha256) not in whole]
        made = plan(fresh, partial, lm, self.settings)
        self.pending += made.raw
        self.waiting = made.waiting
        self.left = Counter(item.document.name for item in made.waiting)
        p = self.progress
        p.documents_done = p.documents - len(self.left)
        p.segments, p.tokens = len(self.waiting), sum(len(item.segment.ids) for item in self.waiting)

    def _fit(self, engine: FitEngine) -> None:
        engine.add(tasks(self.waiting, engine.lm.width, self.settings))
        enter("fitting", self.progress, self.watch)
        begun = time.perf_counter()

        def tick(token_steps: int) -> None:
            self.progress.token_steps += token_steps
            self.progress.seconds = time.perf_counter() - begun
            self.watch(self.progress)

        while engine.queue:  # again when the last certificates sent segments back
            for batch in engine.run(tick):
                self.retired += batch
                if len(self.retired) >= CERTIFY_AT_ONCE:
                    self._certify(engine)
            self._certify(engine)

    def _certify(self, engine: FitEngine | None) -> None:
        """Certify every retired fit; without an engine those over the correction cap are dropped."""
        ids, vectors = [f.task.ids for f in self.retired], [f.vectors for f in self.retired]
        certificates = certify(self.exact, vectors, ids, self.settings.margin) if ids else []
        for certificate in certificates:
            fitted = self.retired.pop(0)  # one by one: Ctrl-C in between must not do any of them twice
            if self._acceptable(certificate, len(fitted.task.ids)):
                self._done(fitted, certificate)
            elif engine is not None:
                self._try_again(fitted, engine)
        if len(self.pending) >= COMMIT_RECORDS or time.monotonic() - self.committed > COMMIT_SECONDS:
            self._commit()

    def _try_again(self, fitted: Fitted, engine: FitEngine) -> None:
        """Send a segment back with more vectors, or with another start when their number is fixed; raw after the last."""
        task = fitted.task
        if task.attempt >= self.settings.refits:
            self._done(fitted, None)
            return
        vectors = task.vectors if self.settings.vectors else math.ceil(task.vectors * GROWTH)
        engine.add([dataclasses.replace(task, attempt=task.attempt + 1, vectors=vectors)])

    def _acceptable(self, certificate: Certificate, tokens: int) -> bool:
        within = len(certificate.corrections) <= self.settings.allowed(tokens)
        return within and not (self.settings.strict and certificate.wrong)

    def _done(self, fitted: Fitted, certificate: Certificate | None) -> None:
        """Add the record of a finished segment; without a certificate it is raw."""
        task, item = fitted.task, self.waiting[fitted.task.key]
        data, start = self.exact.decode(task.ids).encode(), item.segment.start
        if certificate is None:
            spent = FitReport(
                steps=task.steps, token_steps=task.token_steps, nats_before=item.nats, seconds=task.seconds
            )
            width, n = self.exact.width, len(task.ids)
            self.pending += raw_records(item.document, start, data, n, RawReason.NO_FIT, width, spent)
        else:
            self.pending.append(exact_record(item.document, start, data, fitted, certificate, item.nats))
        p = self.progress
        p.exact += certificate is not None
        p.segments_done += 1
        p.tokens_done += len(task.ids)
        self.left[item.document.name] -= 1
        p.documents_done += not self.left[item.document.name]

    def _commit(self) -> None:
        """Commit everything pending, in shards of bounded size."""
        while self.pending:
            sizes = accumulate(len(record.payload) + record.vectors.nbytes for record in self.pending)
            count = max(1, sum(size <= COMMIT_BYTES for size in islice(sizes, COMMIT_RECORDS)))
            self.store.commit(self.pending[:count], TOOL)
            self.finished += count
            del self.pending[:count]
        self.committed = time.monotonic()
