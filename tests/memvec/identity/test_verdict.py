"""Verdicts on another model, from its stored traits and without any model at hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from memvec.checkpoints.traits import PROBES, vocabulary_of
from memvec.errors import FingerprintError
from memvec.identity.verdict import Verdict, compare, measured
from memvec.types import Fingerprint, Identity

TOKENS = {"a": 0, "b": 1, "c": 2}
ARCHITECTURE = {"hidden_size": 8, "vocab_size": 3, "rms_norm_eps": 1e-6}
MINE = Fingerprint("w" * 64, "e" * 64, ARCHITECTURE, vocabulary_of(TOKENS), "p" * 64, 8, "here")
TABLE = {f"layer.{i}": f"{i:016x}" for i in range(10)}


def said(answers: list[int], off: float = 0.0) -> dict[str, Any]:
    """What a model says whose likeliest token is `answers`, log-probabilities off by so many nats."""
    return {
        "tokens": [[token, 99] for token in answers],
        "logs": [[-0.5 - off, -3.0] for _ in answers],
    }


def probe(dtype: str = "F32", other: int = 0, off: float = 0.0) -> dict[str, Any]:
    """A probe of 20 positions, at `other` of which another token is the likeliest."""
    text, noise = [7] * other + [5] * (10 - other), [6] * 10
    files = {"dtypes": {dtype: 10}, "tokens": 3, "pieces": ["0" * 8] * len(PROBES)}
    return files | {"ids": [1, 2], "scale": 0.1, "text": said(text, off), "noise": said(noise, off)}


STORED = Identity(MINE, TABLE, probe())


def other_weights(changed: int = 10, **answers: Any) -> Identity:
    """The same model with so many tensors changed, and what it says, if it was asked."""
    tensors = TABLE | {f"layer.{i}": "f" * 16 for i in range(changed)}
    return Identity(replace(MINE, weights="x" * 64), tensors, probe(**answers) if answers else {})


@pytest.mark.parametrize(
    ("found", "verdict", "why"),
    [
        (replace(STORED, fingerprint=replace(MINE, source="elsewhere")), Verdict.IDENTICAL, "are the same"),
        (other_weights(dtype="BF16", off=0.02), Verdict.PRECISION, "another dtype"),
        (other_weights(dtype="F32", off=0.02), Verdict.RELATIVE, "0.02 nats"),  # no dtype explains the change
        (other_weights(dtype="BF16", off=2.0), Verdict.RELATIVE, "2 nats"),  # too much for rounding
        (other_weights(dtype="BF16", other=1), Verdict.RELATIVE, "19 of 20"),
        (other_weights(dtype="F32", other=2), Verdict.RELATIVE, "18 of 20"),
        (other_weights(dtype="F32", other=3), Verdict.DIFFERENT, "17 of 20"),
        (other_weights(changed=5), Verdict.RELATIVE, "5 of 10 tensors are the same"),
        (other_weights(changed=6), Verdict.UNTOLD, "was not run"),
        (Identity(replace(MINE, architecture={**ARCHITECTURE, "rms_norm_eps": 0.1})), Verdict.DIFFERENT, "rms_norm_eps"),
        (Identity(replace(MINE, vocabulary="y" * 64)), Verdict.DIFFERENT, "the weights are the same, but vocabulary"),
    ],
)  # fmt: skip
def test_the_verdict_and_why(found: Identity, verdict: Verdict, why: str) -> None:
    made = compare(STORED, found)
    assert made.verdict is verdict
    assert why in made.why
    assert bool(made.differences) is (verdict is not Verdict.IDENTICAL)


def test_a_store_that_explains_nothing_still_gets_a_verdict() -> None:
    old = Identity(MINE)
    assert compare(old, STORED).verdict is Verdict.IDENTICAL
    made = compare(old, other_weights(dtype="BF16"))
    assert (made.verdict, made.tensors, made.distance) == (Verdict.UNTOLD, (), None)
    assert "holds no probe" in made.why


def test_only_the_nearest_decode_and_a_limit_takes_in_what_is_nearer() -> None:
    assert [v for v in Verdict if v.decodes] == [Verdict.IDENTICAL, Verdict.PRECISION]
    assert [v for v in Verdict if v.within(Verdict.RELATIVE)] == [
        Verdict.IDENTICAL, Verdict.PRECISION, Verdict.RELATIVE,
    ]  # fmt: skip
    assert all(v.allows for v in Verdict)


def test_tensors_are_named_also_those_that_one_side_lacks() -> None:
    found = replace(other_weights(1), tensors={**TABLE, "layer.0": "f" * 16, "more": "1"})
    del found.tensors["layer.3"]  # type: ignore[attr-defined]
    made = compare(STORED, found)
    assert made.tensors == ("layer.0", "layer.3", "more")
    error = made.error()
    assert isinstance(error, FingerprintError) and error.tensors == made.tensors
    assert "layer.0, layer.3, more" in str(error) and made.verdict.value in str(error) and "memvec.diff" in str(error)


def test_an_error_names_five_tensors_and_counts_the_others() -> None:
    assert "layer.4 and 5 more" in str(compare(STORED, other_weights(10)).error())


def test_an_added_token_is_named() -> None:
    grown = {**TOKENS, "<new>": 3}
    more = {**STORED.probe, "tokens": 4, "pieces": ["0" * 8] * 7 + ["1" * 8]}
    found = Identity(replace(MINE, vocabulary=vocabulary_of(grown)), TABLE, more)
    made = compare(STORED, found, grown)
    assert "1 token more: '<new>' (3)" in made.hints[0]
    assert "1 of 8 probes" in made.hints[1] and repr(PROBES[7]) in made.hints[1]
    assert "3 tokens, the model's has 4" in compare(STORED, found).hints[0]  # without the vocabulary only counted
    assert "<new>" in str(made.error())


@pytest.mark.parametrize(("trails", "agreeing"), [(0.4, 20), (0.6, 19)])
def test_a_tie_that_rounding_may_turn_is_no_other_answer(trails: float, agreeing: int) -> None:
    stored, found = probe(), probe()
    stored["text"]["logs"][0] = [-0.5, -0.5 - trails]
    found["text"]["tokens"][0] = [99, 5]
    distance = measured(stored, found)
    assert distance is not None and distance.agreeing == agreeing


@pytest.mark.parametrize(
    "broken",
    [
        {"text": []},
        {"text": {"tokens": [[5]], "logs": [[-1.0]]}},  # of another length
        {"text": {"tokens": 5, "logs": None}},
        {"noise": {"tokens": [[]] * 10, "logs": [[]] * 10}},
        {"noise": {"tokens": [["x", {}]] * 10, "logs": [[1.0, 2.0]] * 10}},
        {"ids": [3]},  # asked something else
    ],
)
def test_a_probe_that_says_nonsense_says_nothing(broken: dict[str, Any]) -> None:
    assert measured(probe(), probe()) is not None
    assert measured(probe() | broken, probe()) is None
    assert measured(probe(), {}) is None
