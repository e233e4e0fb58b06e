"""The gain is a ratio of sums, and its interval comes from documents drawn again and again."""

from __future__ import annotations

import pytest

from memvec.evaluation.gain import Sums, interval, per_token, ratio_interval, share


def document(none: float, text: float, memory: float | None = None, tokens: int = 10) -> Sums:
    return Sums({"none": none, "text": text, **({} if memory is None else {"memory": memory})}, tokens)


def test_share() -> None:
    """The share is a ratio of means, not a mean of ratios."""
    assert share([document(100, 0, 50), document(1, 0, 1)], "memory") == pytest.approx(50 / 101)


def test_missing_arm() -> None:
    """Documents without the arm are left out."""
    assert share([document(10, 0, 2), document(1000, 0)], "memory") == pytest.approx(0.8)
    assert share([document(10, 0)], "memory") is None
    assert per_token([document(10, 0, 2), document(1000, 0)], "memory") == pytest.approx(0.2)


def test_useless_text() -> None:
    """A text that does not help gives no share."""
    assert share([document(10, 10, 5)], "memory") is None
    assert document(10, 9).usable
    assert not document(10, 9.01).usable  # 0.099 nats a token
    assert not document(0, 0, tokens=0).usable


def test_interval() -> None:
    """The interval holds the share, and is wider for documents that differ more."""
    alike = [document(10, 0, 2)] * 8
    assert interval(alike, "memory") == pytest.approx((0.8, 0.8))
    spread = [document(10, 0, x) for x in (0, 1, 2, 4, 8, 9, 3, 5)]
    low, high = interval(spread, "memory") or (0, 0)
    assert 0.3 < low < (share(spread, "memory") or 0) < high < 0.9
    assert interval(spread, "memory") == (low, high)  # seeded
    assert interval(alike[:1], "memory") is None


def test_ratio_interval() -> None:
    """The sums are divided, not each pair. Draws in which the second sum is nothing are left out."""
    assert ratio_interval([(1.0, 2.0)] * 5) == (0.5, 0.5)
    low, high = ratio_interval([(0.0, 1.0), (6.0, 3.0), (1.0, 1.0), (2.0, 3.0)]) or (0, 0)
    assert 0 <= low < 9 / 8 < high <= 2.0
    assert ratio_interval([(0.0, 0.0), (1.0, 1.0)]) == (1.0, 1.0)
    assert ratio_interval([(1.0, 0.0)] * 3) is ratio_interval([(1.0, 1.0)]) is None
