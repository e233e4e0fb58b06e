"""What memories of all kinds share: the windows that still need one, and the rows that memories learn from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain

import torch

from memvec import off_topic
from memvec.evaluation.forms import question_row, templates
from memvec.evaluation.keywords import keyword_questions
from memvec.evaluation.questions import Question
from memvec.lm.frozen import FrozenLM
from memvec.lm.scoring import Row, embedded, sample
from memvec.packing.commit import Committer
from memvec.packing.exact import Models
from memvec.packing.outstanding import Outstanding
from memvec.packing.plan import Window, lots, windows
from memvec.packing.records import Made
from memvec.packing.reuse import Held, moved
from memvec.progress import Progress, Watch
from memvec.retrieval.neighbours import Thesaurus
from memvec.store.documents import Version
from memvec.templates.template import frame
from memvec.training.distill import parts
from memvec.types import Kind, Record, Skipped

OFF_TOPIC = 96  # off-topic prompts to train on, divided among the prompt prefixes
OFF_TOPIC_TOKENS = 64  # most tokens of the LM's answer to each
GENERATED = 64  # questions asked of `generate` for each window

SAMPLES, SAMPLES_GPU = 2, 256  # windows of one group that a forecast may make

Generate = Callable[[str, int], Sequence[tuple[str, str]]]  # (text, count) -> (question, answer) pairs


@dataclass(frozen=True, slots=True)
class MemoryWork:
    """The documents of a pack, and what their memories are made with."""

    outstanding: Outstanding
    committer: Committer
    models: Models
    questions: Sequence[Question]
    generate: Generate | None
    reuse: bool
    progress: Progress
    watch: Watch


@dataclass(slots=True)
class Planned:
    """The windows of a pack, counted in groups of windows that cost alike."""

    sizes: dict[int, list[int]] = field(default_factory=dict)  # tokens of each window to be made, by group
    some: dict[int, list[Window]] = field(default_factory=dict)  # a few of them, by group
    copied: list[int] = field(default_factory=list)  # tokens of each window whose memory is a copy
    text_bytes: int = 0  # of all windows

    @property
    def made(self) -> list[int]:
        """Tokens of each window to be made."""
        return [tokens for sizes in self.sizes.values() for tokens in sizes]


@dataclass(frozen=True, slots=True)
class Forecast:
    """What planned memories would take."""

    positions: int = 0
    memory_bytes: int = 0  # as stored
    cache_bytes: int = 0  # of the keys and values of the whole text, in 16 bits
    token_steps: int = 0  # positions run forward and backward
    token_steps_per_second: float = 0.0  # measured now
    seconds: float = 0.0


class MemoryRecords(ABC):
    """Makes the memories of one kind of the documents that have none in the store yet."""

    kind: Kind

    def __init__(self, work: MemoryWork) -> None:
        self.work = work
        self.refused: list[Skipped] = []  # documents without text
        self.copies: list[Made] = []  # not yet given out
        self.again: dict[bytes, list[Window]] = {}  # windows of a text whose memory is being made for another place

    @property
    @abstractmethod
    def there(self) -> Collection[Version]:
        """The versions that have a memory of this kind in the store."""

    @abstractmethod
    def window_tokens(self) -> int:
        """Most tokens in a window."""

    @abstractmethod
    def known(self, source: Held | Committer, texts: Collection[bytes]) -> Mapping[bytes, Record]:
        """The records of texts in a source, by the texts' sha256, that these settings would make too."""

    @abstractmethod
    def make(self, todo: Iterable[Sequence[Window]]) -> Iterator[tuple[Record, str]]:
        """Yield (record, text) of each window in lots, as soon as it is finished."""

    @abstractmethod
    def group(self, tokens: int) -> int:
        """The group of a window of so many tokens."""

    @abstractmethod
    def forecast(self, planned: Planned) -> Forecast:
        """What the planned memories would take. Some are made to be timed."""

    def planned(self) -> Planned:
        """Count the windows that need a memory, instead of making it. Documents without text are then in `refused`."""
        planned, most = Planned(), SAMPLES_GPU if self.work.models.fast.device.type == "cuda" else SAMPLES
        for lot in self._todo():
            for window in lot:
                tokens = len(window.segment.ids)
                planned.sizes.setdefault(self.group(tokens), []).append(tokens)
                planned.text_bytes += window.segment.length
                if len(some := planned.some.setdefault(self.group(tokens), [])) < most:
                    some.append(window)
            for copy in self._copies():
                planned.copied.append(copy.record.tokens)
                planned.text_bytes += copy.record.length
        for same in chain.from_iterable(self.again.values()):
            planned.copied.append(len(same.segment.ids))
            planned.text_bytes += same.segment.length
        return planned

    def records(self) -> Iterator[Made]:
        """Yield every record as soon as it is finished."""
        self.work.committer.commit()  # then the records that this pack made of the same documents can be read from the store
        todo = self._todo()
        first = next((lot for lot in todo if lot), None)
        yield from self._copies()
        if first is None:
            return
        for record, text in self.make(chain([first], todo)):
            yield Made(record, text)
            self.copies += [_copy(record, window) for window in self.again.pop(record.text_sha256, ())]
            yield from self._copies()
        yield from self._copies()

    def _copies(self) -> Iterator[Made]:
        while self.copies:
            yield self.copies.pop(0)

    def _todo(self) -> Iterator[list[Window]]:
        """Yield the windows that need a memory, lot by lot."""
        work, store = self.work, self.work.committer.store
        live = store.documents()  # an older version's memory is made again, so that it becomes the newest
        known = {v.version: v for v in store.versions() if v.unfinished or live.get(v.document.name) is v}
        held = Held(store) if work.reuse else None
        for lot in lots(work.outstanding.lacking(self.there)):
            todo, refused = windows(lot, known, work.models.fast, self.window_tokens(), self.kind)
            self.refused += refused
            # Questions are about one document, so with them a memory is not copied to another.
            yield todo if work.questions or work.generate else self._not_held(todo, held)

    def _not_held(self, todo: Sequence[Window], held: Held | None) -> list[Window]:
        """Return the windows that need a memory. The others are copied from records of the store or of this pack."""
        places: dict[bytes, list[Window]] = {}
        for window in todo:
            places.setdefault(window.text_sha256, []).append(window)
        known = {**(self.known(held, places) if held else {}), **self.known(self.work.committer, places)}
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


class Asking:
    """Makes the rows that memories learn from: questions about a text, and rows that have nothing to do with it."""

    def __init__(
        self, lm: FrozenLM, seed: int, questions: Sequence[Question] = (), generate: Generate | None = None
    ) -> None:
        """Questions come from a text, from `questions`, and from the questions that `generate` makes of a text."""
        self.lm, self.seed, self.questions, self.generate = lm, seed, questions, generate
        self.thesaurus = Thesaurus(lm)
        self.templates = templates(lm.tokenizer)
        self.prompt_prefixes = [frame(lm.tokenizer, "", template).before for template in self.templates]

    def about(self, window: Window, count: int, sentences: float) -> tuple[tuple[Row, ...], ...]:
        """Questions about a window for each prompt prefix, `count` by rule for each part of it.

        A full sentence answers the share `sentences` of them [0..1].
        """
        name = window.document.name
        given = [(q.question, q.answer) for q in self.questions if q.document == name and q.answer in window.text]
        if self.generate is not None:
            given += self.generate(window.text, GENERATED)
        count *= parts(len(window.segment.ids))
        made = keyword_questions(window.text, count, self.seed, self.thesaurus.near, sentences)
        forms = self.templates
        return tuple(
            tuple(question_row(self.lm.tokenizer, *pair, form) for pair in given + made[number :: len(forms)])
            for number, form in enumerate(forms)
        )

    def off_topic(self, template: str) -> list[Row]:
        """Off-topic prompts of this prompt prefix, with the LM's own answers."""
        prompts = off_topic.prompts()[:OFF_TOPIC][self.templates.index(template) :: len(self.templates)]
        asked = [question_row(self.lm.tokenizer, prompt, "-", template) for prompt in prompts]
        heads = [row.ids[: row.start] for row in asked]  # without "-", which only fills the place of an answer
        before = embedded(self.lm, frame(self.lm.tokenizer, "", template).before)
        fronts = [torch.cat([before, embedded(self.lm, head[:-1])]) for head in heads]
        last = [head[-1:] for head in heads]
        drawn = sample(self.lm, fronts, range(len(heads)), last, OFF_TOPIC_TOKENS, 1.0, self.seed)
        end = self.lm.tokenizer.eos_token_id
        return [Row((*head, *_until(said, end)), len(head)) for head, said in zip(heads, drawn, strict=True)]

    def unseen_documents(self, template: str) -> list[Row]:
        """Questions about documents that no store holds. Without them a memory answers every question, off-topic ones too."""
        return [question_row(self.lm.tokenizer, *pair, template) for pair in off_topic.unseen_documents()]


def _copy(record: Record, window: Window) -> Made:
    """A copy of a record for a window of the same text."""
    (moved_record,) = moved([record], window.document, window.segment.start - record.start)
    return Made(moved_record, window.text, copied=True)


def _until(ids: Sequence[int], end: int | None) -> Sequence[int]:
    """Ids up to and including the first `end`."""
    return ids[: ids.index(end) + 1] if end in ids else ids
