"""The place of a memory in a chat: the same for messages and for finished ids, and refused where there is none."""

from __future__ import annotations

import copy
import functools
import random
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest
from chat_shapes import SHAPES, with_specials

from memvec.errors import UsageError
from memvec.templates.template import Frame, frame, places

THEN = datetime(2031, 3, 7, 12)
# A system message runs into the user's header: nothing but spaces is between them.
RUN_TOGETHER = ("vicuna", "deepseek")
SYSTEM = {"role": "system", "content": "be brief"}
TOOL = {"type": "function", "function": {"name": "clock", "description": "the time", "parameters": {"type": "object"}}}
DOCUMENT = {"title": "ferry", "text": "The key is with the ferryman."}


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def answer(content: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content}


HELLO = [answer("Hello."), user("How so?")]
TALKS: dict[str, list[dict[str, Any]]] = {
    "one turn": [user("How so?")],
    "system": [SYSTEM, user("How so?")],
    "turns": [user("How so?"), answer("Because."), user("Who has the key?")],
    "turns and system": [SYSTEM, user("How so?"), answer("Because."), user("Who?"), answer("He."), user("Where?")],
    "begins with a line end": [SYSTEM, user("\n\nHow so?"), answer("\n"), user("  x")],
    "begins with a space": [user("  How so? "), answer("Yes."), user(" ")],
    "empty": [user("")],
    "empty with system": [SYSTEM, user("")],
    "ends with the assistant": [SYSTEM, user("How so?"), answer("Because")],
    "begins with the assistant": HELLO,
    "private-use characters": [SYSTEM, user("\ue000memvec\ue001\ue000\ue001\ue002 is a mark")],
    "a mark in the system message": [{"role": "system", "content": "\ue000\ue001\ue002"}, user("\ue000\ue001")],
}


@pytest.fixture(scope="module", params=["special tokens", "text"])
def shaped(request: pytest.FixtureRequest, tiny_lm: Any) -> Callable[[str], Any]:
    """Tokenizers by shape. Its marks are added tokens or plain text."""

    @functools.cache
    def make(name: str) -> Any:
        shape = SHAPES[name]
        if request.param == "special tokens":
            made = copy.deepcopy(special)
            made.bos_token = shape.bos
            made.chat_template = shape.template
        else:
            made = copy.deepcopy(tiny_lm.tokenizer)
            made.chat_template = shape.template.replace("{{ bos_token }}", shape.bos or "")
        return made

    special = with_specials(tiny_lm.tokenizer)
    return make


def as_read(name: str, talk: list[dict[str, Any]]) -> list[dict[str, Any]]:
    if name != "parts only":
        return talk
    return [{**m, "content": [{"type": "text", "text": m["content"]}]} for m in talk]


def ids_of(tokenizer: Any, talk: list[dict[str, Any]], **options: Any) -> list[int]:
    options = {"add_generation_prompt": True, **options}
    return list(tokenizer.apply_chat_template(talk, tokenize=True, return_dict=False, **options))


@pytest.mark.parametrize("name", SHAPES)
class TestShapes:
    """Chats in the shapes of many models."""

    def test_place(self, shaped: Callable[[str], Any], name: str) -> None:
        """A memory stands behind the words that open the user's first turn, in front of a system message in that turn."""
        shape = SHAPES[name]
        tokenizer = shaped(name)
        row = frame(tokenizer, "How so?", now=THEN)
        assert tokenizer.decode(row.before) == shape.alone
        assert tokenizer.decode(row.after).startswith("\n\n")
        if shape.system is None:
            with pytest.raises(UsageError, match=r"refuses these messages: System role not supported"):
                frame(tokenizer, TALKS["system"])
            return
        row = frame(tokenizer, TALKS["turns and system"], now=THEN)
        assert tokenizer.decode(row.before) == shape.system

    def test_messages_and_ids(self, shaped: Callable[[str], Any], name: str) -> None:
        """Messages and the ids that the template makes of them give the same frame."""
        shape, tokenizer = SHAPES[name], shaped(name)
        where = places(tokenizer)
        for talk, messages in TALKS.items():
            messages = as_read(name, messages)
            if (messages[0]["role"] == "system" and not shape.system) or (messages == HELLO and shape.alternating):
                with pytest.raises(UsageError, match="the chat template refuses"):
                    frame(tokenizer, messages)
                continue
            going_on = messages[-1]["role"] == "assistant"
            if going_on and name == "uppercase":
                continue  # transformers looks for the message as it was given
            ids = ids_of(tokenizer, messages, add_generation_prompt=not going_on, continue_final_message=going_on)
            row, plain = frame(tokenizer, messages), where.split(ids, separated=False)
            assert row == where.split(ids, separated=True), talk
            assert row == Frame(plain.before, where.separator + plain.after), talk
            assert tokenizer.decode([*plain.before, *plain.after]) == tokenizer.decode(ids), talk

    def test_no_generation_prompt(self, shaped: Callable[[str], Any], name: str) -> None:
        tokenizer, talk = shaped(name), as_read(name, TALKS["turns"])
        ids = ids_of(tokenizer, talk, add_generation_prompt=False)
        assert places(tokenizer).split(ids, True) == frame(
            tokenizer, talk, add_generation_prompt=False, continue_final_message=False
        )
        assert places(tokenizer).split(ids, True).before == frame(tokenizer, talk).before

    def test_tools_and_documents(self, shaped: Callable[[str], Any], name: str) -> None:
        tokenizer = shaped(name)
        for talk in ("one turn", "turns"):
            for options in ({"tools": [TOOL]}, {"documents": [DOCUMENT]}):
                messages = as_read(name, TALKS[talk])
                row = frame(tokenizer, messages, **options)
                assert row == places(tokenizer).split(ids_of(tokenizer, messages, **options), True)
                if "Given the following functions" in SHAPES[name].template and "tools" in options:
                    assert tokenizer.decode(row.after).startswith("\n\nGiven the following")  # part of the user's turn

    def test_empty_prompt(self, shaped: Callable[[str], Any], name: str) -> None:
        """An empty prompt has the same tokens before the memory. Training and caches rely on it."""
        tokenizer = shaped(name)
        befores = {frame(tokenizer, text).before for text in ("", "x", "\n\nx", " x", "]", "1")}
        assert len(befores) == 1

    def test_content_in_parts(self, shaped: Callable[[str], Any], name: str) -> None:
        tokenizer = shaped(name)
        parts = [user([{"type": "text", "text": "How "}, {"type": "text", "text": "so?"}])]
        row = frame(tokenizer, parts)
        assert row.before == frame(tokenizer, "How so?").before
        if name in ("gemma 3", "parts only"):
            assert row == places(tokenizer).split(ids_of(tokenizer, parts), True)
        else:  # the template would print a list
            assert row == frame(tokenizer, "How \nso?")
        with pytest.raises(UsageError, match="content that is not text"):
            frame(tokenizer, [user([{"type": "image", "url": "x.png"}, {"type": "text", "text": "What?"}])])

    def test_header_in_the_system_message(self, shaped: Callable[[str], Any], name: str) -> None:
        """Messages tell which header is the user's. Ambiguous ids are refused."""
        shape, tokenizer = SHAPES[name], shaped(name)
        if shape.system is None or name == "uppercase":
            return
        folded = shape.system == shape.alone
        for text in (f"write {shape.header} first", f"a{shape.header.strip()}b {shape.header}!"):
            talk = as_read(name, [{"role": "system", "content": text}, user("How so?"), answer("So."), user("x")])
            row = frame(tokenizer, talk, now=THEN)
            assert tokenizer.decode(row.before) == (shape.alone if folded else shape.system.replace("be brief", text))
            ids = ids_of(tokenizer, talk)
            try:
                assert places(tokenizer).split(ids, True) == frame(tokenizer, talk)
            except UsageError as error:
                assert name in RUN_TOGETHER and "do not tell which" in str(error)


@pytest.mark.parametrize("name", SHAPES)
def test_any_words(shaped: Callable[[str], Any], name: str) -> None:
    """Messages and ids give the same frame for any words, or an error."""
    tokenizer, drawn = shaped(name), random.Random(name)
    said = [
        *{shape.header for shape in SHAPES.values()},
        "\n",
        " ",
        "",
        "x",
        "<|im_end|>\n",
        "</s>",
        "é",
        "你好",
        "ASSISTANT: ",
    ]
    agreed = 0
    for _ in range(12):
        roles = ["system"] * (drawn.random() < 0.5 and SHAPES[name].system is not None)
        roles += ["user", "assistant"] * drawn.randrange(3) + ["user"]
        talk = [{"role": role, "content": "".join(drawn.choices(said, k=drawn.randint(1, 3)))} for role in roles]
        talk = as_read(name, talk)
        try:
            row, split = frame(tokenizer, talk), places(tokenizer).split(ids_of(tokenizer, talk), True)
        except UsageError:
            continue
        assert row == split, talk
        agreed += 1
    assert agreed > 5


class TestUncertain:
    """Ids that are ambiguous, and messages that look like turns."""

    def test_run_together(self, shaped: Callable[[str], Any]) -> None:
        tokenizer = shaped("vicuna")
        talk = [{"role": "system", "content": "Questions begin with USER: always."}, user("How so?")]
        with pytest.raises(UsageError, match=r"do not tell which.*Pass the messages"):
            places(tokenizer).split(ids_of(tokenizer, talk), True)
        assert tokenizer.decode(frame(tokenizer, talk).before).endswith("begin with USER: always. USER: ")
        # Without a system message the user's own words cannot be taken for one.
        talk = [user("What does USER: mean?")]
        assert places(tokenizer).split(ids_of(tokenizer, talk), True) == frame(tokenizer, talk)

    def test_a_whole_turn_in_the_system_message(self, shaped: Callable[[str], Any]) -> None:
        tokenizer = shaped("chatml")
        talk = [{"role": "system", "content": "x<|im_end|>\n<|im_start|>user\nGo"}, user("How so?")]
        with pytest.raises(UsageError, match=r"in front of the user's first holds words.*Leave them out"):
            frame(tokenizer, talk)
        talk = [SYSTEM, user("x<|im_end|>\n<|im_start|>user\nGo")]  # behind the memory it does not matter
        assert frame(tokenizer, talk) == places(tokenizer).split(ids_of(tokenizer, talk), True)

    def test_cut_off_chats(self, shaped: Callable[[str], Any]) -> None:
        """A chat without its user's turn is refused. Plain text is not taken for a chat."""
        tokenizer = shaped("chatml")
        ids = ids_of(tokenizer, [SYSTEM, answer("x")])
        with pytest.raises(UsageError, match=r"was not found in these ids.*Pass the complete chat"):
            places(tokenizer).split(ids, True)
        text = tokenizer("The user\nsaid: How so?", add_special_tokens=False)["input_ids"]
        assert places(tokenizer).split(text, False) == Frame((), tuple(text))

    def test_a_header_in_plain_text(self, shaped: Callable[[str], Any]) -> None:
        """A header alone does not make a text a chat."""
        tokenizer = shaped("uppercase")
        text = tokenizer("write [USER] in front", add_special_tokens=False)["input_ids"]
        assert places(tokenizer).split(text, False) == Frame((), tuple(text))

    def test_ids_that_no_text_gives(self, shaped: Callable[[str], Any]) -> None:
        """Control words in plain tokens open no turn, and stay as they are."""
        tokenizer = shaped("chatml")
        head, word = ids_of(tokenizer, [user("x")]), tokenizer.convert_tokens_to_ids(list("<|im_start|>user"))
        at = head.index(tokenizer("x")["input_ids"][0])
        ids = [*head[:at], *word, *head[at:]]
        row = places(tokenizer).split(ids, False)
        assert (row.before, row.after) == (tuple(ids[:at]), tuple(ids[at:]))


@pytest.mark.parametrize(
    ("prompt", "template", "fragment"),
    [
        ("x", "chat", "no chat template"),
        ("x", "mine", "expected auto, chat or text"),
        ([{"role": "user", "content": "x"}], "auto", "need a tokenizer with a chat template"),
    ],
)
def test_refused(tokenizer: Any, prompt: Any, template: str, fragment: str) -> None:
    """A frame that needs a missing template is refused."""
    with pytest.raises(UsageError, match=fragment):
        frame(tokenizer, prompt, template)


def test_hidden_message(chat: Any) -> None:
    """A template that does not show the user's message is refused."""
    chat.chat_template = "no message"
    with pytest.raises(UsageError, match="does not show"):
        frame(chat, "x")
    with pytest.raises(UsageError, match="user's message"):
        frame(chat, [{"role": "assistant", "content": "x"}])
