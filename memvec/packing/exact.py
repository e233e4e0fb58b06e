"""Make exact and raw records for `pack`: plan lots, fit and certify segments, give out each record as it is finished."""

from __future__ import annotations

import dataclasses
import math
import time
from collections import Counter, deque
from collections.abc import Collection, Iterator
from itertools import chain
from pathlib import Path
from typing import Protocol

from memvec.decoding.greedy import Certificate, certify
from memvec.filesystem.sources import UnfitError, reason_of
from memvec.formats import raw
from memvec.interrupts import held_back
from memvec.lm.frozen import FrozenLM
from memvec.packing.calibrate import suited
from memvec.packing.commit import Committer
from memvec.packing.outstanding import Outstanding, factor_to_all
from memvec.packing.plan import Plan, Unfit, Waiting, lots, partial_content, plan, tasks
from memvec.packing.records import Made, exact_record, raw_records
from memvec.packing.reuse import Held, moved
from memvec.progress import Progress, Watch, enter
from memvec.settings import DECODE_BATCH, PackSettings
from memvec.training.fit import FitEngine, Fitted
from memvec.types import FitReport, RawReason, Record

CERTIFY_AT_ONCE, CERTIFY_AT_ONCE_GPU = DECODE_BATCH, 4096  # segments; those of one M are decoded together
GROWTH = 1.5  # vectors of a refit to those of the attempt before


class Models(Protocol):
    """A model that is loaded at its first use."""

    @property
    def fast(self) -> FrozenLM:
        """In the dtype that vectors are fitted in."""

    @property
    def exact(self) -> FrozenLM:
        """In float32."""


class ExactRecords:
    """Makes exact and raw records of the documents whose content the store lacks."""

    def __init__(
        self,
        outstanding: Outstanding,
        committer: Committer,
        models: Models,
        settings: PackSettings,
        trial: bool,
        reuse: bool,
        progress: Progress,
        watch: Watch,
    ) -> None:
        self.outstanding, self.committer, self.settings = outstanding, committer, settings
        self.models, self.trial, self.reuse = models, trial, reuse
        self.progress, self.watch = progress, watch
        self.waiting: dict[int, Waiting] = {}  # segments being fitted, by task key
        self.task_keys: dict[bytes, int] = {}  # of these segments, by the sha256 of the text
        self.planned = 0  # segments planned so far
        self.tokens = 0  # of these segments
        self.left: Counter[str] = Counter()  # segments still to come, by document
        self.retired: list[Fitted] = []  # fitted, not yet certified
        self.ready: deque[Made] = deque()  # certified, not yet taken
        self.compress = raw.Compressor()  # one, or its working memory leaves holes in the heap with every frame
        self.begun = 0.0

    def records(self) -> Iterator[Made]:
        """Yield every record as soon as it is finished."""
        coming = lots(self.outstanding.lacking(self.outstanding.content))
        first = next(coming, None)
        self.progress.documents_done = self.outstanding.documents.reached
        if first is None:
            return
        self.fast, self.exact = self.models.fast, self.models.exact
        store = self.committer.store
        if self.trial:
            origin, size = store.manifest.fingerprint, self.outstanding.documents.bytes
            self.settings = suited(self.settings, self.fast, self.exact, origin, size, self.progress, self.watch)
        self.partial = partial_content(store)
        self.held = Held(store, self.exact) if self.reuse and store.manifest.shards else None
        self.engine = FitEngine(self.fast, self.settings)
        self.lots = chain(iter([first]), coming)
        del first
        enter("measuring surprisal and cutting segments", self.progress, self.watch)
        yield from self._feed()
        if not self.engine.queue:
            return
        enter("fitting", self.progress, self.watch)
        self.begun = time.perf_counter()
        at_once = CERTIFY_AT_ONCE_GPU if self.fast.device.type == "cuda" else CERTIFY_AT_ONCE
        while self.engine.queue:  # again if the last certificates sent segments back
            for batch in self.engine.run(self._tick):
                self.retired += batch
                if len(self.retired) >= at_once or self.committer.due:
                    self._certify(self.engine)
                    yield from self._take()
                yield from self._feed()
            self._certify(self.engine)
            yield from self._take()

    def rest(self) -> Iterator[Made]:
        """After an interrupt: the records of certified segments, and of fitted ones that are within the correction cap."""
        yield from self._take()
        self._certify(None)  # without a model nothing was fitted, so there is nothing to certify
        yield from self._take()

    def certified(self) -> Iterator[Made]:
        """After a second interrupt: the records of certified segments."""
        self.retired.clear()
        yield from self._take()

    def _tick(self, token_steps: int) -> None:
        self.progress.token_steps += token_steps
        self.progress.seconds = time.perf_counter() - self.begun
        self.watch(self.progress)

    def _take(self) -> Iterator[Made]:
        """Give out certified records. A record leaves `ready` only when the next is asked for, so that none is lost."""
        while self.ready:
            yield self.ready[0]
            self.ready.popleft()

    def _feed(self) -> Iterator[Made]:
        """Plan lots until the queue is long enough that no free slot waits. Give out the records that need no fit."""
        ahead = self.engine.most + self.engine.ahead
        while len(self.engine.queue) < ahead and (lot := next(self.lots, None)) is not None:
            made = plan(lot, self.partial, self.fast, self.settings, self.held, self._finished)
            del lot
            self._queue(made)
            yield from made.reused
            while made.raw:
                yield from self._raw(made.raw.pop(0))
            self._expect()

    def _raw(self, unfit: Unfit) -> Iterator[Made]:
        """The raw records of a document. If it cannot be read to its end, it is skipped and stays incomplete."""
        records = unfit.records(self.fast.width, self.compress)
        while True:
            try:
                record = next(records, None)
            except (OSError, UnfitError) as error:
                documents = self.outstanding.documents
                documents.skip(unfit.document.name, reason_of(error, Path(unfit.document.name)))
                return
            if record is None:
                return
            yield Made(record)

    def _finished(self, texts: Collection[bytes]) -> dict[bytes, Record]:
        return self.committer.exact(texts, self.settings)

    def _queue(self, made: Plan) -> None:
        """Queue the segments of a plan, except those of a text that is being fitted already."""
        fresh = []
        for item in made.waiting:
            self.left.update(document.name for document, _ in item.places)
            if (key := self.task_keys.get(item.digest)) is not None:
                first = self.waiting[key]
                self.waiting[key] = dataclasses.replace(first, again=(*first.again, *item.places))
            else:
                fresh.append(item)
        first_key = self.planned
        for place, item in enumerate(fresh):
            self.waiting[first_key + place], self.task_keys[item.digest] = item, first_key + place
        self.engine.add(tasks(fresh, self.fast.width, self.settings, first_key))
        self.planned += len(fresh)
        self.tokens += sum(len(item.segment.ids) for item in fresh)

    def _expect(self) -> None:
        """Estimate the segments and tokens of the whole pack, by the bytes of the documents that are not planned yet."""
        p, documents = self.progress, self.outstanding.documents
        p.documents_done = documents.reached - len(self.left)
        factor = factor_to_all(documents)
        p.segments, p.tokens = round(self.planned * factor), round(self.tokens * factor)

    def _certify(self, engine: FitEngine | None) -> None:
        """Certify every retired fit. Without an engine those over the correction cap are dropped."""
        ids, vectors = [f.task.ids for f in self.retired], [f.vectors for f in self.retired]
        certificates = certify(self.exact, vectors, ids, self.settings.margin) if ids else []
        with held_back():  # a signal must not lose a certificate or use it twice
            made: list[Made] = []
            for certificate in certificates:
                fitted = self.retired.pop(0)
                if self._acceptable(certificate, len(fitted.task.ids)):
                    made += self._done(fitted, certificate)
                elif engine is not None:
                    made += self._try_again(fitted, engine)
            self.ready += [each._replace(more=True) for each in made[:-1]] + made[-1:]

    def _try_again(self, fitted: Fitted, engine: FitEngine) -> list[Made]:
        """Send a segment back with more vectors, or with another start if M is fixed. After the last refit it becomes raw."""
        task = fitted.task
        if task.attempt >= self.settings.refits:
            return self._done(fitted, None)
        vectors = task.vectors if self.settings.vectors else math.ceil(task.vectors * GROWTH)
        engine.add([dataclasses.replace(task, attempt=task.attempt + 1, vectors=vectors, spent=fitted.cost)])
        return []

    def _acceptable(self, certificate: Certificate, tokens: int) -> bool:
        within = len(certificate.corrections) <= self.settings.allowed(tokens)
        return within and not (self.settings.strict and certificate.wrong)

    def _done(self, fitted: Fitted, certificate: Certificate | None) -> list[Made]:
        """The records of a finished segment, one for each of its places. Without a certificate they are raw."""
        task, cost, item = fitted.task, fitted.cost, self.waiting.pop(fitted.task.key)
        del self.task_keys[item.digest]
        text, start = self.exact.decode(task.ids), item.segment.start
        data = text.encode()
        if certificate is None:
            spent = FitReport(
                steps=cost.steps, token_steps=cost.token_steps, nats_before=item.nats, seconds=cost.seconds
            )
            width, n = self.exact.width, len(task.ids)
            records = raw_records(item.document, start, data, n, RawReason.NO_FIT, width, spent)
        else:
            records = [exact_record(item.document, start, data, fitted, certificate, item.nats)]
        known = None if certificate is None else text
        made = [Made(record, known) for record in records]
        for document, place in item.again:
            made += [Made(record, known, copied=True) for record in moved(records, document, place - start)]
        p = self.progress
        p.exact += certificate is not None
        p.segments_done += 1
        p.tokens_done += len(task.ids)
        for document, _ in item.places:
            self.left[document.name] -= 1
            if not self.left[document.name]:
                del self.left[document.name]
                p.documents_done += 1
        return made
