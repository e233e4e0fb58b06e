"""The same text under another name, or in another place, is copied and not fitted again."""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from made import kv, memory, put

import memvec
from memvec.errors import InterruptedPackError
from memvec.filesystem.sources import Source
from memvec.packing.context import RECIPE
from memvec.packing.estimate import estimate
from memvec.packing.plan import Window
from memvec.packing.records import context_record
from memvec.packing.reuse import Held, acceptable, moved
from memvec.settings import ContextSettings, PackSettings
from memvec.store.lock import writing
from memvec.store.store import Store
from memvec.store.transaction import Transaction
from memvec.training.fit import FitEngine
from memvec.types import Conditioning, Document, FitReport, Kind, Record

PROSE = b"It is a truth universally acknowledged, that a single man in possession of a good fortune, must be in want of a wife.\n"
LETTER = b"The ladies of the house were at supper when the carriage came, and nobody heard it.\n"
IMAGE = b"\x89PNG\r\n" + bytes(range(256))
Settings = Callable[..., PackSettings]


@pytest.fixture(scope="module")
def held(tiny: str, tiny_settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of a text and an image. Not to be changed."""
    store = tmp_path_factory.mktemp("held") / "s.memvec"
    memvec.pack(
        [Source("first", PROSE), Source("image", IMAGE)], store, model=tiny, settings=tiny_settings(), dtype="float32"
    )
    return store


@pytest.fixture
def store(held: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(held, tmp_path / "s.memvec"))


@pytest.fixture
def fitted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The tokens of every task that an engine is given, as they come."""
    seen: list[tuple[int, ...]] = []
    add = FitEngine.add

    def noted(self: FitEngine, tasks: Any) -> None:
        tasks = list(tasks)
        seen.extend(task.ids for task in tasks)
        add(self, tasks)

    monkeypatch.setattr(FitEngine, "add", noted)
    return seen


@pytest.fixture
def packs(tiny: str, tiny_settings: Settings) -> Callable[..., memvec.PackReport]:
    def pack(store: Path, settings: dict[str, Any] | None = None, **documents: Any) -> memvec.PackReport:
        options = {name: documents.pop(name) for name in ("reuse", "kind", "context") if name in documents}
        sources = [Source(name, data) for name, data in documents.items()]
        return memvec.pack(
            sources, store, model=tiny, settings=tiny_settings(**(settings or {})), dtype="float32", **options
        )

    return pack


def records(store: Path, name: str) -> list[Record]:
    opened = Store.open(store)
    stored = opened.documents()[name]
    return [opened.record(ref) for ref in stored.records + stored.memory]


class TestDocuments:
    """A document of the same bytes."""

    def test_under_another_name(self, store: Path, packs: Any, fitted: list[Any]) -> None:
        report = packs(store, second=PROSE, picture=IMAGE)
        assert fitted == [] and report.reused == report.records == len(records(store, "first")) + 1
        for mine, first in zip(records(store, "second"), records(store, "first"), strict=True):
            assert mine.document.name == "second" and mine.document.sha256 == first.document.sha256
            assert (mine.vectors.tobytes(), mine.corrections, mine.report) == (
                first.vectors.tobytes(), first.corrections, first.report,
            )  # fmt: skip
        assert memvec.verify(store, decode=True).ok
        assert (memvec.cat(store, "second"), memvec.cat(store, "picture")) == (PROSE, IMAGE)

    def test_renamed(self, store: Path, packs: Any, fitted: list[Any]) -> None:
        memvec.rm(store, "first")
        assert packs(store, renamed=PROSE).reused and fitted == []
        assert [row.name for row in memvec.list(store)] == ["image", "renamed"]

    def test_after_its_name_got_other_bytes(self, store: Path, packs: Any, fitted: list[Any]) -> None:
        packs(store, first=LETTER)
        fitted.clear()
        assert packs(store, again=PROSE).reused and fitted == []

    def test_with_another_budget(self, store: Path, packs: Any, fitted: list[Any]) -> None:
        assert packs(store, {"nats_per_vector": 5.0, "segment_tokens": 16}, second=PROSE).reused and fitted == []

    def test_twice_in_one_pack(self, tmp_path: Path, packs: Any, fitted: list[Any]) -> None:
        report = packs(tmp_path / "new.memvec", one=LETTER, two=LETTER)
        assert len(fitted) == len(set(fitted)) and 2 * report.reused == report.records
        assert memvec.cat(tmp_path / "new.memvec", "one") == memvec.cat(tmp_path / "new.memvec", "two") == LETTER

    def test_unless_it_is_to_be_fitted_anew(self, store: Path, packs: Any, fitted: list[Any]) -> None:
        assert packs(store, second=PROSE, reuse=False).reused == 0 and fitted

    def test_its_keys_are_stored(self, tiny: str, tiny_settings: Settings, tmp_path: Path) -> None:
        store = tmp_path / "s.memvec"
        for name, keys in (("first", ()), ("second", ("bm25",))):
            memvec.pack([Source(name, PROSE)], store, model=tiny, settings=tiny_settings(), dtype="float32", keys=keys)
        assert "second" in {hit.document for hit in memvec.search(store, "a single man", 9)}


class TestSegments:
    """A segment of the same text in another document."""

    def test_of_a_text_that_goes_on(self, store: Path, packs: Any, fitted: list[Any]) -> None:
        longer = PROSE + LETTER
        report = packs(store, longer=longer)
        assert 0 < report.reused < report.records and len(fitted) == report.records - report.reused
        assert memvec.cat(store, "longer") == longer

    def test_that_repeats_itself(self, tmp_path: Path, packs: Any, fitted: list[Any]) -> None:
        report = packs(tmp_path / "s.memvec", a=b"the same line again\n" * 200)
        assert len(fitted) < 20 < report.records
        assert memvec.cat(tmp_path / "s.memvec", "a") == b"the same line again\n" * 200

    def test_that_stays_raw(self, tmp_path: Path, packs: Any) -> None:
        store = tmp_path / "s.memvec"
        report = packs(store, {"max_steps": 1, "refits": 0, "max_corrections": 0.0}, one=LETTER, two=LETTER)
        assert report.raw_records == report.records == 2 * report.reused
        assert memvec.cat(store, "two") == LETTER

    def test_an_interrupted_pack_keeps_both_places(
        self, tmp_path: Path, packs: Any, tiny: str, tiny_settings: Settings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("memvec.packing.exact.CERTIFY_AT_ONCE", 1)
        store = tmp_path / "s.memvec"

        def stop(progress: Any) -> None:
            if progress.segments_done:
                raise KeyboardInterrupt

        two = [Source(name, LETTER * 3) for name in "ab"]
        with pytest.raises(InterruptedPackError) as caught:
            memvec.pack(two, store, model=tiny, settings=tiny_settings(memory=1), dtype="float32", watch=stop)
        assert caught.value.finished >= 2
        starts = [{r.start for r in v.records} for v in Store.open(store).versions()]
        assert len(starts) == 2 and starts[0] == starts[1]
        assert packs(store, a=LETTER * 3, b=LETTER * 3).documents == 2
        assert memvec.cat(store, "a") == memvec.cat(store, "b") == LETTER * 3


class TestTrust:
    """What a store says of a text is looked at before a document relies on it."""

    def test_records_that_do_not_decode_are_not_copied(self, store: Path, packs: Any, fitted: list[Any]) -> None:
        opened = Store.open(store)
        digest = hashlib.sha256(LETTER)
        liar = Document("liar", len(LETTER), digest.hexdigest(), 50, 30)
        wrong = dataclasses.replace(
            records(store, "first")[0], document=liar, start=0, length=len(LETTER), text_sha256=digest.digest()
        )
        with writing(store):
            Transaction(opened).commit([wrong])
        assert packs(store, second=LETTER).reused == 0 and fitted
        assert memvec.cat(store, "second") == LETTER

    def test_a_damaged_record_is_passed_over(self, store: Path, packs: Any, fitted: list[Any]) -> None:
        opened = Store.open(store)
        record, digest = opened.record, opened.documents()["image"].records[0]
        assert record(digest).kind == Kind.RAW
        found = Held(opened).documents([Source("x", IMAGE)], PackSettings())
        assert [r.payload for r in next(iter(found.values()))] == [record(digest).payload]
        (file,) = (store / "shards").glob("*.safetensors")
        data = file.read_bytes()
        place = data.index(record(digest).payload)
        file.write_bytes(data[: place + 20] + bytes([data[place + 20] ^ 1]) + data[place + 21 :])
        assert Held(Store.open(store)).documents([Source("x", IMAGE)], PackSettings()) == {}

    @pytest.mark.parametrize(
        ("change", "taken"),
        [({}, True), ({"margin": 50.0}, False), ({"vectors": 1}, False), ({"nats_per_vector": 1.0}, True)],
    )
    def test_what_settings_ask_of_a_certificate(
        self, held: Path, tiny_settings: Settings, change: dict[str, Any], taken: bool
    ) -> None:
        record = records(held, "first")[0]
        assert acceptable(record, tiny_settings(**change)) is taken

    def test_corrections_count(self, held: Path, tiny_settings: Settings) -> None:
        record = records(held, "first")[0]
        report = dataclasses.replace(record.report, corrected_wrong=1)
        wrong = dataclasses.replace(record, corrections=((0, 1),), report=report)
        assert acceptable(wrong, tiny_settings(max_corrections=0.5))
        assert not acceptable(wrong, tiny_settings(max_corrections=0.5, strict=True))
        assert not acceptable(wrong, tiny_settings(max_corrections=0.0))

    def test_moved(self, held: Path) -> None:
        record = records(held, "first")[0]
        (copy,) = moved([record], dataclasses.replace(record.document, name="other"), 7)
        assert (copy.document.name, copy.start, copy.vectors) == ("other", record.start + 7, record.vectors)


class Noise:
    """Stands for `Distilling`: noise for vectors, and the windows that were asked for."""

    asked: ClassVar[list[str]] = []

    def __init__(self, lm: Any, settings: ContextSettings, questions: Any, generate: Any) -> None:
        self.settings, self.width = settings, lm.width

    def run(self, lots: Iterable[Sequence[Window]], *_: Any) -> Iterator[tuple[Record, str]]:
        """A record for each window."""
        for window in chain.from_iterable(lots):
            self.asked.append(window.document.name)
            tokens = len(window.segment.ids)
            noise = np.random.default_rng(0).standard_normal((self.settings.vectors_for(tokens), self.width))
            said = Conditioning(0.5, 0.1, 0.25, 0.01, 3.0, 2.0, 2.5, 8, RECIPE, self.settings.seed)
            report, data = FitReport(steps=self.settings.steps), window.text.encode()
            vectors = noise.astype(np.float16)
            record = context_record(window.document, window.segment.start, data, tokens, vectors, said, report)
            yield record, window.text


class TestMemories:
    """A memory of the same text."""

    @pytest.fixture(autouse=True)
    def asked(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        monkeypatch.setattr("memvec.packing.context.Distilling", Noise)
        Noise.asked.clear()
        return Noise.asked

    def test_is_copied_with_what_was_measured(self, tmp_path: Path, packs: Any, asked: list[str]) -> None:
        store = tmp_path / "m.memvec"
        assert packs(store, kind="context", a=PROSE, b=PROSE).reused == 1
        assert packs(store, kind="context", c=PROSE).reused == 1
        assert asked == ["a"]
        (first, *others) = [records(store, name)[0] for name in "abc"]
        for other in others:
            assert other.vectors.tobytes() == first.vectors.tobytes() and other.conditioning == first.conditioning

    def test_beside_content(self, store: Path, packs: Any, asked: list[str], fitted: list[Any]) -> None:
        packs(store, kind="context", first=PROSE)
        report = packs(store, kind="both", second=PROSE)
        assert report.reused == report.records + report.context_records and (asked, fitted) == (["first"], [])

    @pytest.mark.parametrize("change", [{"ratio": 8.0}, {"steps": 5}, {"seed": 1}])
    def test_of_other_settings_is_made_anew(
        self, tmp_path: Path, packs: Any, asked: list[str], change: dict[str, Any]
    ) -> None:
        packs(tmp_path / "m.memvec", kind="context", a=PROSE)
        assert packs(tmp_path / "m.memvec", kind="context", context=ContextSettings(**change), b=PROSE).reused == 0
        assert asked == ["a", "b"]

    def test_with_questions_is_of_its_document(self, tmp_path: Path, tiny: str, asked: list[str]) -> None:
        questions = [memvec.Question("b", "What is acknowledged?", "a truth")]
        two = [Source("a", PROSE), Source("b", PROSE)]
        options: dict[str, Any] = {"model": tiny, "kind": "context", "questions": questions, "dtype": "float32"}
        assert memvec.pack(two, tmp_path / "m.memvec", **options).reused == 0
        assert asked == ["a", "b"]


class TestKv:
    """A kv memory of the same text."""

    def test_the_newest_that_matches_is_found(self, tmp_path: Path) -> None:
        held = Held(
            put(tmp_path / "s", kv("a", PROSE, bits=4), kv("b", PROSE, bits=16), kv("c", LETTER), memory("d", PROSE))
        )
        texts = [hashlib.sha256(data).digest() for data in (PROSE, LETTER, IMAGE)]
        found = held.kv(texts, lambda record: True)
        assert [(r.document.name, r.kind) for r in found.values()] == [("b", Kind.KV), ("c", Kind.KV)]
        assert list(found) == texts[:2]
        found = held.kv(texts[:1], lambda record: record.kv is not None and record.kv.bits == 4)
        assert [r.document.name for r in found.values()] == ["a"]
        assert held.kv([], lambda record: True) == {}

    def test_that_of_a_removed_document_too(self, tmp_path: Path) -> None:
        put(tmp_path / "s", kv("a", PROSE))
        memvec.rm(tmp_path / "s", ["a"])
        found = Held(Store.open(tmp_path / "s")).kv([hashlib.sha256(PROSE).digest()], lambda record: True)
        (copy,) = moved(found.values(), Document("b", 9, "0" * 64, 0, 0), by=5)
        assert (copy.document.name, copy.start) == ("b", 5) and copy.kv is not None
        assert copy.kv.values.tobytes() == kv("a", PROSE)[0].kv.values.tobytes()  # type: ignore[union-attr]


class TestDryRun:
    """A dry run foresees copies."""

    def test_copies_take_no_time(self, held: Path, tiny: str, tiny_settings: Settings) -> None:
        before = sorted(held.rglob("*"))
        options: dict[str, Any] = {"model": tiny, "settings": tiny_settings(), "dtype": "float32"}
        found = estimate([Source("second", PROSE)], held, **options)
        assert (found.tokens, found.vectors, found.seconds) == (0, 0, 0.0) and found.reused == found.records > 0
        assert estimate([Source("second", PROSE)], held, reuse=False, **options).tokens > 0
        twice = estimate([Source("a", LETTER), Source("b", LETTER)], held, **options)
        assert 2 * twice.reused == twice.records
        assert sorted(held.rglob("*")) == before
