"""Find the place of a memory in a prompt: the tokens before it and after it. Knows tokenizers and no model.

With a chat template the place is directly behind the words that open the user's first turn, where the document would stand.
A system message that the template folds into that turn follows it. Without a template the place is behind BOS. `frame`
renders messages and finds the place in their ids. `Places.split` finds it in ids that other code has rendered.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, get_args

from memvec.errors import UsageError
from memvec.templates.rendering import Messages, first_words, marked, normalized_message, render
from memvec.templates.spelling import Alphabet, Speller, encode
from memvec.templates.turns import Turns, learn

__all__ = [
    "SEPARATOR", "Frame", "Messages", "Places", "Template", "chat_frame", "frame", "normalized_messages", "places", "uses_chat",
]  # fmt: skip

Template = Literal["auto", "chat", "text"]  # "auto" is chat if the tokenizer has a chat template
SEPARATOR = "\n\n"  # between a memory, or the document itself, and the user's words


@dataclass(frozen=True, slots=True)
class Frame:
    """Token ids before and after a memory."""

    before: tuple[int, ...]
    after: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Places:
    """The places of memories in ids that other code has rendered, for one tokenizer."""

    speller: Speller
    turns: tuple[Turns, ...]  # of each chat template of the tokenizer
    bos: int | None
    separator: tuple[int, ...]
    marks: str = ""  # the spellings of BOS and EOS, which do not show that ids are a chat

    def split(self, ids: Sequence[int], separated: bool) -> Frame:
        """Split finished ids at the start of the user's first turn, else behind BOS, else at the start.

        Args:
            ids: The prompt's tokens, without padding.
            separated: Put a blank line between memory and prompt, and BOS before a memory that would stand first.

        Returns:
            The tokens before and after the memory.

        Raises:
            UsageError: The ids are a chat, but the start of the user's first turn is ambiguous or cut off.
        """
        return self.cut(ids, self.find(ids), separated)

    def find(self, ids: Sequence[int]) -> int | None:
        """The memory's place in the spelling of `ids`. None if they are not a chat. UsageError as `split`."""
        spelling, begin = "".join(self.speller.pieces(ids)), self.speller.begin(ids, self.bos)
        errors = []
        for turns in self.turns:
            try:
                found = turns.find(spelling, begin, self.marks)
            except UsageError as error:
                errors.append(error)
                continue
            if found is not None:
                return found
        if errors:
            raise errors[0]
        return None

    def cut(self, ids: Sequence[int], place: int | None, separated: bool) -> Frame:
        """Split ids at `place` in their spelling, or behind BOS if it is None. UsageError."""
        if place is None:
            size = int(len(ids) > 0 and ids[0] == self.bos)
            before, after = tuple(ids[:size]), tuple(ids[size:])
        else:
            halves = self.speller.cut(ids, place)
            if halves is None:
                raise UsageError(
                    "a token reaches over the start of the user's message and cannot be divided. "
                    "Begin the message with a letter."
                )
            before, after = halves
        if separated and not before and self.bos is not None:
            before = (self.bos,)  # many tokenizers add none, but memories are trained behind one
        return Frame(before, (self.separator if separated else ()) + after)


def frame(
    tokenizer: Any,
    prompt: str | Messages,
    template: str = "auto",
    separated: bool = True,
    *,
    now: datetime | None = None,
    **options: Any,
) -> Frame:
    """Make the frame of a prompt, which is text or chat messages.

    Args:
        tokenizer: The tokenizer of the model.
        prompt: Text, or messages with "role" and "content". A chat that ends with the assistant's words is continued.
        template: "chat" needs a chat template, "text" uses none, "auto" is chat if the tokenizer has one.
        separated: Put a blank line between memory and prompt. Without a memory, pass False.
        now: The date for templates that write one, by default today. Prompts behind one prefilled memory need the same.
        options: Further arguments of the tokenizer's `apply_chat_template`, such as `tools`.

    Returns:
        The tokens before and after the memory, the same as `Places.split` of the rendered chat's ids.

    Raises:
        UsageError: The tokenizer has no chat template, or it refuses the messages or has no place for a memory.
    """
    if uses_chat(tokenizer, template):
        talk: Messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        return chat_frame(tokenizer, talk, separated=separated, now=now, **options)
    if not isinstance(prompt, str):
        raise UsageError("chat messages need a tokenizer with a chat template and template='chat'. Pass text instead.")
    bos, gap = tokenizer.bos_token_id, encode(tokenizer, SEPARATOR) if separated and prompt else ()
    return Frame(() if bos is None else (int(bos),), gap + encode(tokenizer, prompt))


def chat_frame(
    tokenizer: Any, messages: Messages, ids: Sequence[int] | None = None, separated: bool = True, **options: Any
) -> Frame:
    """Make the frame of a chat. Its `ids` are rendered if they are not given. `options` are those of `render`. UsageError.

    Messages tell more than ids: a message may hold the words that open a user's turn.
    """
    where = places(tokenizer, options.get("chat_template"))
    talk = normalized_messages(tokenizer, messages, **options)
    before, text = marked(tokenizer, talk, **options)
    if ids is None:
        ids = encode(tokenizer, render(tokenizer, talk, **options))
        if not first_words(talk).strip() and not _holds(where, ids):  # some templates leave an empty message out
            ids = encode(tokenizer, text)
    header = places(tokenizer, _name(tokenizer, options)).turns[0].header
    return where.cut(list(ids), _found(where, header, list(ids), where.speller.spell(before)), separated)


def normalized_messages(tokenizer: Any, messages: Messages, **options: Any) -> list[dict[str, Any]]:
    """Bring the contents of messages into the form that the template reads: text, or lists of parts. UsageError.

    `options` are those of `render`. With tools another template may be used.
    """
    if not all(isinstance(message, Mapping) for message in messages):
        raise UsageError('expected chat messages such as {"role": "user", "content": "…"}.')
    turns = places(tokenizer, _name(tokenizer, options)).turns[0]
    return [normalized_message(message, turns.texts, turns.parts) for message in messages]


# The learned alphabet and turns of each tokenizer, by its templates. It holds no reference to a tokenizer.
_learned: weakref.WeakKeyDictionary[Any, dict[str, tuple[Alphabet, tuple[Turns, ...]]]] = weakref.WeakKeyDictionary()


def places(tokenizer: Any, template: str | None = None) -> Places:
    """Learn the places of memories in ids of `tokenizer`, with its chat template or without.

    Args:
        tokenizer: The tokenizer of the model.
        template: The chat template that was used, or its name. By default all templates of the tokenizer.

    Returns:
        The places. They are cached as long as the tokenizer exists.

    Raises:
        UsageError: The template does not show a user's message exactly once.
    """
    own = tokenizer.chat_template if uses_chat(tokenizer, "auto") else None
    names: list[str | None] = [template] if template or not own else [None]
    if not template and isinstance(own, Mapping):
        names = sorted(own, key=lambda name: (name != "default", name))
    key = repr((own, template, tokenizer.special_tokens_map, len(tokenizer)))
    known = _learned.setdefault(tokenizer, {})
    if key not in known:
        alphabet = Alphabet.of(tokenizer)
        speller = Speller(tokenizer, alphabet)
        learned = _learn(speller, tokenizer.bos_token_id, names) if own or template else ()
        known[key] = alphabet, learned
    alphabet, turns = known[key]
    speller = Speller(tokenizer, alphabet)
    ends = [i for i in (tokenizer.bos_token_id, tokenizer.eos_token_id) if i is not None]
    return Places(
        speller, turns, tokenizer.bos_token_id, encode(tokenizer, SEPARATOR), "".join(map(str, speller.pieces(ends)))
    )


def _learn(speller: Speller, bos: int | None, names: Sequence[str | None]) -> tuple[Turns, ...]:
    """The turns of every template that shows a user's message. UsageError if none does."""
    learned, errors = [], []
    for name in names:
        try:
            learned.append(learn(speller, bos, name))
        except UsageError as error:
            errors.append(error)
    if not learned:
        raise errors[0]
    return tuple(dict.fromkeys(learned))


def uses_chat(tokenizer: Any, template: str) -> bool:
    """Does `template` choose this tokenizer's chat template? UsageError."""
    if template not in get_args(Template):
        raise UsageError(f"template is {template!r}, expected auto, chat or text.")
    there = bool(getattr(tokenizer, "chat_template", None))
    if template == "chat" and not there:
        raise UsageError("this tokenizer has no chat template. Pass template='text'.")
    return there and template != "text"


def _found(where: Places, header: str, ids: Sequence[int], before: str) -> int | None:
    """The place in a chat's ids, compared with the text `before` the user's first words in its messages. UsageError."""
    if not "".join(where.speller.pieces(ids)).startswith(before):
        raise UsageError(
            "the start of the user's message was not found in this chat: it was cut off. Pass no truncation, or a "
            "shorter chat."
        )
    told = len(before) if header and (before.endswith(header) or header not in before) else None
    try:
        found = where.find(ids)
    except UsageError:
        if told is None:
            raise
        found = told  # the ids alone do not tell
    if (told is not None and found != told) or (found or 0) > len(before):
        raise UsageError(
            "a message in front of the user's first holds words that open a user's turn in this chat template, and the "
            "memory would stand there. Leave them out."
        )
    return found


def _holds(where: Places, ids: Sequence[int]) -> bool:
    try:
        return where.find(ids) is not None
    except UsageError:
        return False


def _name(tokenizer: Any, options: Mapping[str, Any]) -> str | None:
    """The template that was asked for, or the name of the one that `apply_chat_template` takes of several."""
    asked, own = options.get("chat_template"), tokenizer.chat_template
    if asked is None and isinstance(own, Mapping):
        names = ("tool_use", "default") if options.get("tools") is not None else ("default",)
        return next((name for name in names if name in own), None)
    return asked
