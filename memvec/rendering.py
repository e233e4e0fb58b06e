"""Chat templates at work: messages in, text out. Knows jinja and tokenizers, no memory and no place for one."""

from __future__ import annotations

import contextlib
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
CODES = (*"aAbBcCdDeFGgHIjmMpRrSTuUVwWxXyYzZf", "-d", "-e", "-H", "-I", "-j", "-m", "-M", "-S", "-y")


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
