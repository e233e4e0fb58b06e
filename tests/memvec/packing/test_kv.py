"""Packing kv memories with the tiny LM: what is kept, the same bytes in any company, copies, resuming, measuring."""

from __future__ import annotations

import hashlib
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import memvec
from memvec.errors import InterruptedPackError, UsageError
from memvec.filesystem.sources import Source
from memvec.kv.choose import positions_for
from memvec.kv.profile import profile_of
from memvec.kv.refine import Recipe
from memvec.packing import kv, memories
from memvec.packing.kv import Compacting, bucket, longest_window, measures
from memvec.progress import Progress
from memvec.settings import KVSettings
from memvec.store.store import Store
from memvec.types import Record

Packs = Callable[..., Path]


def records(store: Path, name: str) -> list[Record]:
    """The records of the kv memory of a document."""
    opened = Store.open(store)
    return [opened.record(ref) for ref in opened.documents()[name].kv]


def arrays(store: Path, name: str) -> list[bytes]:
    """All of the records of a memory that their making decides, as bytes."""
    parts = []
    for record in records(store, name):
        assert record.kv is not None
        numbers = (record.kv.counts, record.kv.distances, record.kv.keys, record.kv.values)
        scales = (record.kv.key_scales, record.kv.value_scales)
        parts += [*(array.tobytes() for array in (*numbers, *scales)), record.payload, record.text_sha256]
    return parts


@pytest.fixture(autouse=True)
def few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask little, which takes less time."""
    for name, value in (("OFF_TOPIC", 2), ("OFF_TOPIC_TOKENS", 4)):
        monkeypatch.setattr(memories, name, value)
    for name, value in (("HELD_OUT", 4), ("PASSAGES", 1), ("KEYWORD_QUESTIONS", 8)):
        monkeypatch.setattr(kv, name, value)


@pytest.fixture
def packs(tmp_path: Path, tiny: str) -> Packs:
    """Pack sources into a store of a name, with settings. Nothing is measured unless they say so."""

    def pack(name: str, sources: Sequence[Source], watch: Any = lambda progress: None, **settings: Any) -> Path:
        store, chosen = tmp_path / name, KVSettings(**{"ratio": 8, "measure": "none", **settings})
        memvec.pack(sources, store, model=tiny, kind="kv", kv=chosen, dtype="float32", watch=watch)
        return store

    return pack


class TestKept:
    def test_head(self, packs: Packs, sources: list[Source]) -> None:
        """Heads keep different numbers of rows, as many in all as even memories."""
        store = packs("s", sources)
        for row in memvec.list(store):
            (record,) = records(store, row.name)
            assert record.kv is not None and record.kv.bits == 8 and record.kv.counts.shape == (4, 2)
            assert record.kv.positions == row.kv == positions_for(record.tokens, 8.0)
            assert record.kv.rows == 8 * record.kv.positions and len(set(record.kv.counts.flatten().tolist())) > 1
            assert record.conditioning is not None and record.conditioning.recipe == KVSettings(ratio=8).recipe
            assert (record.conditioning.gain, record.conditioning.held_out, record.report.steps) == (None, 0, 0)
            assert record.report.seconds > 0
        report = memvec.info(store)
        assert (report.kv_records, report.kv_measured, report.kv_gain, report.exact) == (3, 0, None, False)
        assert report.kv_seconds > 0

    def test_safe_ratio(self, packs: Packs, sources: list[Source], tmp_path: Path, tiny: str, tiny_lm: Any) -> None:
        """Without a ratio it is the one that is safe for the model, and the records say so."""
        safe = profile_of(tiny_lm, memvec.fingerprint(tiny).id).safe_ratio
        (record,) = records(packs("s", sources[:1], ratio=None), "a.txt")
        assert safe != 8 and record.kv is not None and record.kv.positions == positions_for(record.tokens, safe)
        assert record.conditioning is not None and record.conditioning.recipe == KVSettings(ratio=safe).recipe
        assert arrays(packs("t", sources[:1], ratio=safe), "a.txt") == arrays(tmp_path / "s", "a.txt")

    def test_layout(self, packs: Packs, passages: dict[str, str], tiny_lm: Any) -> None:
        """Memories of texts of one length have one layout."""
        texts = [tiny_lm.decode(tiny_lm.encode(passages[name])[:64]) for name in ("a.txt", "b.txt")]
        store = packs("s", [Source(str(n), text.encode()) for n, text in enumerate(texts)])
        one, other = (records(store, name)[0] for name in "01")
        assert one.kv is not None and other.kv is not None and one.tokens == other.tokens
        assert (one.kv.counts == other.kv.counts).all() and (one.kv.distances != other.kv.distances).any()

    def test_even(self, packs: Packs, sources: list[Source]) -> None:
        """All heads keep as many rows as the memory takes positions."""
        (record,) = records(packs("s", sources[:1], budget="even", ratio=4, bits=16), "a.txt")
        assert record.kv is not None and record.kv.bits == 16
        assert set(record.kv.counts.flatten().tolist()) == {record.kv.positions} == {positions_for(record.tokens, 4)}

    def test_norm(self, packs: Packs, sources: list[Source]) -> None:
        """One reading finds other rows, in the same layout."""
        one, three = (records(packs(s, sources[:1], score=s), "a.txt")[0].kv for s in ("norm", "repeat"))
        assert one is not None and three is not None
        assert (one.counts == three.counts).all() and (one.distances != three.distances).any()

    def test_windows(self, packs: Packs, disorder: str, tiny_lm: Any) -> None:
        """A long document has a record for each window."""
        store = packs("s", [Source("long.txt", disorder[10_000:11_500].encode())], window_tokens=128)
        made = records(store, "long.txt")
        assert len(made) > 2 and max(record.tokens for record in made) <= 1.25 * 128
        assert [r.start for r in made] == [0, *(r.start + r.length for r in made[:-1])]
        assert longest_window(tiny_lm) == int((1024 - 256) / 2 / 1.25)

    def test_window_too_long(self, packs: Packs, sources: list[Source]) -> None:
        """The model could not repeat it."""
        with pytest.raises(UsageError, match="window_tokens is 500, expected 307 or less"):
            packs("s", sources, window_tokens=500)

    def test_no_text(self, tiny: str, sources: list[Source], tmp_path: Path) -> None:
        """Documents without text are skipped and named."""
        picture = Source("image.png", b"\x89PNG\xff\xfe")
        report = memvec.pack([sources[0], picture], tmp_path / "s", model=tiny, kind="kv")
        assert report.kv_records == 1 and [name for name, _ in report.skipped] == ["image.png"]

    def test_beside_content(self, store: Path, packs: Packs) -> None:
        """A document may have content and a memory."""
        packs("copy.memvec", [Source("prose.txt", memvec.cat(store, "prose.txt"))])
        (row,) = memvec.list(store, ["prose.txt"])
        assert row.vectors and row.kv and memvec.info(store).kv_records == 1


class TestBytes:
    """A record does not depend on the documents beside it, or on their order."""

    @pytest.mark.parametrize("changes", [{}, {"refine": 2, "question_rows": 2, "budget": "even", "bits": 4}])
    def test_company(self, packs: Packs, sources: list[Source], changes: dict[str, Any]) -> None:
        sources = [Source(source.name, source.data[:150]) for source in sources]
        alone = arrays(packs("alone", sources[:1], measure="all", **changes), "a.txt")
        assert alone == arrays(packs("corpus", sources, measure="all", **changes), "a.txt")
        assert alone == arrays(packs("other", sources[::-1], measure="all", **changes), "a.txt")

    def test_batches(self, packs: Packs, sources: list[Source], monkeypatch: pytest.MonkeyPatch) -> None:
        """The shape of a GPU's batch follows from the length of a document alone, also in a batch that is not full."""
        single = arrays(packs("single", sources[:1]), "a.txt")
        shapes = []
        compact = kv.compact

        def noted(lm: Any, texts: Any, *given: Any) -> Any:
            shapes.append((len(texts), max(map(len, texts)), given[-1]))
            return compact(lm, texts, *given)

        monkeypatch.setattr(kv, "compact", noted)
        monkeypatch.setattr(kv, "MOST_ROWS", 3)
        made = Compacting.__init__

        def batching(self: Compacting, *given: Any) -> None:
            made(self, *given)
            self.batching = True

        monkeypatch.setattr(kv.Compacting, "__init__", batching)
        alone = arrays(packs("alone", sources[:1]), "a.txt")
        many = [*sources, *(Source(f"{n}", sources[n % 3].data[n:]) for n in range(1, 6))]
        assert alone == arrays(packs("corpus", many), "a.txt") == arrays(packs("other", many[::-1]), "a.txt")
        assert set(shapes) == {(3, size, size) for size in {longest for _, longest, _ in shapes}}
        # The choice of rows and the numbers are those of a single reading, but for rounding.
        assert alone[0] == single[0] and alone[1] == single[1]

    def test_buckets(self) -> None:
        assert [bucket(n) for n in (1, 64, 65, 2048, 2049, 5000)] == [64, 64, 128, 2048, 4096, 6144]


class TestReuse:
    @pytest.fixture
    def read(self, monkeypatch: pytest.MonkeyPatch) -> list[int]:
        """The lengths of the windows that were read."""
        lengths: list[int] = []
        kept = Compacting._read

        def noted(self: Compacting, windows: Any) -> Any:
            lengths.extend(len(window.segment.ids) for window in windows)
            return kept(self, windows)

        monkeypatch.setattr(Compacting, "_read", noted)
        return lengths

    def test_copied(self, packs: Packs, sources: list[Source], read: list[int]) -> None:
        """The same text is read once, in one pack or in two."""
        again = Source("again.txt", sources[0].data)
        packs("s", [sources[0], again])
        store = packs("s", [Source("later.txt", sources[0].data)])
        assert len(read) == 1
        assert arrays(store, "a.txt") == arrays(store, "again.txt") == arrays(store, "later.txt")

    @pytest.mark.parametrize(
        "change", [{"ratio": 4}, {"budget": "even"}, {"score": "norm"}, {"bits": 4}, {"refine": 1}, {"measure": "all"}]
    )
    def test_other_settings(self, packs: Packs, sources: list[Source], read: list[int], change: dict[str, Any]) -> None:
        """A memory of other settings, or one that should have been measured, is not copied."""
        packs("s", sources[:1])
        packs("s", [Source("again.txt", sources[0].data)], **change)
        assert len(read) == 2

    def test_measured_is_copied(self, packs: Packs, sources: list[Source], read: list[int]) -> None:
        """A measured memory serves a pack that measures nothing."""
        packs("s", sources[:1], measure="all")
        store = packs("s", [Source("again.txt", sources[0].data)])
        assert len(read) == 1 and arrays(store, "a.txt") == arrays(store, "again.txt")


class TestStopping:
    def test_interrupt(self, packs: Packs, sources: list[Source], tmp_path: Path) -> None:
        """Ctrl-C keeps finished memories, and the next pack makes only the rest."""

        def stop(progress: Progress) -> None:
            if progress.stage == "reading" and progress.segments_done == 2:
                raise KeyboardInterrupt

        with pytest.raises(InterruptedPackError):
            packs("s", sources, watch=stop)
        before = {row.name: arrays(tmp_path / "s", row.name) for row in memvec.list(tmp_path / "s")}
        assert len(before) == 2
        first = Store.open(tmp_path / "s").manifest.shards
        store = packs("s", sources)
        assert Store.open(store).manifest.shards[: len(first)] == first and len(memvec.list(store)) == 3
        whole = packs("whole", sources)
        for row in memvec.list(whole):
            assert arrays(store, row.name) == arrays(whole, row.name) == before.get(row.name, arrays(whole, row.name))

    def test_within_a_document(self, packs: Packs, disorder: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """The windows of a document that are finished stay."""
        long = [Source("long.txt", disorder[10_000:11_500].encode())]
        done: list[int] = []

        def stop(progress: Progress) -> None:
            done.append(progress.segments_done)
            if progress.stage == "reading" and progress.segments_done == 2:
                raise KeyboardInterrupt

        with pytest.raises(InterruptedPackError):
            packs("s", long, watch=stop, window_tokens=128)
        store = packs("s", long, watch=lambda progress: done.append(-progress.segments_done), window_tokens=128)
        made = records(store, "long.txt")
        assert -min(done) == len(made) - 2 > 0 and memvec.info(store).kv_records == len(made)
        assert arrays(store, "long.txt") == arrays(packs("whole", long, window_tokens=128), "long.txt")

    @pytest.mark.parametrize("after", [1, 3])
    def test_kill(self, packs: Packs, disorder: str, tmp_path: Path, tiny: str, after: int) -> None:
        """A killed pack leaves a sound store, from which the next pack goes on."""
        program = (
            "import os, sys, memvec, memvec.packing.commit; from memvec.filesystem.sources import Source\n"
            "memvec.packing.commit.COMMIT_SECONDS = 0.0; store, tiny, after, *texts = sys.argv[1:]\n"
            "settings = memvec.KVSettings(ratio=8, measure='none')\n"
            "documents = [Source(str(n), text.encode()) for n, text in enumerate(texts)]\n"
            "memvec.pack(documents, store, model=tiny, kind='kv', kv=settings, dtype='float32',\n"
            "            watch=lambda p: p.segments_done == int(after) and os.kill(os.getpid(), 9))\n"
        )
        texts = [disorder[n : n + 100] for n in range(40_000, 44_000, 1000)]
        command = [sys.executable, "-c", program, str(tmp_path / "s"), tiny, str(after), *texts]
        assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
        assert memvec.verify(tmp_path / "s").ok and len(memvec.list(tmp_path / "s")) == after
        many = [Source(str(n), text.encode()) for n, text in enumerate(texts)]
        packs("s", many)
        whole = packs("whole", many)
        assert len(Store.open(tmp_path / "s").manifest.shards) == after + 1
        assert all(arrays(tmp_path / "s", str(n)) == arrays(whole, str(n)) for n in range(4))


class TestMeasure:
    def test_all(self, packs: Packs, sources: list[Source]) -> None:
        """Each is measured beside nothing, the text and another memory, from what is stored."""
        store = packs("s", sources, measure="all")
        for name in ("a.txt", "b.txt", "c/d.txt"):
            (record,) = records(store, name)
            told = record.conditioning
            assert told is not None and told.held_out == 4 and told.harm is not None
            assert None not in (told.nll_none, told.nll_text, told.nll_memory) and told.nll_memory != told.nll_none

    def test_all_kept(self, packs: Packs, sources: list[Source]) -> None:
        """A memory of every row is the text, but for rounding."""
        (record,) = records(packs("s", sources[:1], measure="all", ratio=1, bits=16), "a.txt")
        told = record.conditioning
        assert told is not None and told.nll_memory == pytest.approx(told.nll_text, abs=0.02)
        assert told.harm == pytest.approx(0, abs=0.02)

    def test_sample(self) -> None:
        """About 1 in 16 is drawn by its text."""
        drawn = [measures(KVSettings(), hashlib.sha256(bytes([n % 256, n // 256])).digest()) for n in range(2000)]
        assert 80 < sum(drawn) < 180
        assert not any(measures(KVSettings(measure="none"), bytes(32)) for _ in range(2))

    def test_sampled(self, packs: Packs, sources: list[Source], monkeypatch: pytest.MonkeyPatch) -> None:
        """The same documents are measured in any company."""
        monkeypatch.setattr(kv, "SAMPLED", 2)
        wanted = {s.name: hashlib.sha256(s.data).digest()[3] % 2 == 0 for s in sources}
        store = packs("s", sources, measure="sample")
        found = {name: records(store, name)[0].conditioning for name in wanted}
        assert {name: told is not None and told.harm is not None for name, told in found.items()} == wanted


class TestRefine:
    def test_trained(self, packs: Packs, sources: list[Source]) -> None:
        """The same rows, with other numbers."""
        plain, trained = (records(packs(f"{n}", sources[:1], refine=n, ratio=16), "a.txt")[0] for n in (0, 3))
        assert plain.kv is not None and trained.kv is not None
        assert (plain.kv.distances == trained.kv.distances).all() and (plain.kv.values != trained.kv.values).any()
        assert (trained.report.steps, plain.report.token_steps) == (3, 0) and trained.report.token_steps > 100

    def test_even_memories_are_trained_beside_more_unrelated_prompts(
        self, packs: Packs, sources: list[Source], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: list[int] = []

        def noted(*given: Any, **named: Any) -> Recipe:
            made = Recipe(*given, **named)
            asked.append(made.aside_rows)
            return made

        monkeypatch.setattr(kv, "Recipe", noted)
        for number, settings in enumerate(({}, {"budget": "even"}, {"budget": "even", "aside_rows": 5})):
            packs(f"{number}", sources[:1], refine=1, **settings)
        assert asked == [1, 2, 5]

    def test_no_questions(self, packs: Packs) -> None:
        """A text of which no questions can be made stays as it was kept."""
        text = [Source("digits", b"ababab" * 40)]
        plain, trained = (records(packs(f"{n}", text, refine=n), "digits")[0].kv for n in (0, 2))
        assert plain is not None and trained is not None
        assert np.array_equal(plain.keys, trained.keys) and np.array_equal(plain.values, trained.values)

    def test_questions(self, tiny: str, sources: list[Source], tmp_path: Path) -> None:
        """Questions without training would not be learnt from."""
        with pytest.raises(UsageError, match=r"KVSettings\(refine=20\)"):
            memvec.pack(sources, tmp_path / "s", model=tiny, kind="kv", generate=lambda text, count: [])

    def test_given(self, tiny: str, sources: list[Source], tmp_path: Path, passages: dict[str, str]) -> None:
        """Memories learn from given questions too."""
        made = []
        for number, questions in enumerate(([], [memvec.Question("a.txt", "Who?", passages["a.txt"][:20])])):
            store, settings = tmp_path / f"{number}", KVSettings(refine=2, question_rows=400, measure="none")
            memvec.pack(sources[:1], store, model=tiny, kind="kv", kv=settings, questions=questions, dtype="float32")
            made.append(arrays(store, "a.txt"))
        assert made[0] != made[1]
