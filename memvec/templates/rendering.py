"""Render chat templates: messages in, text out. Knows jinja and tokenizers, but no memories."""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from memvec.errors import UsageError

Messages = Sequence[Mapping[str, Any]]

# Templates ask for the date by calling strftime_now, and transformers lets no caller replace that function. This macro
# takes its place. Jinja drops the line end behind it, so the template still begins on its own first line.
DATED = (
    "{%- macro strftime_now(format) -%}"
    "{%- set made = namespace(text=format) -%}"
    "{%- for code, value in memvec_now -%}{%- set made.text = made.text | replace(code, value) -%}{%- endfor -%}"
    "{{- made.text -}}"
    "{%- endmacro %}\n"
)
LINE = "\n"  # joins the parts of a message for a template that reads only text, as servers do
CODES = (*"aAbBcCdDeFGgHhIjklmMnpPRrsStTuUVwWxXyYzZf", *(f"-{code}" for code in "deHIjmMSy"))


def render(tokenizer: Any, messages: Messages, *, now: datetime | None = None, **options: Any) -> str:
    """Render `messages` with the chat template of `tokenizer`.

    Args:
        tokenizer: A tokenizer with a chat template.
        messages: The chat. One that ends with the assistant's words is continued, any other is answered.
        now: The time for templates that ask for it. By default the time of the call.
        options: Further arguments of `apply_chat_template`, such as `tools`.

    Returns:
        The text, with BOS if the template writes one.

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
    """The text before the user's first words, and the complete text. UsageError. `options` are those of `render`."""
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


def normalized_message(message: Mapping[str, Any], texts: bool, parts: bool) -> dict[str, Any]:
    """Bring a message into the form of a template that reads `texts`, lists of `parts`, or both. UsageError."""
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
    """Turn errors of a template that refuses the messages into UsageErrors."""
    from jinja2.exceptions import TemplateError

    try:
        yield
    except (
        TemplateError,
        ArithmeticError,
        AttributeError,
        LookupError,
        RecursionError,
        TypeError,
        ValueError,
    ) as error:
        raise UsageError(
            f"the chat template refuses these messages: {str(error).rstrip('.')}. Change the messages, or pass text and "
            "template='text'."
        ) from error


def _codes(now: datetime) -> list[tuple[str, str]]:
    """Each code of strftime with its text at that time."""
    codes = [("%%", "\0")]
    for code in CODES:
        with contextlib.suppress(ValueError):  # some platforms know fewer codes
            codes.append((f"%{code}", now.strftime(f"%{code}")))
    return [*codes, ("\0", "%")]
