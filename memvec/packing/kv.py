"""Make kv records for `pack`: read the windows of documents, keep some of their keys and values, and measure a sample.

On a CPU windows are read one at a time. On a GPU they are read in batches of fixed shapes: a length rounded up to a bucket,
and a number of rows that follows from the bucket, filled up. So nothing in a record depends on its neighbours. Only
training on a GPU goes on in batches of any shape: there refined numbers may differ by rounding.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import pairwise

import numpy as np
import torch

from memvec import off_topic
from memvec.chunks import chunked
from memvec.errors import UsageError
from memvec.evaluation.forms import question_row
from memvec.evaluation.gain import Sums, reported
from memvec.evaluation.questions import cloze_questions
from memvec.formats.keys_values import stored_bytes
from memvec.kv import choose
from memvec.kv.compact import compact
from memvec.kv.place import placed
from memvec.kv.profile import MOST_TOKENS, HeadProfile, profile_of, texts
from memvec.kv.refine import Recipe, Refiner, RefineTask
from memvec.kv.rotation import rotation_of
from memvec.kv.scores import CHUNK, read
from memvec.kv.selection import Selection
from memvec.kv.suitable import check
from memvec.lm.frozen import FrozenLM
from memvec.lm.scoring import embedded, run_prefixes, score
from memvec.packing.commit import Committer
from memvec.packing.memories import Asking, Forecast, MemoryRecords, MemoryWork, Planned
from memvec.packing.outstanding import factor_to_all
from memvec.packing.plan import Window
from memvec.packing.records import kv_record
from memvec.packing.reuse import Held
from memvec.progress import enter
from memvec.settings import KVSettings
from memvec.store.documents import Version
from memvec.training.distill import parts
from memvec.types import Conditioning, FitReport, KeysValues, Kind, Record

SAMPLED = 16  # one window in so many is measured, with measure="sample"
HELD_OUT, PASSAGES = 8, 4  # cloze questions and off-topic prompts that a measured memory is asked
KEYWORD_QUESTIONS = 96  # made by rule for each 150 tokens or so, divided among the prompt prefixes
SENTENCE_ANSWERS = 0.25  # share of them that a full sentence answers [0..1]
AROUND = 256  # tokens around a document and its repetition
UNLIMITED = 8192  # positions of a model that names no limit
LONGEST_WINDOW = 1.25  # in windows: the last one of a document takes up a short rest
BUCKETS = (64, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048)  # tokens; above them multiples of the last
MOST_ROWS = 256  # of a batch on a GPU
BATCH_BYTES = 8 * 2**30  # of a batch on a GPU
TRIAL_SECONDS, TRIAL_STEPS = 1.0, 4  # of a forecast: spent on a group of windows before the last one, and on training


class KVRecords(MemoryRecords):
    """Makes kv records of the documents that have no kv memory in the store yet."""

    kind = Kind.KV

    def __init__(self, work: MemoryWork, settings: KVSettings, fingerprint: str) -> None:
        """`fingerprint` is the id of the model's."""
        super().__init__(work)
        self.given, self.fingerprint = settings, fingerprint

    @cached_property
    def compacting(self) -> Compacting:
        """Makes the memories. UnsupportedModelError for a model that has no kv memories."""
        lm = self.work.models.fast
        check(lm)
        return Compacting(lm, self.given, self.fingerprint, self.work)

    @property
    def there(self) -> Collection[Version]:
        """The versions that have a kv memory in the store."""
        return self.work.outstanding.kv

    def window_tokens(self) -> int:
        """Most tokens in a window: as the settings say, or as many as the model can read and repeat. UsageError."""
        most, wanted = longest_window(self.work.models.fast), self.given.window_tokens
        if wanted is not None and wanted > most:
            raise UsageError(
                f"window_tokens is {wanted}, expected {most} or less: the model has to read a window and repeat it."
            )
        return wanted or most

    def known(self, source: Held | Committer, texts: Collection[bytes]) -> Mapping[bytes, Record]:
        """The kv records of texts in a source, by the texts' sha256, that these settings would make too."""
        return source.kv(texts, self._fits)

    def _fits(self, record: Record) -> bool:
        found = record.conditioning
        settings = self.compacting.settings
        if found is None or (found.recipe, found.seed) != (settings.recipe, settings.seed):
            return False
        return found.harm is not None or not measures(settings, record.text_sha256)

    def make(self, todo: Iterable[Sequence[Window]]) -> Iterator[tuple[Record, str]]:
        """Yield (record, text) of each window as it is done."""
        return self.compacting.run(todo)

    def group(self, tokens: int) -> int:
        """Windows of a bucket cost alike."""
        return bucket(tokens)

    def forecast(self, planned: Planned) -> Forecast:
        """What the planned memories would take. Some of each bucket are made, and trained for a few steps."""
        s = self.compacting.settings
        trial = replace(s, refine=min(s.refine, TRIAL_STEPS))
        return Compacting(self.work.models.fast, trial, self.fingerprint, self.work).forecast(planned, s.refine)


class Compacting:
    """Makes the kv memories of one pack with `lm`."""

    def __init__(self, lm: FrozenLM, settings: KVSettings, fingerprint: str, work: MemoryWork) -> None:
        self.lm, self.work, self.fingerprint = lm, work, fingerprint
        self.ratio = settings.ratio or self.profile.safe_ratio
        self.settings = replace(settings, ratio=self.ratio)
        self.batching = lm.device.type != "cpu"
        self._others: dict[str, Selection] = {}  # memories of fixed texts

    def run(self, lots: Iterable[Sequence[Window]]) -> Iterator[tuple[Record, str]]:
        """Yield (record, text) of each window in `lots` as it is done."""
        progress, watch = self.work.progress, self.work.watch
        progress.segments_done, progress.exact, progress.tokens_done, progress.token_steps = 0, 0, 0, 0
        _ = self.shares  # it may have to be found, which is a stage of its own
        enter("reading", progress, watch)
        begun, left = time.perf_counter(), Counter[str]()  # windows still to come, by document
        for windows in self._batches(lots, left):
            before = time.perf_counter()
            selected, positions = self._refined(windows, self._read(windows))
            seconds = (time.perf_counter() - before) / sum(len(window.segment.ids) for window in windows)
            for window, memory in zip(windows, selected, strict=True):
                yield self._record(window, memory, positions, seconds), window.text
                name = window.document.name
                left[name] -= 1
                if not left[name]:
                    del left[name]
                    progress.documents_done += 1
                progress.segments_done += 1
                progress.tokens_done += len(window.segment.ids)
                progress.seconds = time.perf_counter() - begun
                watch(progress)

    def _batches(self, lots: Iterable[Sequence[Window]], left: Counter[str]) -> Iterator[list[Window]]:
        """Yield windows to be read together: one on a CPU, on a GPU those of a bucket."""
        progress, documents = self.work.progress, self.work.outstanding.documents
        filling: dict[int, list[Window]] = {}
        planned = tokens = 0
        for lot in lots:
            planned, tokens = planned + len(lot), tokens + sum(len(window.segment.ids) for window in lot)
            left.update(window.document.name for window in lot)
            factor = factor_to_all(documents)
            progress.segments, progress.tokens = round(planned * factor), round(tokens * factor)
            progress.documents_done = documents.reached - len(left)
            for window in lot:
                size = bucket(len(window.segment.ids)) if self.batching else 0
                batch = filling.setdefault(size, [])
                batch.append(window)
                if len(batch) == self._documents_in(size):
                    yield filling.pop(size)
        yield from filling.values()

    def _documents_in(self, size: int) -> int:
        """Documents in a batch of a bucket of `size` tokens. One of its rows is a filler."""
        if not self.batching or size > BUCKETS[-1]:
            return 1
        each: int = 3 * self.lm.cache_bytes + 30 * self.lm.width * self.lm.dtype.itemsize  # bytes of a token
        return max(1, min(MOST_ROWS, (self.settings.memory or BATCH_BYTES) // (each * size)) - 1)

    @cached_property
    def profile(self) -> HeadProfile:
        """The profile of the model's heads."""
        progress, watch = self.work.progress, self.work.watch
        enter("finding the profile of the model's heads", progress, watch)
        most = min(MOST_TOKENS, longest_window(self.lm))
        return profile_of(self.lm, self.fingerprint, most, lambda: watch(progress))

    @cached_property
    def shares(self) -> torch.Tensor | None:
        """The shares (L, H) of rows that heads keep. None with budget="even"."""
        return None if self.settings.budget == "even" else self.profile.at(self.ratio)

    def _compacted(self, rows: Sequence[Sequence[int]], longest: int | None = None) -> list[Selection]:
        s = self.settings
        return compact(self.lm, rows, self.ratio, s.budget, s.score, self.shares, longest)

    def _read(self, windows: Sequence[Window]) -> list[Selection]:
        """The memories of windows, not trained."""
        ids = [window.segment.ids for window in windows]
        size = bucket(max(map(len, ids)))
        if not self.batching:
            return self._compacted(ids)
        if size > BUCKETS[-1]:
            return self._compacted(ids, size)
        # A row as long as the bucket gives every batch the same shape. So do copies of it in place of documents.
        filler = [(0,) * size] * (self._documents_in(size) + 1 - len(ids))
        return self._compacted([*ids, *filler], size)[: len(ids)]

    def _refined(
        self, windows: Sequence[Window], selected: list[Selection], ticks: list[tuple[float, int]] | None = None
    ) -> tuple[list[Selection], int]:
        """The memories of windows after training, and the positions that each was trained on.

        `ticks` gets the time after each step, and the positions of the step.
        """
        if not self.settings.refine:
            return selected, 0
        progress, watch, positions = self.work.progress, self.work.watch, 0
        ids = [window.segment.ids for window in windows]
        enter("refining", progress, watch)

        def tick(more: int) -> None:
            nonlocal positions
            positions += more
            if ticks is not None:
                ticks.append((self._now(), more))
            watch(progress)

        asked = [self.asking.about(window, KEYWORD_QUESTIONS, SENTENCE_ANSWERS) for window in windows]
        # From some texts, such as lists of short words, no questions are made. Their memories stay as they are.
        some = [number for number, questions in enumerate(asked) if all(questions)]
        if some:
            tasks = [RefineTask(ids[number], selected[number], asked[number]) for number in some]
            for number, refined in zip(some, self.refiner.run(tasks, tick), strict=True):
                selected[number] = refined
        enter("reading", progress, watch)
        return selected, positions // len(windows)

    @cached_property
    def asking(self) -> Asking:
        """What memories are asked."""
        return Asking(self.lm, self.settings.seed, self.work.questions, self.work.generate)

    @cached_property
    def refiner(self) -> Refiner:
        """Trains memories."""
        s, asking = self.settings, self.asking
        aside = [
            asking.off_topic(template) + asking.unseen_documents(template) if s.asides else []
            for template in asking.templates
        ]
        recipe = Recipe(s.refine, s.question_rows, s.asides, key_rate=s.key_rate, value_rate=s.value_rate, seed=s.seed)
        return Refiner(self.lm, asking.prompt_prefixes, aside, recipe)

    def _record(self, window: Window, selected: Selection, positions: int, seconds: float) -> Record:
        stored = selected.stored(self.settings.bits)
        tokens = len(window.segment.ids)
        if measures(self.settings, window.text_sha256):
            told = self.measured(window, stored)
        else:
            s = self.settings
            told = Conditioning(None, None, None, None, None, None, None, 0, s.recipe, s.seed)
        report = FitReport(steps=self.settings.refine, token_steps=positions, seconds=seconds * tokens)
        return kv_record(
            window.document,
            window.segment.start,
            window.text.encode(),
            tokens,
            stored,
            told,
            report,
            width=self.lm.width,
        )

    def forecast(self, planned: Planned, steps: int) -> Forecast:
        """What the planned memories would take with so many training steps. Some are read, trained and measured."""
        found = read(self.lm, [[0]], "norm")
        layers, (_, heads, _, width) = len(found.keys), found.keys[0].shape
        movable = rotation_of(self.lm.model).movable
        positions = memory_bytes = tokens = 0
        for size, count in Counter([*planned.made, *planned.copied]).items():
            rows = choose.positions_for(size, self.ratio)
            counts = (
                np.full((layers, heads), rows)
                if self.shares is None
                else choose.shared_out(self.shares, [size], [rows])[:, 0].numpy()
            )
            memory_bytes += count * stored_bytes(counts, width, self.settings.bits)
            positions += count * (rows if movable else size)
            tokens += count * size
        seconds = sum(self._seconds_to_read(size, planned) for size in planned.some)
        token_steps, speed, training = self._training(planned, steps)
        seconds += training + self._seconds_to_measure(planned)
        return Forecast(positions, memory_bytes, 4 * layers * heads * width * tokens, token_steps, speed, seconds)

    def _seconds_to_read(self, size: int, planned: Planned) -> float:
        """Seconds to read the planned windows of a bucket. A few of them are read."""
        sizes, at_once = planned.sizes[size], self._documents_in(size)
        done, begun = 0, self._now()
        for some in chunked(planned.some[size], at_once):
            for memory in self._read(some):
                memory.stored(self.settings.bits)
            done += 1 if self.batching else len(some[0].segment.ids)  # a batch takes as long when it is not full
            if (seconds := self._now() - begun) > TRIAL_SECONDS:
                break
        return seconds / done * (math.ceil(len(sizes) / at_once) if self.batching else sum(sizes))

    def _training(self, planned: Planned, steps: int) -> tuple[int, float, float]:
        """(positions of so many training steps of all planned memories, positions a second, seconds). Some are trained."""
        if not steps or not planned.some:
            return 0, 0.0, 0.0
        size = max(planned.some, key=lambda size: sum(planned.sizes[size]))
        some, ticks = planned.some[size][: self._documents_in(size)], list[tuple[float, int]]()
        begun = self._now()
        _ = self.refiner
        once, selected = self._now() - begun, self._read(some)
        begun = self._now()
        self._refined(some, selected, ticks)
        if not ticks:  # no questions are made of such texts
            return 0, 0.0, once
        each = [after - before for before, after in pairwise(at for at, _ in ticks)] or [ticks[0][0] - begun]
        step, positions = sum(each) / len(each), sum(more for _, more in ticks) / len(ticks)
        taught, to_teach = (min(KEYWORD_QUESTIONS, n * self.settings.question_rows) for n in (len(ticks), steps))
        teaching = max(0.0, ticks[0][0] - begun - step) * to_teach / taught
        factor = sum(map(parts, planned.made)) / sum(parts(len(window.segment.ids)) for window in some)
        return round(factor * steps * positions), positions / step, once + factor * (teaching + steps * step)

    def _seconds_to_measure(self, planned: Planned) -> float:
        """Seconds to measure as many of the planned memories as the settings say. One of them is measured."""
        share = {"all": 1.0, "sample": 1 / SAMPLED, "none": 0.0}[self.settings.measure]
        if not share or not planned.some:
            return 0.0
        window = next(iter(planned.some.values()))[0]
        stored = self._read([window])[0].stored(self.settings.bits)
        self._other(window.text)
        begun = self._now()
        self.measured(window, stored)
        return (self._now() - begun) * share * len(planned.made)

    def _now(self) -> float:
        """The time when all that was asked of a GPU is done [s]."""
        if self.lm.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    @torch.inference_mode()
    def measured(self, window: Window, stored: KeysValues) -> Conditioning:
        """Measure a rounded memory on cloze questions, beside nothing, the text, and the memory of a fixed other text."""
        lm, s, ids = self.lm, self.settings, window.segment.ids
        before = self.asking.prompt_prefixes[0]
        memory = placed(lm.model, [Selection.of(stored, len(ids), lm.device)], [before])
        text = run_prefixes(lm, [embedded(lm, [*before, *ids])])
        asked = cloze_questions(window.document.name, window.text, HELD_OUT, s.seed)
        rows = [question_row(lm.tokenizer, q.question, q.answer) for q in asked]
        arms = {
            "none": run_prefixes(lm, [embedded(lm, before)]),
            "memory": memory,
            "text": text,
            "shuffled": placed(lm.model, [self._other(window.text)], [before]),
        }
        sums = Sums({name: sum(score(lm, arm, rows)) for name, arm in arms.items()}, sum(row.scored for row in rows))
        passages = [question_row(lm.tokenizer, p.prompt, p.continuation) for p in off_topic.passages()[:PASSAGES]]
        nats = {name: sum(score(lm, arms[name], passages)) for name in ("memory", "text")}
        aside = Sums(nats, sum(row.scored for row in passages))
        return reported(sums, aside, len(rows), s.recipe, s.seed)

    def _other(self, text: str) -> Selection:
        """The rounded memory of a fixed text, always the same, or of another one if that is `text`."""
        other = next(fixed for fixed in texts() if fixed != text)
        if other not in self._others:
            ids = self.lm.encode(other)[: min(MOST_TOKENS, longest_window(self.lm))]
            stored = self._compacted([ids])[0].stored(self.settings.bits)
            self._others[other] = Selection.of(stored, len(ids), self.lm.device)
        return self._others[other]


def measures(settings: KVSettings, text_sha256: bytes) -> bool:
    """Is the memory of a text measured? A sample is drawn by the text itself, so that its neighbours do not matter."""
    if settings.measure == "sample":
        return int.from_bytes(text_sha256[:4], "big") % SAMPLED == 0
    return settings.measure == "all"


def longest_window(lm: FrozenLM) -> int:
    """The most tokens of a window that the model can read and repeat in chunks of `CHUNK`."""
    room = (rotation_of(lm.model).context or UNLIMITED) - AROUND
    whole = room - CHUNK if room >= 2 * CHUNK else room // 2
    return max(1, int(whole / LONGEST_WINDOW))


def bucket(tokens: int) -> int:
    """The length that a window of so many tokens is padded to on a GPU."""
    last = BUCKETS[-1]
    return next((size for size in BUCKETS if size >= tokens), -(-tokens // last) * last)
