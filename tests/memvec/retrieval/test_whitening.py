"""Weights of tokens and the whitening of an embedding table, and the cache they are kept in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import memvec
from memvec.retrieval.embedders import Table, maker
from memvec.retrieval.whitening import TableStatistics


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    monkeypatch.setenv("MEMVEC_CACHE", str(tmp_path))
    return tmp_path


class Spelled:
    """A tokenizer of which only the words are known."""

    def __init__(self, words: Sequence[str]) -> None:
        self.words = words

    def __len__(self) -> int:
        return len(self.words)

    def batch_decode(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """The words of rows of tokens."""
        return ["".join(self.words[token] for token in row) for row in rows]


def random_table(rows: int, width: int = 4) -> Any:
    """Embeddings (rows, width) float16."""
    return np.random.default_rng(0).standard_normal((rows, width)).astype(np.float16)


def test_keys_are_whitened_by_the_one_symmetric_matrix(tiny: str, cache: Path) -> None:
    made = maker("lm", Path(tiny), memvec.fingerprint(tiny))
    assert isinstance(made, Table)
    whitening = made.statistics.whitening
    assert np.allclose(whitening, whitening.T, atol=1e-3 * np.abs(whitening).max())
    odds = 1 / (np.arange(len(made.table)) + 2.7)
    rows = (made.table.astype(np.float64) - made.statistics.middle) @ whitening
    covariance = (rows * (odds / odds.sum())[:, None]).T @ rows
    assert np.abs(covariance - np.eye(len(covariance))).max() < 0.02


def test_rare_tokens_weigh_more_and_marks_least_wherever_they_stand() -> None:
    words = ["the", " of", "ferry", "**", "\ufffd", ",", " "]
    weights = TableStatistics.of(random_table(9), Spelled(words)).weights
    assert (
        np.diff(weights[:5]) > 0
    ).all()  # marks that mean something together and parts of characters keep their rank
    assert weights[5] == weights[6] == weights[0]
    assert (weights[7:] > weights[4]).all()  # rows of the table that no token has


@pytest.mark.parametrize("damage", ["none", "bit", "shorter", "folder"])
def test_what_the_cache_gives_is_what_was_worked_out(cache: Path, damage: str) -> None:
    table, tokenizer = random_table(7), Spelled(["a", "b", "c", "d", "e", "f", "."])
    fresh = TableStatistics.of(table, tokenizer)
    TableStatistics.cached("name", table, tokenizer)
    file = cache / "keys" / "name.bin"
    kept = file.read_bytes()
    if damage == "bit":
        file.write_bytes(kept[:50] + bytes([kept[50] ^ 1]) + kept[51:])
    elif damage == "shorter":
        file.write_bytes(kept[:-4])
    elif damage == "folder":
        file.unlink()
        file.mkdir()  # neither read nor written
    again = TableStatistics.cached("name", table, tokenizer)
    for part in ("weights", "middle", "whitening"):
        assert (getattr(again, part) == getattr(fresh, part)).all()
    assert damage == "folder" or file.read_bytes() == kept


def test_a_kept_file_spares_the_work(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table, tokenizer = random_table(3), Spelled(["a", "b", "."])
    TableStatistics.cached("name", table, tokenizer)
    monkeypatch.setattr(TableStatistics, "of", lambda *_: pytest.fail("worked out again"))
    TableStatistics.cached("name", table, tokenizer)
