"""Settings check their values, and say how many vectors and corrections a text may have."""

from __future__ import annotations

from typing import Any

import pytest

from memvec.errors import UsageError
from memvec.settings import ContextSettings, KVSettings, PackSettings


class TestPackSettings:
    @pytest.mark.parametrize(
        "wrong",
        [{"vectors": 0}, {"segment_tokens": 2}, {"max_corrections": 1.5}, {"nats_per_vector": 0.0}, {"margin": -1}],
    )
    def test_values_out_of_range(self, wrong: dict[str, Any]) -> None:
        with pytest.raises(UsageError, match="expected"):
            PackSettings(**wrong)

    def test_corrections(self) -> None:
        """The allowed share is rounded up to a token. A young fit aims at half of it."""
        settings = PackSettings(max_corrections=0.03)
        assert [settings.allowed(n) for n in (8, 33, 34, 64, 67)] == [1, 1, 2, 2, 3]
        assert [settings.enough(n) for n in (8, 32, 64, 100)] == [0, 0, 1, 2]
        assert settings.enough(64, settings.patience + 1) == settings.allowed(64)
        assert PackSettings(max_corrections=0.0).allowed(64) == 0

    def test_budget(self) -> None:
        """It is in proportion to the width, unless it is set."""
        assert PackSettings().budget(576) == pytest.approx(95) and PackSettings().budget(1152) == pytest.approx(190)
        assert PackSettings(nats_per_vector=9.0).budget(576) == 9

    def test_growth(self) -> None:
        """A fit sees all of its segment after half of its steps at most."""
        assert (PackSettings().grown, PackSettings(max_steps=20).grown) == (24, 10)


class TestContextSettings:
    def test_nothing_to_learn_from(self) -> None:
        with pytest.raises(UsageError, match="Set one of them"):
            ContextSettings(question_rows=0)
        assert ContextSettings(question_rows=0, span=8).span == 8

    def test_ratio(self) -> None:
        with pytest.raises(UsageError, match=r"ratio is 17, expected 16 or less: .*gist=True"):
            ContextSettings(ratio=17)
        assert ContextSettings(ratio=17, gist=True).vectors_for(34) == 2

    def test_stride(self) -> None:
        """It is at most the span."""
        with pytest.raises(UsageError, match="stride is 9, expected 1 to 8"):
            ContextSettings(span=8, stride=9)


class TestKVSettings:
    def test_unrelated_prompts(self) -> None:
        """Even memories are kept from harm by more of them. Reuse tells the recipes apart."""
        head, even = KVSettings(refine=20), KVSettings(refine=20, budget="even")
        assert (head.asides, even.asides) == (1, 2)
        assert "8 and 1 rows" in head.recipe and "8 and 2 rows" in even.recipe
        assert KVSettings(refine=20, budget="even", aside_rows=0).asides == 0
