"""The work of one pack into an open, locked store: fit, certify, distil and commit."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, islice
from pathlib import Path
from typing import Literal

import torch

from memvec.decoding.greedy import Certificate, certify
from memvec.evaluation.questions import Question
from memvec.filesystem.sources import Source
from memvec.identity.probe import remember
from memvec.interrupts import held_back
from memvec.lm.frozen import FrozenLM
from memvec.lm.load import in_float32, load
from memvec.packing.context import RECIPE, Distilling, Generate
from memvec.packing.plan import Waiting, plan, tasks
from memvec.packing.records import exact_record, raw_records
from memvec.packing.reuse import Held, moved
from memvec.packing.windows import Window, windows
from memvec.progress import Progress, Watch, enter
from memvec.retrieval.embedders import DEFAULT, Embeds, keys_of, maker
from memvec.settings import DECODE_BATCH, ContextSettings, PackSettings
from memvec.store.transaction import Transaction
from memvec.training.allocator import keeping_memory
from memvec.training.fit import FitEngine, Fitted
from memvec.types import Document, FitReport, RawReason, Record
from memvec.version import TOOL

PackKind = Literal["exact", "context", "both"]

COMMIT_SECONDS = 120.0  # finished records wait about this long for a commit
COMMIT_RECORDS, COMMIT_BYTES = 1024, 256 * 1024 * 1024  # of one shard
CERTIFY_AT_ONCE, CERTIFY_AT_ONCE_GPU = DECODE_BATCH, 4096  # segments; those of one M are decoded together
GROWTH = 1.5  # vectors of a refit to those of the attempt before


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a pack is asked to make."""

    kind: PackKind
    settings: PackSettings
    context: ContextSettings
    questions: Sequence[Question]
    generate: Generate | None
    keys: Sequence[str] = DEFAULT  # embedders whose keys are stored beside the records
    reuse: bool = True  # copy records of the same text under another name, where there are any


class PackRun:
    """One pack into an open, locked store."""

    def __init__(self, transaction: Transaction, wanted: Wanted, progress: Progress, watch: Watch) -> None:
        self.transaction, self.wanted, self.progress, self.watch = transaction, wanted, progress, watch
        self.settings = wanted.settings
        self.refused: list[tuple[str, str]] = []  # (document, why it has no memory)
        self.pending: list[Record] = []  # certified, not yet committed
        self.retired: list[Fitted] = []  # fitted, not yet certified
        self.waiting: list[Waiting] = []  # by task key
        self.texts: dict[bytes, str] = {}  # of records that are not raw, by their sha256, to make keys of
        self.makers: list[Embeds] = []
        self.left: Counter[str] = Counter()  # segments still to come, by document
        self.committed = time.monotonic()
        self.finished = 0  # records of this run that are in the store
        self.reused = 0  # of them copies

    def work(self, fresh: Sequence[Source], folder: Path, device: str, kind: torch.dtype) -> None:
        """Make and commit what is wanted of `fresh`; vectors are fitted in `kind`."""
        if not fresh:
            return
        enter("loading the model", self.progress, self.watch)
        fast = load(folder, kind, device)
        self.makers = [maker(name, folder, self.transaction.store.manifest.fingerprint) for name in self.wanted.keys]
        with keeping_memory():
            if self.wanted.kind != "context":
                self.exact = in_float32(fast, folder)
                remember(self.transaction, self.exact)
                self._plan(fresh, fast)
                self._fit(FitEngine(fast, self.settings))
                self.commit()
            if self.wanted.kind != "exact":
                remember(self.transaction, fast)
                self._distil(fresh, fast)
                self.commit()

    def _distil(self, fresh: Sequence[Source], lm: FrozenLM) -> None:
        live = (
            self.transaction.store.documents()
        )  # what an older version holds is made again, so that it becomes the newest
        known = {
            (v.document.name, v.document.sha256): v
            for v in self.transaction.store.versions()
            if v.unfinished or live.get(v.document.name) is v
        }
        todo, refused = windows(fresh, known, lm, self.wanted.context)
        self.refused = refused if self.wanted.kind == "context" else []  # with "both" their content is there
        self.texts |= {window.text_sha256: window.text for window in todo}
        todo, again = self._not_held(todo)
        if not todo:
            return
        distilling = Distilling(lm, self.wanted.context, self.wanted.questions, self.wanted.generate)
        for record in distilling.run(todo, self.progress, self.watch):
            self.pending.append(record)
            for window in again.get(record.text_sha256, ()):
                self._copy(record, window.document, window.segment.start)
            if time.monotonic() - self.committed > COMMIT_SECONDS:
                self.commit()

    def _not_held(self, todo: Sequence[Window]) -> tuple[list[Window], dict[bytes, list[Window]]]:
        """(windows to be distilled, {text: other windows of the same text}). Copies what the store holds already.

        Questions are about one document, so with them a memory is not copied to another.
        """
        if self.wanted.questions or self.wanted.generate:
            return list(todo), {}
        places: dict[bytes, list[Window]] = {}
        for window in todo:
            places.setdefault(window.text_sha256, []).append(window)
        known = Held(self.transaction.store).context(places, self.wanted.context, RECIPE) if self.wanted.reuse else {}
        for text, record in known.items():
            for window in places.pop(text):
                self._copy(record, window.document, window.segment.start)
        return [same[0] for same in places.values()], {text: same[1:] for text, same in places.items()}

    def _copy(self, record: Record, document: Document, start: int) -> None:
        """Add a copy of a record at another place."""
        self.pending += moved([record], document, start - record.start)
        self.reused += 1

    def finish_early(self) -> None:
        """After Ctrl-C: commit what is finished, certify what was fitted and commit that. A second Ctrl-C drops the latter."""
        try:
            enter("stopping: keeping what was fitted (Ctrl-C again drops it)", self.progress, self.watch)
            self.commit()  # finished work first: the user may not wait long
            self._certify(None)
        except KeyboardInterrupt:
            self.retired.clear()
        while self.pending:
            with contextlib.suppress(KeyboardInterrupt):  # it came during a commit, which is whole
                self.commit()

    def _plan(self, fresh: Sequence[Source], lm: FrozenLM) -> None:
        enter("measuring surprisal and cutting segments", self.progress, self.watch)
        partial = {(v.document.name, v.document.sha256): v for v in self.transaction.store.versions() if not v.complete}
        whole = {(name, v.document.sha256) for name, v in self.transaction.store.documents().items() if v.complete}
        fresh = [source for source in fresh if (source.name, source.sha256) not in whole]
        held = (
            Held(self.transaction.store, self.exact)
            if self.wanted.reuse and self.transaction.store.manifest.shards
            else None
        )
        made = plan(fresh, partial, lm, self.settings, held)
        self.pending += [*made.raw, *made.reused]
        self.reused += len(made.reused)
        self.texts |= made.texts
        self.waiting = made.waiting
        self.left = Counter(document.name for item in made.waiting for document, _ in item.places)
        p = self.progress
        p.documents_done = p.documents - len(self.left)
        p.segments, p.tokens = len(self.waiting), sum(len(item.segment.ids) for item in self.waiting)

    def _fit(self, engine: FitEngine) -> None:
        engine.add(tasks(self.waiting, engine.lm.width, self.settings))
        enter("fitting", self.progress, self.watch)
        begun = time.perf_counter()
        at_once = CERTIFY_AT_ONCE_GPU if engine.lm.device.type == "cuda" else CERTIFY_AT_ONCE

        def tick(token_steps: int) -> None:
            self.progress.token_steps += token_steps
            self.progress.seconds = time.perf_counter() - begun
            self.watch(self.progress)

        while engine.queue:  # again when the last certificates sent segments back
            for batch in engine.run(tick):
                self.retired += batch
                if len(self.retired) >= at_once or time.monotonic() - self.committed > COMMIT_SECONDS:
                    self._certify(engine)
            self._certify(engine)

    def _certify(self, engine: FitEngine | None) -> None:
        """Certify every retired fit; without an engine those over the correction cap are dropped."""
        ids, vectors = [f.task.ids for f in self.retired], [f.vectors for f in self.retired]
        certificates = certify(self.exact, vectors, ids, self.settings.margin) if ids else []
        with held_back():  # a signal must not lose a certificate or use it twice
            for certificate in certificates:
                fitted = self.retired.pop(0)
                if self._acceptable(certificate, len(fitted.task.ids)):
                    self._done(fitted, certificate)
                elif engine is not None:
                    self._try_again(fitted, engine)
        if len(self.pending) >= COMMIT_RECORDS or time.monotonic() - self.committed > COMMIT_SECONDS:
            self.commit()

    def _try_again(self, fitted: Fitted, engine: FitEngine) -> None:
        """Send a segment back with more vectors, or with another start when their number is fixed; raw after the last."""
        task = fitted.task
        if task.attempt >= self.settings.refits:
            self._done(fitted, None)
            return
        vectors = task.vectors if self.settings.vectors else math.ceil(task.vectors * GROWTH)
        again = dataclasses.replace(task, attempt=task.attempt + 1, vectors=vectors, spent=fitted.cost)
        engine.add([again])

    def _acceptable(self, certificate: Certificate, tokens: int) -> bool:
        within = len(certificate.corrections) <= self.settings.allowed(tokens)
        return within and not (self.settings.strict and certificate.wrong)

    def _done(self, fitted: Fitted, certificate: Certificate | None) -> None:
        """Add the record of a finished segment; without a certificate it is raw."""
        task, cost, item = fitted.task, fitted.cost, self.waiting[fitted.task.key]
        text, start = self.exact.decode(task.ids), item.segment.start
        data = text.encode()
        if certificate is None:
            spent = FitReport(
                steps=cost.steps, token_steps=cost.token_steps, nats_before=item.nats, seconds=cost.seconds
            )
            width, n = self.exact.width, len(task.ids)
            made = raw_records(item.document, start, data, n, RawReason.NO_FIT, width, spent)
        else:
            made = [exact_record(item.document, start, data, fitted, certificate, item.nats)]
            self.texts[made[0].text_sha256] = text
        self.pending += made
        for document, place in item.again:
            self.pending += moved(made, document, place - start)
            self.reused += len(made)
        p = self.progress
        p.exact += certificate is not None
        p.segments_done += 1
        p.tokens_done += len(task.ids)
        for document, _ in item.places:
            self.left[document.name] -= 1
            p.documents_done += not self.left[document.name]

    def commit(self) -> None:
        """Commit everything pending, in shards of bounded size."""
        while self.pending:
            sizes = accumulate(len(record.payload) + record.vectors.nbytes for record in self.pending)
            count = max(1, sum(size <= COMMIT_BYTES for size in islice(sizes, COMMIT_RECORDS)))
            records = self.pending[:count]
            with held_back():  # a signal in between would make the clean-up commit these records again
                self.transaction.commit(records, TOOL, keys_of(records, self.texts, self.makers))
                self.finished += count
                del self.pending[:count]
        self.committed = time.monotonic()
