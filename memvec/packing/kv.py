"""Make kv records for `pack`: read the windows of documents, keep some of their keys and values, and measure a sample.

On a CPU windows are read one at a time. On a GPU they are read in batches of fixed shapes: a length rounded up to a bucket,
and a number of rows that follows from the bucket, filled up. So nothing in a record depends on its neighbours. Only
training on a GPU goes on in batches of any shape: there refined numbers may differ by rounding.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import cached_property

import torch

from memvec import off_topic
from memvec.errors import UsageError
from memvec.evaluation.forms import question_row
from memvec.evaluation.gain import Sums, reported
from memvec.evaluation.questions import cloze_questions
from memvec.kv.compact import compact
from memvec.kv.place import placed
from memvec.kv.profile import MOST_TOKENS, profile_of, texts
from memvec.kv.refine import Recipe, Refiner, RefineTask
from memvec.kv.rotation import rotation_of
from memvec.kv.scores import CHUNK
from memvec.kv.selection import Selection
from memvec.kv.suitable import check
from memvec.lm.frozen import FrozenLM
from memvec.lm.scoring import embedded, run_prefixes, score
from memvec.packing.commit import Committer
from memvec.packing.memories import Asking, MemoryRecords, MemoryWork
from memvec.packing.outstanding import factor_to_all
from memvec.packing.plan import Window
from memvec.packing.records import kv_record
from memvec.packing.reuse import Held
from memvec.progress import enter
from memvec.settings import KVSettings
from memvec.store.documents import Version
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


class KVRecords(MemoryRecords):
    """Makes kv records of the documents that have no kv memory in the store yet."""

    kind = Kind.KV

    def __init__(self, work: MemoryWork, settings: KVSettings, fingerprint: str) -> None:
        """`fingerprint` is the id of the model's."""
        super().__init__(work)
        self.settings, self.fingerprint = settings, fingerprint

    @property
    def there(self) -> Collection[Version]:
        """The versions that have a kv memory in the store."""
        return self.work.outstanding.kv

    def window_tokens(self) -> int:
        """Most tokens in a window: as the settings say, or as many as the model can read and repeat. UsageError."""
        most, wanted = longest_window(self.work.models.fast), self.settings.window_tokens
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
        if found is None or (found.recipe, found.seed) != (self.settings.recipe, self.settings.seed):
            return False
        return found.harm is not None or not measures(self.settings, record.text_sha256)

    def make(self, todo: Iterable[Sequence[Window]]) -> Iterator[tuple[Record, str]]:
        """Yield (record, text) of each window as it is done."""
        work, lm = self.work, self.work.models.fast
        check(lm)
        compacting = Compacting(lm, self.settings, self.fingerprint, work)
        return compacting.run(todo)


class Compacting:
    """Makes the kv memories of one pack with `lm`."""

    def __init__(self, lm: FrozenLM, settings: KVSettings, fingerprint: str, work: MemoryWork) -> None:
        self.lm, self.settings, self.work = lm, settings, work
        self.fingerprint = fingerprint
        self.batching = lm.device.type != "cpu"
        self._others: dict[str, Selection] = {}  # memories of fixed texts

    def run(self, lots: Iterable[Sequence[Window]]) -> Iterator[tuple[Record, str]]:
        """Yield (record, text) of each window in `lots` as it is done."""
        progress, watch = self.work.progress, self.work.watch
        progress.segments_done, progress.exact, progress.tokens_done, progress.token_steps = 0, 0, 0, 0
        if self.settings.budget == "head":
            enter("finding the profile of the model's heads", progress, watch)
            _ = self.shares
        enter("reading", progress, watch)
        begun, left = time.perf_counter(), Counter[str]()  # windows still to come, by document
        for windows in self._batches(lots, left):
            before = time.perf_counter()
            selected, positions = self._selected(windows)
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
    def shares(self) -> torch.Tensor | None:
        """The shares (L, H) of rows that heads keep at the ratio of the settings. None with budget="even"."""
        if self.settings.budget == "even":
            return None
        progress, watch = self.work.progress, self.work.watch
        most = min(MOST_TOKENS, longest_window(self.lm))
        return profile_of(self.lm, self.fingerprint, most, lambda: watch(progress)).at(self.settings.ratio)

    def _compacted(self, rows: Sequence[Sequence[int]], longest: int | None = None) -> list[Selection]:
        s = self.settings
        return compact(self.lm, rows, s.ratio, s.budget, s.score, self.shares, longest)

    def _selected(self, windows: Sequence[Window]) -> tuple[list[Selection], int]:
        """The memories of windows, and the positions that each was trained on."""
        progress, watch, positions = self.work.progress, self.work.watch, 0
        ids = [window.segment.ids for window in windows]
        size = bucket(max(map(len, ids)))
        if not self.batching:
            selected = self._compacted(ids)
        elif size > BUCKETS[-1]:
            selected = self._compacted(ids, size)
        else:
            # A row as long as the bucket gives every batch the same shape. So do copies of it in place of documents.
            filler = [(0,) * size] * (self._documents_in(size) + 1 - len(ids))
            selected = self._compacted([*ids, *filler], size)[: len(ids)]
        if not self.settings.refine:
            return selected, 0
        enter("refining", progress, watch)

        def tick(more: int) -> None:
            nonlocal positions
            positions += more
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
            asking.off_topic(template) + asking.unseen_documents(template) if s.aside_rows else []
            for template in asking.templates
        ]
        recipe = Recipe(
            s.refine, s.question_rows, s.aside_rows, key_rate=s.key_rate, value_rate=s.value_rate, seed=s.seed
        )
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
