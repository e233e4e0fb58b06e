"""Tokenizers as models have them: with BOS, with and without a chat template."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest

CHAT = (
    "{% if messages[0]['role'] != 'system' %}be kind\n{% endif %}"
    "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}<|end|>{% endfor %}{% if add_generation_prompt %}[a]{% endif %}"
)


@pytest.fixture
def tokenizer(tiny_lm: Any) -> Iterator[Any]:
    """Without a chat template, with a BOS."""
    changed = copy.deepcopy(tiny_lm.tokenizer)
    changed.bos_token = "<|end|>"
    return changed


@pytest.fixture
def chat(tokenizer: Any) -> Any:
    """With a chat template."""
    tokenizer.chat_template = CHAT
    return tokenizer
