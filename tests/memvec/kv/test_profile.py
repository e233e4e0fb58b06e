"""The profile of a model's heads: from fixed texts, kept in the cache folder, the same wherever it is read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from memvec.kv import profile
from memvec.kv.profile import RATIOS, HeadProfile, profile_of, texts


@pytest.fixture(scope="module")
def found(tiny_lm: Any) -> HeadProfile:
    """The profile of the tiny LM, from the first 40 tokens of each text."""
    return profile.found(tiny_lm, 40)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder."""
    monkeypatch.setenv("MEMVEC_CACHE", str(tmp_path))
    return tmp_path / "kv_profiles" / "made-up.json"


class TestShares:
    def test_mean(self, found: HeadProfile) -> None:
        """All heads together keep 1 of so many rows, and some keep more than others."""
        for ratio in RATIOS:
            shares = found.at(ratio)
            assert float(shares.mean()) == pytest.approx(1 / ratio, rel=0.25) and shares.shape == (4, 2)
            assert float(shares.max()) > 1.2 * float(shares.min())
        assert bool((found.at(1.0) == 1).all())

    def test_between(self, found: HeadProfile) -> None:
        """Half the way from 4 to 8, in the logarithm, is the mean of both."""
        middle = found.at(32**0.5)
        assert torch.allclose(middle, (found.at(4.0) + found.at(8.0)) / 2)
        assert torch.equal(found.at(500.0), found.at(32.0))

    def test_attention(self, found: HeadProfile) -> None:
        """More of it goes to the rows kept than an equal share, and less at higher ratios."""
        assert list(found.attention) == sorted(found.attention, reverse=True) and found.attention[0] == 1
        assert all(share > 1.2 / ratio for ratio, share in zip(RATIOS, found.attention[1:], strict=True))

    @pytest.mark.parametrize(
        ("attention", "safe"),
        [((1.0, 0.97, 0.91, 0.77, 0.52, 0.3), 8), ((1.0, 0.9, 0.71, 0.69, 0.5, 0.3), 4), ((1.0, 0.6, 0, 0, 0, 0), 1)],
    )
    def test_safe(self, attention: tuple[float, ...], safe: float, found: HeadProfile) -> None:
        """The greatest ratio at which heads keep 7 tenths of their attention."""
        assert HeadProfile(found.ratios, found.shares, attention).safe_ratio == safe

    def test_texts(self) -> None:
        """They are a dozen, of more than a hundred words or nearly."""
        assert len(texts()) == 12 and min(len(text.split()) for text in texts()) > 90


class TestKept:
    def test_found_once(self, found: HeadProfile, tiny_lm: Any, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The second time it is read, with the same shares to the last bit."""
        first = profile_of(tiny_lm, "made-up", 40)
        assert cache.exists() and torch.equal(first.shares, found.shares)
        monkeypatch.setattr(profile, "found", None)
        assert torch.equal(profile_of(tiny_lm, "made-up", 40).shares, first.shares)

    @pytest.mark.parametrize(
        "damage",
        [
            "",
            "[1]",
            '{"version": 2}',
            (
                '{"version": 1, "ratios": [1, 2, 4, 8, 16, 32], "attention": [1, 1, 1, 1, 1, 1], "shares": '
                "[[[1]], [[1]], [[1]], [[1]], [[1]], [[1]]]}"
            ),
            (
                '{"version": 2, "ratios": [1, 2, 4, 8, 16, 32], "attention": [1, 1, 1, 1, 1, 7], "shares": '
                "[[[1]], [[1]], [[1]], [[1]], [[1]], [[1]]]}"
            ),
        ],
    )
    def test_damaged(self, damage: str, tiny_lm: Any, cache: Path) -> None:
        """A damaged file is replaced."""
        cache.parent.mkdir()
        cache.write_text(damage)
        profile_of(tiny_lm, "made-up", 40)
        assert json.loads(cache.read_text())["ratios"] == [1.0, *RATIOS]

    def test_nowhere(self, tiny_lm: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without a place for it, it is found all the same."""
        (tmp_path / "file").touch()
        monkeypatch.setenv("MEMVEC_CACHE", str(tmp_path / "file" / "below"))
        assert len(profile_of(tiny_lm, "made-up", 40).ratios) == 6

    def test_shipped(self, tiny_lm: Any, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """That of the default model comes with the package: 30 layers of 3 heads."""
        monkeypatch.setattr(profile, "found", None)
        shipped = profile_of(tiny_lm, "b774fc7952d6f201")
        assert (
            shipped.safe_ratio == 8
            and shipped.shares.shape == (6, 30, 3)
            and int((shipped.at(8.0) > 0.5).sum()) in range(5, 15)
        )

    def test_ship(self, tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(profile, "MOST_TOKENS", 40)
        profile.ship(tiny, tmp_path)
        (file,) = tmp_path.iterdir()
        assert json.loads(file.read_text())["fingerprint"] == file.stem
