"""Every kind of document comes back identical, and the report adds up."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import memvec
from memvec.errors import (
    PartialError,
    ReconstructionError,
)
from memvec.filesystem.sources import Source
from memvec.store.store import Store
from memvec.store.transaction import Transaction
from memvec.training.fit import FIRST_SHARE
from memvec.types import Kind, RawReason

Settings = Callable[..., memvec.PackSettings]
Records = Callable[[Path], list[Any]]


def test_round_trip(packed: Path, documents: dict[str, bytes], tmp_path: Path) -> None:
    """Every document comes back identical."""
    report = memvec.unpack(packed, tmp_path / "out")
    assert report.documents == len(documents)
    assert report.tokens > 0
    for name, data in documents.items():
        assert (tmp_path / "out" / name).read_bytes() == data, name
    on_disk = {p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*") if p.is_file()}
    assert on_disk == set(documents)


def test_kinds(packed: Path, documents: dict[str, bytes]) -> None:
    """Text is fitted. Other bytes are raw, with the reason."""
    kinds = {name: memvec.show(packed, name)["parts"] for name in documents}
    reasons = {name: {part["reason"] for part in parts} for name, parts in kinds.items()}
    for name in ("lone-surrogate", "latin-1.txt", "image.png"):
        assert reasons[name] == {RawReason.NOT_TEXT.sentence}
    for name in ("empty", "one-byte"):
        assert reasons[name] == {RawReason.TOO_SHORT.sentence}
    fitted = [n for n in documents if n not in ("lone-surrogate", "latin-1.txt", "image.png", "empty", "one-byte")]
    for name in fitted:
        assert {part["kind"] for part in kinds[name]} == {"exact"}, name


def test_report(packed: Path, documents: dict[str, bytes], tiny_lm: Any, records_of: Records) -> None:
    """The totals of the report are those of the records."""
    report = memvec.info(packed)
    records = records_of(packed)
    exact = [r for r in records if r.kind == Kind.EXACT]
    assert report.documents == len(documents)
    assert report.records == len(records)
    assert report.raw_records == len(records) - len(exact) == 5
    assert report.source_bytes == sum(map(len, documents.values()))
    texts = [d.decode() for n, d in documents.items() if n not in ("lone-surrogate", "latin-1.txt", "image.png")]
    assert report.source_tokens == sum(len(tiny_lm.encode(text)) for text in texts)
    assert report.fitted_tokens == sum(r.tokens for r in exact)
    assert report.vectors == sum(len(r.vectors) for r in exact)
    assert report.tokens_per_vector == pytest.approx(report.fitted_tokens / report.vectors, abs=1e-3)
    assert report.vector_bytes == sum(r.vectors.nbytes for r in exact)
    assert report.corrected_tokens == sum(len(r.corrections) for r in exact)
    assert report.raw_text_bytes == 1
    assert report.token_steps == sum(r.report.token_steps for r in records) > 0
    assert report.store_bytes == sum(p.stat().st_size for p in packed.rglob("*") if p.name != "LOCK" and p.is_file())
    assert 0 < report.zstd_bytes < report.source_bytes
    assert report.exact


def test_fit_reports(packed: Path, records_of: Records, tiny_settings: Settings) -> None:
    """Every record has the report of its fit."""
    for record in records_of(packed):
        if record.kind == Kind.RAW:
            assert len(record.vectors) == 0 and record.payload
            continue
        fit = record.report
        assert fit.corrected_wrong + fit.corrected_margin == len(record.corrections)
        assert len(record.corrections) <= memvec.PackSettings().allowed(record.tokens)
        assert fit.least_margin >= 0.1
        # One attempt ran every vector and a growing part of the tokens in every step; after a refit earlier attempts had
        # fewer vectors.
        vectors = len(record.vectors) if fit.steps <= tiny_settings().max_steps else 1
        assert fit.steps >= 1 and fit.token_steps >= fit.steps * (FIRST_SHARE * record.tokens + vectors - 1)
        assert fit.nats_after < fit.nats_before / 2
        assert fit.seconds > 0


def test_zero_vectors(packed: Path, store: Path, records_of: Records) -> None:
    """The bytes come from the vectors: with zeros in their place decoding fails, and no bytes are given out."""
    opened = Store.open(store)
    records = [r for r in records_of(store) if r.document.name == "prose.txt"]
    Transaction(opened).commit([dataclasses.replace(r, vectors=r.vectors * 0) for r in records])
    with pytest.raises(ReconstructionError) as caught:
        memvec.cat(store, "prose.txt")
    assert caught.value.document == "prose.txt"
    assert memvec.verify(store).ok  # nothing is damaged: the digests are those of what was written
    report = memvec.verify(store, decode=True)
    assert not report.ok
    assert {p.kind for p in report.problems} == {"wrong_text"}
    assert len(report.problems) == len(records)
    assert memvec.cat(packed, "prose.txt").startswith(b"It is a truth")


@given(data=st.binary(max_size=80) | st.text(max_size=60).map(lambda s: s.encode("utf-8", "surrogatepass")))
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_random_documents(
    data: bytes, tiny: str, tiny_settings: Settings, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Random documents come back."""
    store = tmp_path_factory.mktemp("any") / "s.memvec"
    memvec.pack([Source("d", data)], store, model=tiny, settings=tiny_settings(max_steps=40), dtype="float32")
    assert memvec.cat(store, "d") == data


def test_packing_again(store: Path, tree: Path, tiny: str, tiny_settings: Settings, records_of: Records) -> None:
    """A second pack adds new documents, replaces changed ones and leaves the others."""
    before = records_of(store)
    again = memvec.pack([tree], store, model=tiny, settings=tiny_settings(), dtype="float32")
    assert again.unchanged == again.documents == 15
    assert len(records_of(store)) == len(before)
    changed = Source("crlf.txt", b"another text now stands under the same name\r\n")
    fresh = Source("fresh.txt", b"a document that was not there before, and is now")
    report = memvec.pack([changed, fresh], store, model=tiny, settings=tiny_settings(), dtype="float32")
    assert report.documents == 2 and report.unchanged == 0
    assert memvec.cat(store, "crlf.txt") == changed.data
    assert memvec.cat(store, "fresh.txt") == fresh.data
    assert memvec.cat(store, "emoji.txt") == (tree / "emoji.txt").read_bytes()
    assert [row.name for row in memvec.list(store)].count("crlf.txt") == 1


def test_refit_then_raw(tmp_path: Path, tiny: str, tiny_settings: Settings, records_of: Records) -> None:
    """Too many corrections lead to a refit, and then to a raw record."""
    text = Source("hard.txt", b"Zqx vrblt 81723 kwxy plonk! 99817 jjq 5521 xxz")
    hopeless = tiny_settings(max_steps=2, refits=2)
    report = memvec.pack([text], tmp_path / "a.memvec", model=tiny, settings=hopeless, dtype="float32")
    records = records_of(tmp_path / "a.memvec")
    assert all(r.kind == Kind.RAW and r.reason == RawReason.NO_FIT for r in records)
    assert all(r.report.steps == 3 * 2 for r in records)  # the cost of failing is counted too
    assert report.token_steps == sum(r.report.token_steps for r in records) > 0
    assert report.raw_text_bytes == len(text.data)
    assert memvec.cat(tmp_path / "a.memvec", "hard.txt") == text.data
    few = tiny_settings(nats_per_vector=40.0, max_steps=120)
    memvec.pack([text], tmp_path / "b.memvec", model=tiny, settings=few, dtype="float32")
    records = records_of(tmp_path / "b.memvec")
    assert all(r.kind == Kind.EXACT for r in records)
    asked = sum(r.report.nats_before for r in records) / 40.0
    assert sum(len(r.vectors) for r in records) > asked + len(records)  # refits took more vectors than the budget
    assert memvec.cat(tmp_path / "b.memvec", "hard.txt") == text.data


def test_strict(tmp_path: Path, tiny: str, tiny_settings: Settings, records_of: Records) -> None:
    """`strict` stores no correction of a wrong token."""
    text = Source("t.txt", b"It is a truth universally acknowledged, that a single man in possession of a fortune")
    for strict in (False, True):
        store = tmp_path / f"{strict}.memvec"
        chosen = tiny_settings(strict=strict, max_corrections=0.25, margin=0.5)
        memvec.pack([text], store, model=tiny, settings=chosen, dtype="float32")
        wrong = sum(r.report.corrected_wrong for r in records_of(store))
        assert (wrong == 0) == strict
        assert memvec.cat(store, "t.txt") == text.data


@pytest.mark.parametrize("count", [1, 3])
def test_fixed_vectors(tmp_path: Path, tiny: str, tiny_settings: Settings, count: int, records_of: Records) -> None:
    """`vectors` fixes the number of vectors of a segment."""
    text = Source("t.txt", b"She was convinced that she could have been happy with him, when it was no longer likely.")
    memvec.pack([text], tmp_path / "s", model=tiny, settings=tiny_settings(vectors=count), dtype="float32")
    exact = [r for r in records_of(tmp_path / "s") if r.kind == Kind.EXACT]
    assert exact and all(len(r.vectors) == count for r in exact)
    assert memvec.cat(tmp_path / "s", "t.txt") == text.data


def test_seed(tmp_path: Path, tiny: str, tiny_settings: Settings, records_of: Records) -> None:
    """The same seed makes the same vectors."""
    text = Source("t.txt", b"She was convinced that she could have been happy with him, when it was no longer likely.")
    made = []
    for number, seed in enumerate((5, 5, 6)):
        store = tmp_path / f"{number}.memvec"
        memvec.pack([text], store, model=tiny, settings=tiny_settings(seed=seed), dtype="float32")
        made.append([r.vectors.tobytes() for r in records_of(store)])
    assert made[0] == made[1] != made[2]


def test_skipped(tmp_path: Path, tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that cannot be read are skipped and reported."""
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "good").write_bytes(b"ok")
    os.mkfifo(tree / "pipe")
    (tree / "loop").symlink_to(tree)
    (tree / "shut").write_bytes(b"no")
    real = os.open

    def refuse(path: str, *rest: int, **options: int) -> int:
        if str(path).endswith("shut"):
            raise PermissionError(13, "Permission denied")
        return real(path, *rest, **options)

    monkeypatch.setattr("memvec.filesystem.sources.os.open", refuse)
    report = memvec.pack([tree], tmp_path / "s.memvec", model=tiny)
    assert sorted(skipped.name for skipped in report.skipped) == ["loop", "pipe", "shut"] and report.documents == 1
    assert dict(report.skipped)["shut"] == "Permission denied"
    with pytest.raises(PartialError, match="Nothing else was there to pack"):
        memvec.pack([tree / "shut"], tmp_path / "none.memvec", model=tiny)
    assert not (tmp_path / "none.memvec").exists()
    assert memvec.cat(tmp_path / "s.memvec", "good") == b"ok"
