"""The context half of `pack`: windows of documents distilled, and what came of each measured on held-out questions."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from memvec import off_topic
from memvec.evaluation.controls import EQUAL_POSITIONS, text_arms
from memvec.evaluation.forms import question_row, templates
from memvec.evaluation.gain import Sums, per_token, share
from memvec.evaluation.questions import Question, cloze_questions
from memvec.lm.frozen import FrozenLM
from memvec.lm.neighbours import Thesaurus
from memvec.lm.scoring import Row, embedded, sample, score
from memvec.packing.keywords import keyword_questions
from memvec.packing.records import context_record
from memvec.packing.windows import Window
from memvec.progress import Progress, Watch, enter
from memvec.settings import ContextSettings
from memvec.templates.template import frame
from memvec.training.distill import ROW_TOKENS, DistilEngine, Distilled, DistilTask, parts
from memvec.types import Conditioning, FitReport, Record

HELD_OUT = 16  # cloze questions; none is learnt from, though other questions about the same facts are
PASSAGES = 8  # off-topic prompts with answers, to measure harm
ASIDE = 96  # off-topic prompts to train on, shared out to the beginnings
ASIDE_TOKENS = 64  # of what the LM says to each
KEYWORD_QUESTIONS = 192  # made by rule for each 150 tokens or so, shared out to the beginnings
GENERATED = 64  # asked of a generator for each window
RECIPE = "keyword questions, 4"

Generate = Callable[[str, int], Sequence[tuple[str, str]]]  # (text, count) -> (question, answer) pairs


class Distilling:
    """Windows of one pack, distilled by `lm`."""

    def __init__(
        self,
        lm: FrozenLM,
        settings: ContextSettings,
        questions: Sequence[Question] = (),
        generate: Generate | None = None,
    ) -> None:
        """`questions` and what `generate` makes of each window's text are learnt from beside the text itself."""
        self.lm, self.settings, self.questions, self.generate = lm, settings, questions, generate
        self.thesaurus = Thesaurus(lm)
        self.templates = templates(lm.tokenizer)
        self.befores = [frame(lm.tokenizer, "", template).before for template in self.templates]

    def run(self, windows: Sequence[Window], progress: Progress, watch: Watch) -> Iterator[Record]:
        """Records of `windows`, as they are done."""
        enter("asking what the texts say", progress, watch)
        aside = [self._aside(template) for template in self.templates]
        elsewhere = [self._elsewhere(template) for template in self.templates]
        engine = DistilEngine(self.lm, self.settings, self.befores, aside, elsewhere)
        engine.add(self._task(key, window) for key, window in enumerate(windows))
        self._expect(windows, progress)
        enter("distilling", progress, watch)
        begun = time.perf_counter()

        def tick(token_steps: int) -> None:
            progress.token_steps += token_steps
            progress.seconds = time.perf_counter() - begun
            watch(progress)

        left = Counter(window.document.name for window in windows)
        latest: list[Distilled] = []  # whose vectors stand in as those of another document
        for batch in engine.run(tick):
            latest = [*latest[-1:], *batch]
            for done in batch:  # one by one: what was measured must not be lost to a Ctrl-C in the next
                window = windows[done.task.key]
                record = self._record(window, done, _other(windows, done, latest))
                left[window.document.name] -= 1
                progress.documents_done += not left[window.document.name]
                progress.segments_done += 1
                progress.tokens_done += record.tokens
                yield record
                watch(progress)

    def _expect(self, windows: Sequence[Window], progress: Progress) -> None:
        """Set how far there is to go: windows, tokens and about how many positions each token takes."""
        s, tokens = self.settings, sum(len(window.segment.ids) for window in windows)
        progress.segments, progress.segments_done, progress.exact = len(windows), 0, 0
        progress.tokens, progress.tokens_done, progress.token_steps = tokens, 0, 0
        progress.documents_done = progress.documents - len({window.document.name for window in windows})
        rows = sum(parts(len(window.segment.ids)) for window in windows) * (s.question_rows + s.aside_rows)
        spans = s.span_share if s.span else 0.0
        progress.usual = s.steps * (spans + (1 + s.company) / s.ratio + rows * ROW_TOKENS / tokens)

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

    def _aside(self, template: str) -> list[Row]:
        """Off-topic prompts with what the LM says to them, as it is: those that fall to this beginning."""
        if not self.settings.aside_rows:
            return []
        prompts = off_topic.prompts()[:ASIDE][self.templates.index(template) :: len(self.templates)]
        asked = [question_row(self.lm.tokenizer, prompt, "-", template) for prompt in prompts]
        heads = [row.ids[: row.start] for row in asked]  # without the answer that was put there to have one
        before = embedded(self.lm, frame(self.lm.tokenizer, "", template).before)
        fronts = [torch.cat([before, embedded(self.lm, head[:-1])]) for head in heads]
        last = [head[-1] for head in heads]
        drawn = sample(self.lm, fronts, range(len(heads)), last, ASIDE_TOKENS, 1.0, self.settings.seed)
        end = self.lm.tokenizer.eos_token_id
        return [Row((*head, *_until(said[1:], end)), len(head)) for head, said in zip(heads, drawn, strict=True)]

    def _elsewhere(self, template: str) -> list[Row]:
        """Questions about documents that nobody has: without them a memory answers whatever sounds like a question."""
        if not self.settings.aside_rows:
            return []
        return [question_row(self.lm.tokenizer, *pair, template) for pair in off_topic.elsewhere()]

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
        """What the rounded vectors are worth on cloze questions, a form of question that they did not learn from."""
        memory = _tensor(done).to(self.lm.device)
        asked = cloze_questions(window.document.name, window.text, HELD_OUT, self.settings.seed)
        rows = [question_row(self.lm.tokenizer, q.question, q.answer) for q in asked]
        arms = {"none": memory[:0], "memory": memory, **text_arms(self.lm, window.text, len(memory))}
        if other is not None:
            arms["shuffled"] = other.to(self.lm.device)
        sums = [Sums({name: sum(self._score(arm, rows)) for name, arm in arms.items()}, sum(r.scored for r in rows))]
        passages = [question_row(self.lm.tokenizer, p.prompt, p.continuation) for p in off_topic.passages()[:PASSAGES]]
        aside = {name: sum(self._score(arms[name], passages)) for name in ("text", "memory")}
        of_use = sums[0].usable
        controls = [value for name in EQUAL_POSITIONS if of_use and (value := share(sums, name)) is not None]
        return Conditioning(
            gain=share(sums, "memory") if of_use else None,
            shuffled=share(sums, "shuffled") if of_use else None,
            text=max(controls, default=None),
            harm=(aside["memory"] - aside["text"]) / sum(row.scored for row in passages),
            nll_none=per_token(sums, "none"),
            nll_text=per_token(sums, "text"),
            nll_memory=per_token(sums, "memory"),
            held_out=len(rows),
            recipe=RECIPE + (f", {len(self.questions)} questions given" if self.questions else ""),
            seed=self.settings.seed,
        )

    def _score(self, front: Tensor, rows: Sequence[Row]) -> list[float]:
        before = embedded(self.lm, self.befores[0])
        return score(self.lm, torch.cat([before, front.to(before.dtype)]), rows) if rows else []


def _other(windows: Sequence[Window], done: Distilled, latest: Sequence[Distilled]) -> Tensor | None:
    """The vectors of another document, if some are done."""
    name = windows[done.task.key].document.name
    found = next((d for d in latest if windows[d.task.key].document.name != name), None)
    return None if found is None else _tensor(found)


def _tensor(done: Distilled) -> Tensor:
    return torch.from_numpy(done.vectors.astype("float32"))


def _until(ids: Sequence[int], end: int | None) -> Sequence[int]:
    """Ids up to the first `end`, it included."""
    return ids[: ids.index(end) + 1] if end in ids else ids
