"""Make context records for `pack`: distil the windows of documents, and measure each memory on held-out questions."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, count

import torch
from torch import Tensor

from memvec import off_topic
from memvec.evaluation.controls import EQUAL_POSITIONS, text_arms
from memvec.evaluation.forms import question_row, templates
from memvec.evaluation.gain import Sums, per_token, share
from memvec.evaluation.questions import Question, cloze_questions
from memvec.filesystem.sources import Gathered
from memvec.lm.frozen import FrozenLM
from memvec.lm.neighbours import Thesaurus
from memvec.lm.scoring import Row, embedded, sample, score
from memvec.packing.commit import Committer
from memvec.packing.exact import Models
from memvec.packing.keywords import keyword_questions
from memvec.packing.outstanding import Outstanding, factor_to_all
from memvec.packing.plan import Window, lots, windows
from memvec.packing.records import Made, context_record
from memvec.packing.reuse import Held, moved
from memvec.progress import Progress, Watch, enter
from memvec.settings import ContextSettings
from memvec.templates.template import frame
from memvec.training.distill import ROW_TOKENS, DistilEngine, Distilled, DistilTask, parts
from memvec.types import Conditioning, FitReport, Record, Skipped

HELD_OUT = 16  # cloze questions to measure with; a memory learns other questions about the same facts
PASSAGES = 8  # off-topic prompts with answers, to measure harm
OFF_TOPIC = 96  # off-topic prompts to train on, divided among the prompt prefixes
OFF_TOPIC_TOKENS = 64  # most tokens of the LM's answer to each
KEYWORD_QUESTIONS = 192  # made by rule for each 150 tokens or so, divided among the prompt prefixes
GENERATED = 64  # questions asked of `generate` for each window
RECIPE = "keyword questions, 4"
AHEAD, AHEAD_GPU = 64, 512  # windows that are planned ahead, so that a free slot does not wait

Generate = Callable[[str, int], Sequence[tuple[str, str]]]  # (text, count) -> (question, answer) pairs


class ContextRecords:
    """Makes context records of the documents that have no memory in the store yet."""

    def __init__(
        self,
        outstanding: Outstanding,
        committer: Committer,
        models: Models,
        settings: ContextSettings,
        questions: Sequence[Question],
        generate: Generate | None,
        reuse: bool,
        progress: Progress,
        watch: Watch,
    ) -> None:
        self.outstanding, self.committer, self.models, self.settings = outstanding, committer, models, settings
        self.questions, self.generate, self.reuse = questions, generate, reuse
        self.progress, self.watch = progress, watch
        self.refused: list[Skipped] = []  # documents without text
        self.copies: list[Made] = []  # not yet given out
        self.again: dict[bytes, list[Window]] = {}  # windows of a text that is being distilled for another place

    def records(self) -> Iterator[Made]:
        """Yield every record as soon as it is finished."""
        self.committer.commit()  # then the records that this pack made of the same documents can be read from the store
        todo = self._todo()
        first = next((lot for lot in todo if lot), None)
        yield from self._copies()
        if first is None:
            return
        distilling = Distilling(self.models.fast, self.settings, self.questions, self.generate)
        done = distilling.run(chain([first], todo), self.outstanding.documents, self.progress, self.watch)
        for record, text in done:
            yield Made(record, text)
            self.copies += [_copy(record, window) for window in self.again.pop(record.text_sha256, ())]
            yield from self._copies()
        yield from self._copies()

    def _copies(self) -> Iterator[Made]:
        while self.copies:
            yield self.copies.pop(0)

    def _todo(self) -> Iterator[list[Window]]:
        """Yield the windows to be distilled, lot by lot."""
        store, settings = self.committer.store, self.settings
        live = store.documents()  # an older version's memory is made again, so that it becomes the newest
        known = {v.version: v for v in store.versions() if v.unfinished or live.get(v.document.name) is v}
        held = Held(store) if self.reuse else None
        for lot in lots(self.outstanding.lacking(self.outstanding.memory)):
            todo, refused = windows(lot, known, self.models.fast, settings)
            self.refused += refused
            # Questions are about one document, so with them a memory is not copied to another.
            yield todo if self.questions or self.generate else self._not_held(todo, held)

    def _not_held(self, todo: Sequence[Window], held: Held | None) -> list[Window]:
        """Return the windows to be distilled. The others are copied from records of the store or of this pack."""
        places: dict[bytes, list[Window]] = {}
        for window in todo:
            places.setdefault(window.text_sha256, []).append(window)
        known = {
            **(held.context(places, self.settings, RECIPE) if held else {}),
            **self.committer.context(places, self.settings, RECIPE),
        }
        fresh: list[Window] = []
        for text, same in places.items():
            if text in known:
                self.copies += [_copy(known[text], window) for window in same]
            elif text in self.again:
                self.again[text] += same
            else:
                fresh.append(same[0])
                self.again[text] = same[1:]
        return fresh


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
        self.lm, self.settings, self.questions, self.generate = lm, settings, questions, generate
        self.thesaurus = Thesaurus(lm)
        self.templates = templates(lm.tokenizer)
        self.prompt_prefixes = [frame(lm.tokenizer, "", template).before for template in self.templates]

    def run(
        self, lots: Iterable[Sequence[Window]], documents: Gathered, progress: Progress, watch: Watch
    ) -> Iterator[tuple[Record, str]]:
        """Yield (record, text) of each window in `lots` as it is done. `documents` counts the documents that were reached."""
        enter("asking what the texts say", progress, watch)
        prompts = [self._off_topic(template) for template in self.templates]
        unseen = [self._unseen_documents(template) for template in self.templates]
        engine = DistilEngine(self.lm, self.settings, self.prompt_prefixes, prompts, unseen)
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

    def _expect(self, sizes: Sequence[int], documents: Gathered, progress: Progress) -> None:
        """Estimate the windows and tokens of the whole pack, and the positions that each token takes."""
        s, tokens = self.settings, sum(sizes)
        factor = factor_to_all(documents)
        progress.segments, progress.tokens = round(len(sizes) * factor), round(tokens * factor)
        rows = sum(map(parts, sizes)) * (s.question_rows + s.aside_rows)
        spans = s.span_share if s.span else 0.0
        progress.usual = s.steps * (spans + (1 + s.company) / s.ratio + rows * ROW_TOKENS / max(1, tokens))

    def _task(self, key: int, window: Window) -> DistilTask:
        name = window.document.name
        given = [(q.question, q.answer) for q in self.questions if q.document == name and q.answer in window.text]
        if self.generate is not None:
            given += self.generate(window.text, GENERATED)
        count, s = KEYWORD_QUESTIONS * parts(len(window.segment.ids)), self.settings
        made = keyword_questions(window.text, count, s.seed, self.thesaurus.near, s.sentence_answers)
        tokenizer, ids, forms = self.lm.tokenizer, window.segment.ids, self.templates
        rows = tuple(
            tuple(question_row(tokenizer, *pair, form) for pair in given + made[number :: len(forms)])
            for number, form in enumerate(forms)
        )
        return DistilTask(key, ids, self.settings.vectors_for(len(ids)), name, rows)

    def _off_topic(self, template: str) -> list[Row]:
        """Off-topic prompts of this prompt prefix, with the LM's own answers."""
        if not self.settings.aside_rows:
            return []
        prompts = off_topic.prompts()[:OFF_TOPIC][self.templates.index(template) :: len(self.templates)]
        asked = [question_row(self.lm.tokenizer, prompt, "-", template) for prompt in prompts]
        heads = [row.ids[: row.start] for row in asked]  # without "-", which only fills the place of an answer
        before = embedded(self.lm, frame(self.lm.tokenizer, "", template).before)
        fronts = [torch.cat([before, embedded(self.lm, head[:-1])]) for head in heads]
        last = [head[-1:] for head in heads]
        drawn = sample(self.lm, fronts, range(len(heads)), last, OFF_TOPIC_TOKENS, 1.0, self.settings.seed)
        end = self.lm.tokenizer.eos_token_id
        return [Row((*head, *_until(said, end)), len(head)) for head, said in zip(heads, drawn, strict=True)]

    def _unseen_documents(self, template: str) -> list[Row]:
        """Questions about documents that no store holds. Without them a memory answers every question, off-topic ones too."""
        if not self.settings.aside_rows:
            return []
        return [question_row(self.lm.tokenizer, *pair, template) for pair in off_topic.unseen_documents()]

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
        sums = [Sums({name: sum(self._score(arm, rows)) for name, arm in arms.items()}, sum(r.scored for r in rows))]
        passages = [question_row(self.lm.tokenizer, p.prompt, p.continuation) for p in off_topic.passages()[:PASSAGES]]
        nats = {name: sum(self._score(arms[name], passages)) for name in ("text", "memory")}
        of_use = sums[0].usable
        controls = [value for name in EQUAL_POSITIONS if of_use and (value := share(sums, name)) is not None]
        return Conditioning(
            gain=share(sums, "memory") if of_use else None,
            shuffled=share(sums, "shuffled") if of_use else None,
            text=max(controls, default=None),
            harm=(nats["memory"] - nats["text"]) / sum(row.scored for row in passages),
            nll_none=per_token(sums, "none"),
            nll_text=per_token(sums, "text"),
            nll_memory=per_token(sums, "memory"),
            held_out=len(rows),
            recipe=RECIPE + (f", {len(self.questions)} questions given" if self.questions else ""),
            seed=self.settings.seed,
        )

    def _score(self, front: Tensor, rows: Sequence[Row]) -> list[float]:
        before = embedded(self.lm, self.prompt_prefixes[0])
        return score(self.lm, torch.cat([before, front.to(before.dtype)]), rows) if rows else []


def _copy(record: Record, window: Window) -> Made:
    """A copy of a record for a window of the same text."""
    (moved_record,) = moved([record], window.document, window.segment.start - record.start)
    return Made(moved_record, window.text, copied=True)


def _other(name: str, latest: Sequence[tuple[str, Distilled]]) -> Tensor | None:
    """The vectors of another document than `name`, or None if none is done."""
    found = next((done for other, done in latest if other != name), None)
    return None if found is None else _tensor(found)


def _tensor(done: Distilled) -> Tensor:
    return torch.from_numpy(done.vectors.astype("float32"))


def _until(ids: Sequence[int], end: int | None) -> Sequence[int]:
    """Ids up to and including the first `end`."""
    return ids[: ids.index(end) + 1] if end in ids else ids
