"""Chats are rendered: dates, several templates, continued chats, and messages that templates refuse."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest
from chat_shapes import SHAPES

from memvec.errors import UsageError
from memvec.templates.rendering import render
from memvec.templates.template import frame, places

EVENING, MORNING = datetime(2031, 3, 7, 23, 59), datetime(2031, 3, 8, 0, 1)
TALK = [{"role": "user", "content": "How so?"}]
# Every kind of code, a computed format, a call by name and one from within a macro and a loop.
DATES = (
    "{%- macro day() %}{{ strftime_now('%-d. %B') }}{% endmacro %}\n"
    "  {%- if strftime_now is defined %}{{ strftime_now(format='%Y-%m-%dT%H:%M %A 100%% %y') }}{% endif %}\n"
    "{% for m in messages %}{{ day() }} {{ strftime_now('%' ~ 'j') }} {{ strftime_now('%Y') | int + 1 }} {{ m.content }}{% endfor %}"
)


@pytest.fixture
def dated(tokenizer: Any) -> Any:
    tokenizer.chat_template = SHAPES["llama-3"].template
    return tokenizer


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[datetime]]:
    """The time that transformers sees."""
    from transformers.utils import chat_template_utils

    times = [EVENING]

    class Clock(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:  # type: ignore[override]
            return times[0]

    for name in ("datetime",):
        monkeypatch.setattr(chat_template_utils, name, Clock)
    chat_template_utils._compile_jinja_template.cache_clear()
    yield times
    chat_template_utils._compile_jinja_template.cache_clear()


class TestDates:
    """Templates that write a date."""

    def test_a_given_time_is_kept(self, dated: Any) -> None:
        """A prefilled memory goes on with the date it was prefilled with, whatever the day of the prompt is."""
        held = frame(dated, "", now=EVENING).before
        assert "Today Date: 07 Mar 2031" in dated.decode(held)
        for talk in ("x", TALK, [*TALK, {"role": "assistant", "content": "So."}, *TALK]):
            assert frame(dated, talk, now=EVENING).before == held
        assert frame(dated, "x", now=MORNING).before != held
        # Another system message is still told from another date.
        talk = [{"role": "system", "content": "be brief"}, *TALK]
        assert frame(dated, talk, now=EVENING).before != held

    def test_the_time_of_the_call(self, dated: Any, clock: list[datetime]) -> None:
        before = frame(dated, "x").before
        assert before == frame(dated, "x", now=EVENING).before
        clock[0] = MORNING
        assert frame(dated, "x").before == frame(dated, "x", now=MORNING).before != before

    def test_ids_of_another_day(self, dated: Any, clock: list[datetime]) -> None:
        """Learned turns work for ids of another day."""
        places(dated)
        clock[0] = MORNING
        ids = dated.apply_chat_template(TALK, add_generation_prompt=True, tokenize=True, return_dict=False)
        assert places(dated).split(ids, True) == frame(dated, TALK)

    def test_any_way_to_ask(self, tokenizer: Any, clock: list[datetime]) -> None:
        """With a time given a template renders as it does at that time."""
        tokenizer.chat_template = DATES
        now = render(tokenizer, TALK)
        assert now == tokenizer.apply_chat_template(TALK, tokenize=False)
        clock[0] = MORNING
        assert render(tokenizer, TALK, now=EVENING) == now
        assert "7. March 066 2032" in now and "2031-03-07T23:59 Friday 100% 31" in now

    def test_templates_without_dates(self, chat: Any) -> None:
        assert frame(chat, "x", now=EVENING) == frame(chat, "x")


class TestNamedTemplates:
    """Tokenizers with several templates."""

    def test_default_and_tools(self, tokenizer: Any) -> None:
        """transformers takes another template for tools. The place is right in both."""
        tokenizer.chat_template = {"tool_use": SHAPES["falcon"].template, "default": SHAPES["chatml"].template}
        tool = {"type": "function", "function": {"name": "clock"}}
        for options, start in (({}, "<|im_start|>user\n"), ({"tools": [tool]}, "User: ")):
            ids = tokenizer.apply_chat_template(
                TALK, add_generation_prompt=True, tokenize=True, return_dict=False, **options
            )
            row = frame(tokenizer, TALK, **options)  # type: ignore[arg-type]
            assert tokenizer.decode(row.before) == start
            assert row == places(tokenizer).split(ids, True)
        row = frame(tokenizer, TALK, chat_template="tool_use")
        assert tokenizer.decode(row.before) == "User: "

    def test_no_default(self, tokenizer: Any) -> None:
        tokenizer.chat_template = {"a": SHAPES["falcon"].template, "b": SHAPES["chatml"].template}
        with pytest.raises(UsageError, match="multiple chat templates with no default"):
            frame(tokenizer, "x")
        assert tokenizer.decode(frame(tokenizer, "x", chat_template="b").before) == "<|im_start|>user\n"

    def test_one_that_shows_no_message(self, tokenizer: Any) -> None:
        tokenizer.chat_template = {"default": SHAPES["chatml"].template, "rag": "{{ documents }}"}
        assert tokenizer.decode(frame(tokenizer, "x").before) == "<|im_start|>user\n"

    def test_a_template_set_later(self, chat: Any) -> None:
        """A template that is set later is learned."""
        assert chat.decode(frame(chat, "x").before).endswith("[user]")
        chat.chat_template = SHAPES["gemma 1"].template
        assert chat.decode(frame(chat, "x").before).endswith("<start_of_turn>user\n")

    def test_learned_once(self, chat: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        frame(chat, "x")
        monkeypatch.setattr("memvec.templates.template.learn", None)
        assert frame(chat, "y") and places(chat)
        with pytest.raises(TypeError):
            frame(copy.deepcopy(chat), "x")


class TestContinuedAndRefused:
    """Chats that end with the assistant, and chats that are refused."""

    def test_the_assistants_words_go_on(self, chat: Any) -> None:
        """A chat that ends with the assistant is continued, as in transformers' pipeline."""
        talk = [*TALK, {"role": "assistant", "content": "Because"}]
        assert chat.decode(frame(chat, talk).after).endswith("[assistant]Because")
        assert chat.decode(frame(chat, talk, add_generation_prompt=True).after).endswith("Because<|end|>[a]")

    @pytest.mark.parametrize(
        ("name", "talk", "fragment"),
        [
            ("gemma 1", [{"role": "system", "content": "x"}, *TALK], "System role not supported"),
            ("llama-2", [*TALK, *TALK], "roles must alternate"),
            ("zephyr", [*TALK, {"role": "assistant"}, *TALK], "no attribute 'content'. Change"),
        ],
    )
    def test_templates_that_refuse(self, tokenizer: Any, name: str, talk: Any, fragment: str) -> None:
        tokenizer.chat_template = SHAPES[name].template
        with pytest.raises(UsageError, match=f"refuses these messages: .*({fragment})"):
            frame(tokenizer, talk)

    @pytest.mark.parametrize("talk", [[], [{"role": "user"}], ["x"], [{"role": "tool"}]])
    def test_messages_without_a_users_words(self, chat: Any, talk: Any) -> None:
        with pytest.raises(UsageError, match="expected chat messages"):
            frame(chat, talk)

    def test_an_empty_message_that_is_left_out(self, chat: Any) -> None:
        """The place for an empty message is found by a chat whose message has words."""
        chat.chat_template = (
            "{% for m in messages %}{% if m.content %}[{{ m.role }}]{{ m.content }}<|end|>{% endif %}{% endfor %}"
        )
        assert frame(chat, "").before == frame(chat, "x").before

    def test_the_first_turn_has_another_header(self, chat: Any) -> None:
        chat.chat_template = "{% for m in messages %}{{ 'Q) ' if loop.first else '\n\n[' ~ m.role ~ ']: ' }}{{ m.content }}{% endfor %}\n\n[a]:"
        row = frame(chat, [*TALK, {"role": "assistant", "content": "So."}, *TALK])
        assert chat.decode(row.before) == "Q) "
