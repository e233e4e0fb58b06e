"""Frames: what stands before and after a memory, and the templates that cannot have one."""

from __future__ import annotations

from typing import Any

import pytest

from memvec.errors import UsageError
from memvec.templates.template import frame


@pytest.mark.parametrize(
    ("prompt", "template", "fragment"),
    [
        ("x", "chat", "no chat template"),
        ("x", "mine", "expected auto, chat or text"),
        ([{"role": "user", "content": "x"}], "auto", "need a tokenizer with a chat template"),
    ],
)
def test_frames_that_cannot_be_made_are_refused(tokenizer: Any, prompt: Any, template: str, fragment: str) -> None:
    with pytest.raises(UsageError, match=fragment):
        frame(tokenizer, prompt, template)


def test_a_template_that_hides_the_message_is_refused(chat: Any) -> None:
    chat.chat_template = "no message"
    with pytest.raises(UsageError, match="does not show"):
        frame(chat, "x")
    with pytest.raises(UsageError, match="user's message"):
        frame(chat, [{"role": "assistant", "content": "x"}])
