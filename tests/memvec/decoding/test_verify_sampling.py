"""verify of large stores: a sample, a budget of time, and what the report says was not looked at."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import pytest

import memvec
from memvec.decoding.verify import sample_size
from memvec.errors import UsageError
from memvec.store.store import Store
from memvec.store.transaction import Transaction
from memvec.types import Kind


def fitted(store: Path) -> int:
    report = memvec.info(store)
    return report.records - report.raw_records


def test_a_sample_is_decoded_and_the_rest_is_not(few: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from memvec.decoding import greedy as module

    real, drawn = module.decode, []

    def decode(lm: Any, vectors: Any, *rest: Any) -> list[list[int]]:
        drawn.extend(v.tobytes() for v in vectors)
        return real(lm, vectors, *rest)

    monkeypatch.setattr(module, "decode", decode)
    report = memvec.verify(few, decode=True, sample=4)
    raw = memvec.info(few).raw_records
    assert report.ok and report.partial and report.sampled
    assert len(drawn) == 4 and report.decoded == 4 + raw < report.decodable == report.checked == report.records
    first, drawn = set(drawn), []
    memvec.verify(few, decode=True, sample=4)
    assert set(drawn) == first
    drawn = []
    memvec.verify(few, decode=True, sample=4, seed=1)
    assert set(drawn) != first
    whole = memvec.verify(few, decode=True, sample="100%")
    assert not whole.partial and whole.sampled and whole.decoded == whole.decodable


def test_a_sample_finds_what_is_in_it(few_copy: Path) -> None:
    opened = Store.open(few_copy)
    records = [opened.record(ref) for ref in opened.documents()["prose.txt"].records]
    Transaction(opened).commit([dataclasses.replace(r, vectors=r.vectors * 0) for r in records])
    found = [memvec.verify(few_copy, decode=True, sample=1, seed=seed) for seed in range(4)]
    assert {report.ok for report in found} == {True, False}
    assert all(p.kind == "wrong_text" and "prose.txt" in p.message for r in found for p in r.problems)
    whole = memvec.verify(few_copy, decode=True, sample=10_000)
    assert len(whole.problems) == len(records)
    assert all("in a batch of one" in problem.message for problem in whole.problems)


def test_a_sample_joins_no_document_that_is_not_whole_in_it(few: Path) -> None:
    assert all(memvec.verify(few, decode=True, sample=1, seed=seed).ok for seed in range(2))


def test_long_documents_are_joined_across_what_is_decoded_at_once(
    few_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("memvec.decoding.reader.RECORDS_AT_ONCE", 1)
    assert memvec.verify(few_copy, decode=True).ok
    opened = Store.open(few_copy)
    stored = opened.documents()["prose.txt"]
    assert len(stored.records) > 2
    lie = dataclasses.replace(stored.document, sha256="ab" * 32)
    Transaction(opened).commit([dataclasses.replace(opened.record(ref), document=lie) for ref in stored.records])
    (problem,) = memvec.verify(few_copy, decode=True).problems
    assert problem.location == "prose.txt"


def test_time_runs_out_while_decoding(few: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("memvec.decoding.verify.FEW_AT_ONCE", 1)
    clock, start = {"now": 0.0}, time.perf_counter()
    monkeypatch.setattr("memvec.decoding.verify.time.perf_counter", lambda: start + clock["now"])
    tokens = 0

    def watch(progress: memvec.progress.Progress) -> None:  # type: ignore[name-defined]
        nonlocal tokens
        tokens = progress.tokens_done
        clock["now"] = 100.0 if tokens > 80 else 0.0

    report = memvec.verify(few, decode=True, max_seconds=50, watch=watch)
    assert report.ok and report.partial and not report.sampled
    assert 0 < report.decoded < report.decodable and report.checked == report.records
    assert tokens < memvec.info(few).fitted_tokens
    clock["now"] = 0.0
    whole = memvec.verify(few, decode=True, max_seconds=50)
    assert whole.ok and not whole.partial and whole.decoded == whole.decodable


def test_time_runs_out_before_anything(few: Path) -> None:
    report = memvec.verify(few, max_seconds=1e-9)
    assert report.ok and report.partial and report.checked == report.decoded == 0
    assert not memvec.verify(few, max_seconds=1000).partial


@pytest.mark.parametrize(
    ("sample", "size"), [("5%", 10), ("5 %", 10), (7, 7), ("7", 7), (1000, 200), ("0.1%", 1), (".5%", 1), ("100%", 200)]
)
def test_sizes(sample: str | int, size: int) -> None:
    assert sample_size(sample, 200) == size


@pytest.mark.parametrize("sample", ["0", 0, "0%", "101%", "-3", "many", "", "nan", "1e3", "5%%"])
def test_invalid_sizes(few: Path, sample: str | int) -> None:
    with pytest.raises(UsageError, match="sample is"):
        memvec.verify(few, decode=True, sample=sample)


def test_invalid_options(few: Path) -> None:
    with pytest.raises(UsageError, match="decode=True"):
        memvec.verify(few, sample=3)
    for seconds in (0, -1, float("nan")):
        with pytest.raises(UsageError, match="max_seconds"):
            memvec.verify(few, max_seconds=seconds)


def test_as_a_user_would(few: Path, capsysbinary: Any) -> None:
    from memvec.cli.main import run

    assert run(["verify", str(few), "--decode", "--sample", "10%", "--seed", "3"]) == 0
    out, _ = capsysbinary.readouterr()
    assert out.startswith(b"ok so far: ") and b" were not decoded" in out
    assert run(["verify", str(few), "--decode", "--sample", "10%", "--json"]) == 0
    report = json.loads(capsysbinary.readouterr()[0])
    assert report["partial"] and report["sampled"] and report["ok"]
    raw = sum(record.kind == Kind.RAW for record in Store.open(few).shard(0))
    assert report["decoded"] == raw + sample_size("10%", fitted(few))
    assert run(["verify", str(few), "--sample", "10%"]) == 2
