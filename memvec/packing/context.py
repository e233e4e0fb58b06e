"""Make context records for `pack`: distil the windows of documents, and measure each memory on held-out questions."""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import count, pairwise
from statistics import median

import torch
from torch import Tensor

from memvec import off_topic
from memvec.corpora.documents import Documents
from memvec.evaluation.controls import EQUAL_POSITIONS, text_arms
from memvec.evaluation.forms import question_row
from memvec.evaluation.gain import Sums, reported
from memvec.evaluation.questions import Question, cloze_questions
from memvec.lm.frozen import FrozenLM
from memvec.lm.scoring import Row, embedded, score
from memvec.packing.commit import Committer
from memvec.packing.memories import Asking, Forecast, Generate, MemoryRecords, MemoryWork, Planned
from memvec.packing.outstanding import factor_to_all
from memvec.packing.plan import Window
from memvec.packing.records import context_record
from memvec.packing.reuse import Held
from memvec.progress import Progress, Watch, enter
from memvec.settings import ContextSettings
from memvec.store.documents import Version
from memvec.training.distill import ROW_TOKENS, DistilEngine, Distilled, DistilTask, parts
from memvec.types import Conditioning, FitReport, Kind, Record

HELD_OUT = 16  # cloze questions to measure with; a memory learns other questions about the same facts
PASSAGES = 8  # off-topic prompts with answers, to measure harm
KEYWORD_QUESTIONS = 192  # made by rule for each 150 tokens or so, divided among the prompt prefixes
RECIPE = "keyword questions, 4"
TRIAL_STEPS = 5  # of a forecast; the first one warms the allocator up and is not counted
AHEAD, AHEAD_GPU = 64, 512  # windows that are planned ahead, so that a free slot does not wait


class ContextRecords(MemoryRecords):
    """Makes context records of the documents that have no memory of vectors in the store yet."""

    kind = Kind.CONTEXT

    def __init__(self, work: MemoryWork, settings: ContextSettings) -> None:
        super().__init__(work)
        self.settings = settings

    @property
    def there(self) -> Collection[Version]:
        """The versions that have a context memory in the store."""
        return self.work.outstanding.memory

    def window_tokens(self) -> int:
        """Most tokens in a window."""
        return self.settings.window_tokens

    def known(self, source: Held | Committer, texts: Collection[bytes]) -> Mapping[bytes, Record]:
        """The context records of texts in a source, by the texts' sha256, that these settings would make too."""
        return source.context(texts, self.settings, RECIPE)

    def make(self, todo: Iterable[Sequence[Window]]) -> Iterator[tuple[Record, str]]:
        """Yield (record, text) of each window as it is done."""
        work = self.work
        distilling = Distilling(work.models.fast, self.settings, work.questions, work.generate)
        return distilling.run(todo, work.outstanding.documents, work.progress, work.watch)

    def group(self, tokens: int) -> int:
        """All windows are distilled together."""
        return 0

    def forecast(self, planned: Planned) -> Forecast:
        """What the planned memories would take. Some are distilled for a few steps."""
        s, lm = self.settings, self.work.models.fast
        sizes = [*planned.made, *planned.copied]
        positions = sum(map(s.vectors_for, sizes))
        made = Forecast(positions, positions * lm.width * 2, sum(sizes) * lm.cache_bytes // lm.dtype.itemsize * 2)
        if not planned.some:
            return made
        trial = Distilling(lm, dataclasses.replace(s, steps=min(s.steps, TRIAL_STEPS)))
        return trial.forecast(made, planned, s.steps)


class Distilling:
    """Distils the windows of one pack with `lm`."""

    def __init__(
        self,
        lm: FrozenLM,
        settings: ContextSettings,
        questions: Sequence[Question] = (),
        generate: Generate | None = None,
    ) -> None:
        """Memories learn from the text, from `questions`, and from the questions that `generate` makes of each window."""
        self.lm, self.settings, self.given = lm, settings, len(questions)
        self.asking = Asking(lm, settings.seed, questions, generate)
        self.prompt_prefixes = self.asking.prompt_prefixes

    def run(
        self, lots: Iterable[Sequence[Window]], documents: Documents, progress: Progress, watch: Watch
    ) -> Iterator[tuple[Record, str]]:
        """Yield (record, text) of each window in `lots` as it is done. `documents` counts the documents that were reached."""
        enter("asking what the texts say", progress, watch)
        engine = self._engine()
        ahead = AHEAD_GPU if self.lm.device.type == "cuda" else AHEAD
        coming, keys = iter(lots), count()
        waiting: dict[int, Window] = {}  # by task key
        left: Counter[str] = Counter()  # windows still to come, by document
        sizes: list[int] = []  # tokens of all windows so far
        progress.segments_done, progress.exact, progress.tokens_done, progress.token_steps = 0, 0, 0, 0

        def feed() -> None:
            while len(engine.queue) < ahead and (lot := next(coming, None)) is not None:
                for key, window in zip(keys, lot, strict=False):
                    waiting[key] = window
                    left[window.document.name] += 1
                    sizes.append(len(window.segment.ids))
                    engine.add([self._task(key, window)])
                self._expect(sizes, documents, progress)
                progress.documents_done = documents.reached - len(left)

        feed()
        enter("distilling", progress, watch)
        begun = time.perf_counter()

        def tick(token_steps: int) -> None:
            progress.token_steps += token_steps
            progress.seconds = time.perf_counter() - begun
            watch(progress)

        latest: list[tuple[str, Distilled]] = []  # (document, result): the shuffled control takes vectors from here
        for batch in engine.run(tick):
            latest = [*latest[-1:], *((waiting[done.task.key].document.name, done) for done in batch)]
            for done in batch:  # one by one, so that a Ctrl-C in the next does not lose a finished one
                window = waiting.pop(done.task.key)
                name = window.document.name
                record = self._record(window, done, _other(name, latest))
                left[name] -= 1
                if not left[name]:
                    del left[name]
                    progress.documents_done += 1
                progress.segments_done += 1
                progress.tokens_done += record.tokens
                yield record, window.text
                watch(progress)
            feed()

    def _engine(self) -> DistilEngine:
        asking, aside = self.asking, self.settings.aside_rows
        prompts = [asking.off_topic(template) if aside else [] for template in asking.templates]
        unseen = [asking.unseen_documents(template) if aside else [] for template in asking.templates]
        return DistilEngine(self.lm, self.settings, self.prompt_prefixes, prompts, unseen)

    def forecast(self, made: Forecast, planned: Planned, steps: int) -> Forecast:
        """The costs of `made` with so many steps. Some memories are distilled for fewer, and one is measured."""
        begun, windows = time.perf_counter(), [window for some in planned.some.values() for window in some]
        engine = self._engine()
        once = time.perf_counter() - begun
        engine.add(self._task(key, window) for key, window in enumerate(windows))
        ticks: list[tuple[float, int]] = []
        done = [one for batch in engine.run(lambda more: ticks.append((time.perf_counter(), more))) for one in batch]
        speeds = [more / (after - before) for (before, _), (after, more) in pairwise(ticks)]
        token_steps, seconds = (sum(getattr(one.cost, name) for one in done) for name in ("token_steps", "seconds"))
        speed = median(speeds) if speeds else token_steps / seconds
        begun = time.perf_counter()
        self._record(windows[done[0].task.key], done[0], None)
        measuring = time.perf_counter() - begun
        factor = sum(map(parts, planned.made)) / sum(parts(len(window.segment.ids)) for window in windows)
        every = factor * token_steps / self.settings.steps * steps
        teaching = factor * max(0.0, seconds - token_steps / speed)
        seconds = once + teaching + every / speed + measuring * len(planned.made)
        return dataclasses.replace(made, token_steps=round(every), token_steps_per_second=speed, seconds=seconds)

    def _expect(self, sizes: Sequence[int], documents: Documents, progress: Progress) -> None:
        """Estimate the windows and tokens of the whole pack, and the positions that each token takes."""
        s, tokens = self.settings, sum(sizes)
        factor = factor_to_all(documents)
        progress.segments, progress.tokens = round(len(sizes) * factor), round(tokens * factor)
        rows = sum(map(parts, sizes)) * (s.question_rows + s.aside_rows)
        spans = s.span_share if s.span else 0.0
        progress.usual = s.steps * (spans + (1 + s.company) / s.ratio + rows * ROW_TOKENS / max(1, tokens))

    def _task(self, key: int, window: Window) -> DistilTask:
        ids = window.segment.ids
        rows = self.asking.about(window, KEYWORD_QUESTIONS, self.settings.sentence_answers)
        return DistilTask(key, ids, self.settings.vectors_for(len(ids)), window.document.name, rows)

    def _record(self, window: Window, done: Distilled, other: Tensor | None) -> Record:
        cost, segment = done.cost, window.segment
        report = FitReport(steps=cost.steps, token_steps=cost.token_steps, seconds=cost.seconds)
        return context_record(
            window.document,
            segment.start,
            window.text.encode(),
            len(segment.ids),
            done.vectors,
            self._measured(window, done, other),
            report,
        )

    def _measured(self, window: Window, done: Distilled, other: Tensor | None) -> Conditioning:
        """Measure the rounded vectors on cloze questions. They were not trained on questions of this form."""
        memory = _tensor(done).to(self.lm.device)
        asked = cloze_questions(window.document.name, window.text, HELD_OUT, self.settings.seed)
        rows = [question_row(self.lm.tokenizer, q.question, q.answer) for q in asked]
        arms = {"none": memory[:0], "memory": memory, **text_arms(self.lm, window.text, len(memory))}
        if other is not None:
            arms["shuffled"] = other.to(self.lm.device)
        sums = Sums({name: sum(self._score(arm, rows)) for name, arm in arms.items()}, sum(r.scored for r in rows))
        passages = [question_row(self.lm.tokenizer, p.prompt, p.continuation) for p in off_topic.passages()[:PASSAGES]]
        nats = {name: sum(self._score(arms[name], passages)) for name in ("text", "memory")}
        aside = Sums(nats, sum(row.scored for row in passages))
        recipe = RECIPE + (f", {self.given} questions given" if self.given else "")
        return reported(sums, aside, len(rows), recipe, self.settings.seed, EQUAL_POSITIONS)

    def _score(self, front: Tensor, rows: Sequence[Row]) -> list[float]:
        before = embedded(self.lm, self.prompt_prefixes[0])
        return score(self.lm, torch.cat([before, front.to(before.dtype)]), rows) if rows else []


def _other(name: str, latest: Sequence[tuple[str, Distilled]]) -> Tensor | None:
    """The vectors of another document than `name`, or None if none is done."""
    found = next((done for other, done in latest if other != name), None)
    return None if found is None else _tensor(found)


def _tensor(done: Distilled) -> Tensor:
    return torch.from_numpy(done.vectors.astype("float32"))
