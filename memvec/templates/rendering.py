"""Chat templates at work: messages in, text out. Knows jinja and tokenizers, no memory and no place for one."""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from memvec.errors import UsageError

Messages = Sequence[Mapping[str, Any]]

# Templates ask for the date by calling strftime_now, and transformers hands no function from outside on to them. This macro
# takes its place. The line end behind it is one that jinja drops, so that the template begins its own first line.
DATED = (
    "{%- macro strftime_now(format) -%}"
    "{%- set made = namespace(text=format) -%}"
    "{%- for code, value in memvec_now -%}{%- set made.text = made.text | replace(code, value) -%}{%- endfor -%}"
    "{{- made.text -}}"
    "{%- endmacro %}\n"
)
LINE = "\n"  # between the parts of a message where a template reads text alone, as servers put it
CODES = (*"aAbBcCdDeFGgHhIjklmMnpPRrsStTuUVwWxXyYzZf", *(f"-{code}" for code in "deHIjmMSy"))


def render(tokenizer: Any, messages: Messages, *, now: datetime | None = None, **options: Any) -> str:
    """The text that `tokenizer`'s chat template makes of `messages`.

    Args:
        tokenizer: One with a chat template.
        messages: The chat. One that ends with the assistant's words is continued, any other is answered.
        now: The time to put where the template asks for it; by default the time of the call.
        options: Further arguments of `apply_chat_template`, such as `tools`.

    Returns:
        The text, BOS included where the template writes one.

    Raises:
        UsageError: The template refuses the messages.
    """
    going_on = options.get("continue_final_message")
    if going_on is None:  # as transformers' pipeline decides
        going_on = (
            bool(messages) and messages[-1].get("role") == "assistant" and not options.get("add_generation_prompt")
        )
    options["continue_final_message"] = going_on
    if options.get("add_generation_prompt") is None:
        options["add_generation_prompt"] = not going_on
    with refusals():
        if now is not None:
            template = tokenizer.get_chat_template(options.get("chat_template"), options.get("tools"))
            if "strftime_now" in template:
                options |= {"chat_template": DATED + template, "memvec_now": _codes(now)}
        return str(tokenizer.apply_chat_template([dict(m) for m in messages], **{**options, "tokenize": False}))


def marked(tokenizer: Any, talk: list[dict[str, Any]], **options: Any) -> tuple[str, str]:
    """What the template writes before the user's first words, and all of it. UsageError. `options` as of `render`."""
    everything = json.dumps(talk, ensure_ascii=False, default=str)
    mark = next(m for n in itertools.count(1) if (m := "\ue000" + "\ue001" * n + "\ue002") not in everything)
    messages, done = [], False
    for message in talk:
        if not done and message.get("role") == "user":
            message, done = _mark(message, mark), True
        messages.append(message)
    if not done:
        raise UsageError("expected chat messages with a user's message in text.")
    before, shown, after = render(tokenizer, messages, **options).partition(mark)
    if not shown or mark in after:
        raise UsageError("this chat template does not show the user's message once. Pass template='text'.")
    return before, before + after


def _mark(message: dict[str, Any], mark: str) -> dict[str, Any]:
    content = message.get("content")
    if isinstance(content, str):
        return {**message, "content": mark + content}
    if not content:
        raise UsageError("expected chat messages with a user's message in text.")
    return {**message, "content": [{**content[0], "text": mark + content[0]["text"]}, *content[1:]]}


def first_words(talk: Messages) -> str:
    """The user's first words."""
    content = next((m.get("content") for m in talk if m.get("role") == "user"), None)
    return content if isinstance(content, str) else "".join(part["text"] for part in content or ())


def readable_message(message: Mapping[str, Any], texts: bool, parts: bool) -> dict[str, Any]:
    """The message as a template reads it that takes contents as `texts`, as lists of `parts`, or both. UsageError."""
    content = message.get("content")
    if isinstance(content, str):
        return dict(message) if texts else {**message, "content": [{"type": "text", "text": content}]}
    if content is None:
        return dict(message)
    if not isinstance(content, Sequence) or not all(
        isinstance(part, Mapping) and part.get("type") == "text" and isinstance(part.get("text"), str)
        for part in content
    ):
        raise UsageError(
            'a message has content that is not text, expected text or parts such as {"type": "text", "text": "…"}. '
            "Leave images and other media out."
        )
    return {**message, "content": [dict(p) for p in content] if parts else LINE.join(p["text"] for p in content)}


@contextlib.contextmanager
def refusals() -> Iterator[None]:
    """UsageError for messages that a template refuses within."""
    from jinja2.exceptions import TemplateError

    try:
        yield
    except (TemplateError, TypeError, ValueError) as error:
        raise UsageError(
            f"the chat template refuses these messages: {str(error).rstrip('.')}. Change the messages, or pass text and "
            "template='text'."
        ) from error


def _codes(now: datetime) -> list[tuple[str, str]]:
    """What each code of strftime stands for at that time."""
    codes = [("%%", "\0")]
    for code in CODES:
        with contextlib.suppress(ValueError):  # some platforms know fewer
            codes.append((f"%{code}", now.strftime(f"%{code}")))
    return [*codes, ("\0", "%")]
