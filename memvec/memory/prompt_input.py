"""Check prompts that callers pass, and make one list of them. Errors name the accepted forms."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from memvec.errors import UsageError
from memvec.templates.template import Messages

EXPECTED = "Pass text, chat messages, or a list of either"
DECODE = "Pass the original text, or tokenizer.decode(ids)"


def as_prompts(prompts: Any) -> list[str | Messages]:
    """Make a list of prompts out of one prompt or several.

    Args:
        prompts: One text, one chat, or any iterable of texts and chats, such as a generator. A chat is a list of
            messages. Each is a mapping with "role" and "content".

    Returns:
        Texts and lists of messages. A single chat is one prompt.

    Raises:
        UsageError: There is no prompt, or one is empty or of another form, such as token ids, bytes or a single message.
    """
    if isinstance(prompts, str):
        return [_text(prompts, "the prompt")]
    given = _items(prompts, "prompts")
    if not given:
        raise UsageError(f"there is no prompt. {EXPECTED}.")
    if isinstance(given[0], Mapping):
        return [_chat(given, "the prompt")]
    return [_prompt(item, f"prompts[{number}]") for number, item in enumerate(given)]


def one_prompt(prompt: Any) -> str | Messages:
    """Check a single prompt, a text or a chat. Raises as `as_prompts`, and for several prompts."""
    if prompt is None:
        raise UsageError(f"the prompt is empty. {EXPECTED.removesuffix(', or a list of either')}.")
    found = as_prompts(prompt)
    if len(found) != 1:
        raise UsageError(f"found {len(found)} prompts, expected one. Call this once for each.")
    return found[0]


def _prompt(item: Any, name: str) -> str | Messages:
    if isinstance(item, str):
        return _text(item, name)
    if isinstance(item, Mapping):
        raise UsageError(f"{name} is a single message in a list of prompts. Put the messages of a chat into a list.")
    return _chat(_items(item, name), name)


def _text(text: str, name: str) -> str:
    if not text:
        raise UsageError(f"{name} is empty. {EXPECTED}.")
    return text


def _chat(messages: Sequence[Any], name: str) -> Messages:
    """Messages of one chat. UsageError."""
    if not messages:
        raise UsageError(f"{name} is empty. {EXPECTED}.")
    for number, message in enumerate(messages):
        place = f"{name}[{number}]" if name != "the prompt" else f"message {number} of the prompt"
        if isinstance(message, int):
            raise UsageError(f"{name} is token ids, expected text. {DECODE}.")
        if not isinstance(message, Mapping):
            raise UsageError(f"{place} is {_kind(message)}, expected a message with role and content. {EXPECTED}.")
        if not isinstance(message.get("role"), str):
            raise UsageError(f'{place} has no role, expected {{"role": "user", "content": "…"}}.')
    return list(messages)


def _items(value: Any, name: str) -> list[Any]:
    """The items of a list, a tuple or an iterator. UsageError for everything else."""
    if hasattr(value, "dtype"):
        raise UsageError(f"{name} is {_kind(value)}, which holds numbers, expected text. {DECODE}.")
    if isinstance(value, Mapping):
        if "input_ids" in value:
            raise UsageError(f"{name} is the output of a tokenizer, expected text. {DECODE}.")
        raise UsageError(f"{name} is a single message. Put the messages of a chat into a list.")
    if isinstance(value, bytes | bytearray | memoryview):
        raise UsageError(f"{name} is {_kind(value)}, expected text. Decode it: data.decode().")
    if isinstance(value, set | frozenset):
        raise UsageError(f"{name} is {_kind(value)}, which has no order. {EXPECTED}.")
    if not isinstance(value, Iterable):
        raise UsageError(f"{name} is {_kind(value)}. {EXPECTED}.")
    items = list(value)
    if items and all(isinstance(item, int) for item in items):
        raise UsageError(f"{name} is token ids, expected text. {DECODE}.")
    return items


def _kind(value: Any) -> str:
    if value is None:
        return "None"
    kind = type(value).__name__
    return f"{'an' if kind[:1].lower() in 'aeiou' else 'a'} {kind}"
