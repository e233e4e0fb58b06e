"""Where a memory stands in a prompt: the tokens before it and after it. Knows tokenizers, no model.

With a chat template it stands at the start of the user's first message, as the document would; without one, behind BOS.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from memvec.errors import UsageError

Messages = Sequence[Mapping[str, Any]]

SEPARATOR = "\n\n"  # between a memory, or the document itself, and the user's words
MARK = "\ue000memvec\ue001"  # private-use characters: no template or text holds them by accident


@dataclass(frozen=True, slots=True)
class Frame:
    """Token ids before and after a memory."""

    before: tuple[int, ...]
    after: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Places:
    """Where memories go in ids that somebody else has put together."""

    header: tuple[int, ...]  # what stands before a user's first words; empty without a chat template
    bos: int | None
    separator: tuple[int, ...]

    def split(self, ids: Sequence[int], separated: bool) -> Frame:
        """The frame of finished ids: behind the first user header, else behind BOS, else at the start."""
        size = len(self.header)
        starts = range(len(ids) - size + 1) if size else ()
        found = next((i + size for i in starts if tuple(ids[i : i + size]) == self.header), None)
        place = found if found is not None else int(len(ids) > 0 and ids[0] == self.bos)
        before = tuple(ids[:place])
        if separated and not before and self.bos is not None:
            before = (self.bos,)  # many tokenizers add none, but memories are made to stand behind one
        return Frame(before, (self.separator if separated else ()) + tuple(ids[place:]))


def frame(tokenizer: Any, prompt: str | Messages, template: str = "auto", separated: bool = True) -> Frame:
    """The frame of a prompt: text, or chat messages ending with the user's. UsageError.

    `template`: "chat" needs a tokenizer with a chat template, "text" does without, "auto" takes chat where there is one.
    `separated` puts a blank line between memory and prompt; without a memory there is nothing to separate.
    """
    gap = _ids(tokenizer, SEPARATOR) if separated else ()
    if uses_chat(tokenizer, template):
        before, after = _chat(tokenizer, prompt)
        return Frame(_ids(tokenizer, before), gap + _ids(tokenizer, after))
    if not isinstance(prompt, str):
        raise UsageError("chat messages need a tokenizer with a chat template and template='chat'. Pass text instead.")
    bos = tokenizer.bos_token_id
    return Frame(() if bos is None else (int(bos),), (gap if prompt else ()) + _ids(tokenizer, prompt))


def places(tokenizer: Any) -> Places:
    """Where memories go in ids made by `tokenizer`, with its chat template or without."""
    header: tuple[int, ...] = ()
    if uses_chat(tokenizer, "auto"):
        plain, _ = _chat(tokenizer, "")
        header = _ids(tokenizer, plain)
        from jinja2.exceptions import TemplateError

        with contextlib.suppress(TemplateError):  # some templates refuse system messages
            # What a prompt with and one without a system message have in common.
            system, _ = _chat(tokenizer, [{"role": "system", "content": "-"}, {"role": "user", "content": ""}])
            header = _common_end(header, _ids(tokenizer, system))
    return Places(header, tokenizer.bos_token_id, _ids(tokenizer, SEPARATOR))


def uses_chat(tokenizer: Any, template: str) -> bool:
    """Does `template` ("auto", "chat" or "text") mean this tokenizer's chat template? UsageError."""
    if template not in ("auto", "chat", "text"):
        raise UsageError(f"template is {template!r}, expected auto, chat or text.")
    there = bool(getattr(tokenizer, "chat_template", None))
    if template == "chat" and not there:
        raise UsageError("this tokenizer has no chat template. Pass template='text'.")
    return there and template != "text"


def _chat(tokenizer: Any, prompt: str | Messages) -> tuple[str, str]:
    """The rendered template before and after the place at the start of the user's first message."""
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else [dict(m) for m in prompt]
    first = next((m for m in messages if m.get("role") == "user"), None)
    if first is None or not isinstance(first.get("content"), str):
        raise UsageError("expected chat messages with a user's message in text.")
    first["content"] = MARK + first["content"]
    rendered = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    before, mark, after = rendered.partition(MARK)
    if not mark or MARK in after:
        raise UsageError("this chat template does not show the user's message once. Pass template='text'.")
    return before, after


def _common_end(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...]:
    size = next(
        (i for i, (x, y) in enumerate(zip(reversed(a), reversed(b), strict=False)) if x != y), min(len(a), len(b))
    )
    return a[len(a) - size :]


def _ids(tokenizer: Any, text: str) -> tuple[int, ...]:
    # The rendered template holds BOS already where the model wants one: adding it again would double it.
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"]) if text else ()
