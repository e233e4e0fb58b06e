"""Learn the text that a chat template writes around a user's first turn, by rendering messages that hold marks.

Most templates give a system message a turn of its own, some fold it into the user's. A memory stands directly behind the
words that open the user's first turn, in front of anything that is folded into that turn. Strings are spellings
(`memvec.templates.spelling`), so that added tokens differ from text that looks like them.
"""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from memvec.errors import UsageError
from memvec.templates.rendering import render
from memvec.templates.spelling import SPACES, Speller, encode

# Private-use characters: no template contains them, changes their case or strips them.
USER, ANSWER, AGAIN, SYSTEM = "\ue000\ue001", "\ue000\ue002", "\ue000\ue003", "\ue000\ue004"
TOOLS = [
    {
        "type": "function",
        "function": {"name": "a", "description": "b", "parameters": {"type": "object", "properties": {}}},
    },
    {
        "type": "function",
        "function": {"parameters": {"type": "object", "required": ["c"]}, "description": "d", "name": "e"},
    },
    {"function": {"parameters": {"type": "object"}, "name": "f", "description": "g"}, "type": "function"},
]
DOCUMENTS = [{"title": "a", "text": "b"}, {"text": "c", "title": "d"}]
WITHOUT = "Pass template='text'. To pack memories, take the template out of the tokenizer's files."
PRINTED = re.compile(rf"""['"]text['"]: ?['"]{USER}""")  # a list of parts that the template prints as it is


@dataclass(frozen=True, slots=True)
class Turns:
    """The strings that one template writes around turns."""

    start: str  # from behind BOS to the memory, in a chat without a system message
    header: str  # opens a user's turn; may be empty
    ends: frozenset[str]  # the ends of other turns, directly before a user's header
    opener: str  # opens an assistant's turn
    texts: bool  # the template reads contents that are strings
    parts: bool  # the template reads contents that are lists of parts

    def find(self, spelling: str, begin: int, marks: str = "") -> int | None:
        """Find the memory's place in a spelled chat whose BOS ends at `begin`. None if it is not a chat of this template.

        `marks` are characters that do not show a chat, such as EOS. UsageError if the place is ambiguous.
        """
        firm = all(end.strip(SPACES) for end in self.ends)  # else a system message runs into the user's header
        started = begin + len(self.start) if spelling.startswith(self.start, begin) else None
        if started is not None and (firm or self.start != self.header):
            return started
        every = _ends(spelling, self.header)
        known = [p for p in every if p == started or self._follows(spelling, begin, p - len(self.header))]
        if not self.header or not (known or self._chat(spelling, marks)):
            return None
        if not every:
            raise UsageError(
                "the start of the user's message was not found in these ids, which hold other parts of a chat: it was cut "
                "off, or there is none. Pass the complete chat, or messages to memory.generate_kwargs."
            )
        place = (known or every)[0]
        # Two users' headers with no assistant's between them: one of them is in a message.
        answered = spelling.find(self.opener, place) if self.opener else -1
        near = [p for p in known or every if answered < 0 or p <= answered]
        stray = self.opener and every[0] < place and spelling.find(self.opener, every[0], place) >= 0
        if stray or (len(near) > 1 and not (known and firm)):
            raise UsageError(
                "a message of this chat holds the words that open a user's turn, and these ids do not tell which of "
                "them is the message. Pass the messages to memory.generate_kwargs, or leave the words out."
            )
        return place

    def _follows(self, spelling: str, begin: int, place: int) -> bool:
        """Does another role's turn end at `place`?"""
        return any(spelling.endswith(end, begin, place) for end in self.ends)

    def _chat(self, spelling: str, marks: str) -> bool:
        """Does the text hold a string that only a chat of this template has?"""
        signs = {self.opener, self.header if any(ord(c) > 255 for c in self.header) else ""}
        signs |= {end for end in self.ends if end.strip(SPACES + marks)}
        return any(sign.strip(SPACES + marks) and sign in spelling for sign in signs)


def learn(speller: Speller, bos: int | None, name: str | None = None) -> Turns:
    """Learn the turns of a tokenizer's template; `name` chooses one of several. UsageError if it shows no message."""
    made = _Made(speller, {} if name is None else {"chat_template": name})
    texts, parts = made.try_text(made.user), made.try_text(made.user_in_parts)
    reads_texts = texts is not None and texts.count(USER) == 1
    reads_parts = parts is not None and parts.count(USER) == 1 and not PRINTED.search(parts)
    if not (reads_texts or reads_parts):
        if texts is None and parts is None:
            try:
                made.text(made.user)
            except UsageError as error:
                raise UsageError(f"this chat template refuses every message: {error.__cause__}. {WITHOUT}") from error
        raise UsageError(f"this chat template does not show the user's message once. {WITHOUT}")
    made.as_parts = not reads_texts
    ids = encode(speller.tokenizer, _before(str(texts if reads_texts else parts), USER))
    alone = "".join(speller.pieces(ids))
    header, behind_answer, opener = _talk(made, alone)
    behind_system = made.behind(SYSTEM, [made.message("system", SYSTEM), made.message("user", USER)], USER)
    if header is None:  # the common end of chats with and without a system message
        header = alone if behind_system is None else _common_end(alone, behind_system)
    header = header.lstrip(SPACES)  # some tokenizers add a space at the start of a text
    start = alone if not header or alone.endswith(header) else alone[: alone.find(header) + len(header)]
    ends = {behind_answer[: -len(header)]} if header and behind_answer.endswith(header) else set()
    for text in (behind_system, *_behind_others(made)) if header else ():
        if text is not None and header in text:
            ends.add(text[: text.rfind(header)])
    return Turns(
        start[speller.begin(ids, bos) :], header, frozenset(ends), opener.strip(SPACES), reads_texts, reads_parts
    )


@dataclass(slots=True)
class _Made:
    """Render chats that hold marks."""

    speller: Speller
    options: dict[str, Any]
    as_parts: bool = False

    @property
    def user(self) -> list[dict[str, Any]]:
        """A chat of one message."""
        return [{"role": "user", "content": USER}]

    @property
    def user_in_parts(self) -> list[dict[str, Any]]:
        """The same with its content as a list."""
        return [{"role": "user", "content": [{"type": "text", "text": USER}]}]

    def message(self, role: str, mark: str) -> dict[str, Any]:
        """A message of `mark`, in the form that the template reads."""
        return {"role": role, "content": [{"type": "text", "text": mark}] if self.as_parts else mark}

    def text(self, messages: list[dict[str, Any]], **options: Any) -> str:
        """Render a chat without an opened answer. UsageError if the template refuses it."""
        closed = {"add_generation_prompt": False, "continue_final_message": False}
        return render(self.speller.tokenizer, messages, **{**self.options, **closed, **options})

    def try_text(self, messages: list[dict[str, Any]], **options: Any) -> str | None:
        """Render a chat. None if the template refuses it."""
        with contextlib.suppress(UsageError):  # some templates refuse system messages, or tools
            return self.text(messages, **options)
        return None

    def behind(self, mark: str, messages: list[dict[str, Any]], until: str, **options: Any) -> str | None:
        """The spelling between two marks. None unless both are shown, in this order."""
        text = self.try_text(messages, **options)
        if text is None or mark not in text or until not in text[text.find(mark) :]:
            return None
        longer, shorter = self.speller.spell(_before(text, until)), self.speller.spell(_through(text, mark))
        return longer[len(shorter) :]


def _talk(made: _Made, alone: str) -> tuple[str | None, str, str]:
    """A user's header, the text between an answer and the next user's words, and the opening of an assistant's turn."""
    user, answer, again = made.message("user", USER), made.message("assistant", ANSWER), made.message("user", AGAIN)
    opener = made.behind(USER, [user, answer, again], ANSWER) or ""
    between = made.behind(ANSWER, [user, answer, again], AGAIN)
    if between is None:
        return None, "", opener
    closed = made.try_text([user, answer])
    rest = ""
    if closed is not None and ANSWER in closed:  # the end of an answer at the end of a chat
        rest = made.speller.spell(closed)[len(made.speller.spell(_through(closed, ANSWER))) :]
    complete = header = between[len(_common_start(between, rest)) :]
    while header not in alone:  # the first turn may lack a text that the template writes between turns
        header = header[1:]
    cut = complete[: len(complete) - len(header)]
    if 2 * len(header.strip(SPACES)) < len(complete.strip(SPACES)) or (cut[-1:].isalnum() and header[:1].isalnum()):
        return None, between, opener  # the first turn has another header
    return header, between, opener


def _behind_others(made: _Made) -> Iterator[str | None]:
    """For tools and for documents: the text behind them up to the user's words. Nothing if the template ignores them."""
    for name, things in (("tools", TOOLS), ("documents", DOCUMENTS)):
        for first in ([], [made.message("system", SYSTEM)]):
            talk = [*first, made.message("user", USER)]
            plain = made.try_text(talk)
            texts = [made.try_text(talk, **{name: [thing]}) for thing in things]
            if plain is None or any(text is None or text == plain or USER not in text for text in texts):
                continue
            yield functools.reduce(_common_end, (made.speller.spell(_before(str(text), USER)) for text in texts))


def _before(text: str, mark: str) -> str:
    return text[: text.find(mark)]


def _through(text: str, mark: str) -> str:
    return text[: text.find(mark) + len(mark)]


def _ends(text: str, part: str) -> list[int]:
    """The end of each occurrence of `part`."""
    found, at = [], text.find(part) if part else -1
    while at >= 0:
        found.append(at + len(part))
        at = text.find(part, at + 1)
    return found


def _common_end(a: str, b: str) -> str:
    return _common_start(a[::-1], b[::-1])[::-1]


def _common_start(a: str, b: str) -> str:
    return a[: next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))]
