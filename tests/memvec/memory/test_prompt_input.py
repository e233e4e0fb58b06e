"""Prompts of every kind that callers give."""

from __future__ import annotations

from collections import UserDict, deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import torch

import memvec
from memvec.errors import UsageError
from memvec.memory.prompt_input import as_prompts, one_prompt

USER = {"role": "user", "content": "Who sings?"}
CHAT = [{"role": "system", "content": "be brief"}, USER]


def made(*prompts: Any) -> Iterator[Any]:
    yield from prompts


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("Who?", ["Who?"]),
        (["Who?", "Where?"], ["Who?", "Where?"]),
        (("Who?", "Where?"), ["Who?", "Where?"]),
        (made("Who?", "Where?"), ["Who?", "Where?"]),
        (map(str.strip, [" Who? "]), ["Who?"]),
        ({"Who?": 1, "Where?": 2}.keys(), ["Who?", "Where?"]),
        (deque(["Who?"]), ["Who?"]),
        (np.str_("Who?"), ["Who?"]),
        (CHAT, [CHAT]),
        (tuple(CHAT), [CHAT]),
        (made(*CHAT), [CHAT]),
        ([CHAT, [USER]], [CHAT, [USER]]),
        (made(made(*CHAT), "Who?"), [CHAT, "Who?"]),
        ([MappingProxyType(USER)], [[USER]]),
        ([UserDict(USER)], [[USER]]),
        ([" "], [" "]),
    ],
)
def test_one_and_several_are_a_list(given: Any, expected: list[Any]) -> None:
    found = as_prompts(given)
    assert [p if isinstance(p, str) else [dict(m) for m in p] for p in found] == expected
    assert all(isinstance(m, Mapping) for p in found if not isinstance(p, str) for m in p)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (None, "prompts is None"),
        (3, "prompts is an int"),
        (True, "prompts is a bool"),
        (b"Who?", r"prompts is a bytes, expected text\. Decode it"),
        ([b"Who?"], r"prompts\[0\] is a bytes"),
        (bytearray(b"Who?"), "prompts is a bytearray"),
        ([], "there is no prompt"),
        ((), "there is no prompt"),
        (made(), "there is no prompt"),
        ("", "the prompt is empty"),
        (["Who?", ""], r"prompts\[1\] is empty"),
        ([[]], r"prompts\[0\] is empty"),
        ([1, 2, 3], r"prompts is token ids, expected text\. .*tokenizer\.decode"),
        ([[1, 2, 3]], r"prompts\[0\] is token ids"),
        (range(3), "prompts is token ids"),
        (np.array([1, 2, 3]), "prompts is a ndarray, which holds numbers"),
        (np.array(["Who?"]), "prompts is a ndarray"),
        ([np.array([1, 2])], r"prompts\[0\] is a ndarray"),
        (torch.tensor([[1, 2]]), r"prompts is a Tensor.*tokenizer\.decode"),
        ([torch.tensor([1])], r"prompts\[0\] is a Tensor"),
        ({"input_ids": [1]}, "prompts is the output of a tokenizer"),
        (UserDict(input_ids=[1]), "prompts is the output of a tokenizer"),
        (USER, r"prompts is a single message\. Put the messages"),
        (["Who?", USER], r"prompts\[1\] is a single message"),
        ({"Who?"}, "prompts is a set, which has no order"),
        ([None], r"prompts\[0\] is None"),
        ([["Who?"]], r"prompts\[0\]\[0\] is a str, expected a message"),
        ([USER, "Who?"], "message 1 of the prompt is a str"),
        ([{"content": "Who?"}], "message 0 of the prompt has no role"),
        ([[USER], [{"role": 3}]], r"prompts\[1\]\[0\] has no role"),
        (object(), "prompts is an object"),
    ],
)
def test_what_is_no_prompt_is_refused(given: Any, said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        as_prompts(given)
    assert str(caught.value).endswith(".")


def test_one_prompt_is_one() -> None:
    assert one_prompt("Who?") == "Who?" and one_prompt(made(*CHAT)) == CHAT and one_prompt(["Who?"]) == "Who?"
    for given, said in ((None, "the prompt is empty"), (["a", "b"], "found 2 prompts"), ([1, 2], "token ids")):
        with pytest.raises(UsageError, match=said):
            one_prompt(given)


@pytest.mark.parametrize("prompt", [None, b"Who?", [1, 2], torch.tensor([1]), [], "", 3])
def test_generate_and_compare_refuse_it_before_a_model_is_loaded(prompt: Any, remembering: Path) -> None:
    for verb in (memvec.generate, memvec.compare):
        with pytest.raises(UsageError, match="prompt"):
            verb(remembering, prompt, ["prose.txt"], model="no/model")
