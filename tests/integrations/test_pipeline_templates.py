"""The pipeline over chat templates of every shape: the answers of `memory.generate_kwargs`."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chat_shapes import SHAPES, with_specials
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

from memvec.errors import UsageError
from memvec.identity.fingerprint import fingerprint
from memvec.integrations.transformers_pipeline import TASK
from memvec.memory.memory import Memory
from memvec.templates.template import frame

GREEDY: dict[str, Any] = {"do_sample": False, "max_new_tokens": 8}
SYSTEM = {"role": "system", "content": "be brief"}
TURNS = [
    {"role": "user", "content": "However little"},
    {"role": "assistant", "content": "such a man"},
    {"role": "user", "content": "may be on"},
]


@pytest.fixture(scope="module")
def folder(tiny: str, tiny_lm: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny LM with a tokenizer that has the shapes' special tokens."""
    folder = Path(shutil.copytree(tiny, tmp_path_factory.mktemp("shapes") / "model"))
    with_specials(tiny_lm.tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def model(folder: Path) -> Any:
    made = AutoModelForCausalLM.from_pretrained(folder, dtype="float32")
    made.generation_config.eos_token_id = None  # every answer as long as asked for
    return made


@pytest.fixture(scope="module")
def memory(folder: Path) -> Memory:
    owner = fingerprint(str(folder))
    noise = np.random.default_rng(0).standard_normal((6, owner.width)) * 0.5
    return Memory(("m",), (noise.astype(np.float16),), owner)


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(folder)


def shaped(tokenizer: Any, name: str) -> Any:
    made = copy.deepcopy(tokenizer)
    made.chat_template, made.bos_token, made.pad_token = SHAPES[name].template, SHAPES[name].bos, "<|end|>"
    made.padding_side = "left"
    return made


def as_read(name: str, talk: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**m, "content": [{"type": "text", "text": m["content"]}]} for m in talk] if name == "parts only" else talk


@pytest.mark.parametrize("name", SHAPES)
def test_shapes(model: Any, tokenizer: Any, memory: Memory, name: str) -> None:
    """Chats with and without a system message, of several turns, and continued ones, are answered alike."""
    chat = shaped(tokenizer, name)
    pipe = pipeline(TASK, model=model, tokenizer=chat)
    talks = [TURNS[:1], TURNS]
    if name != "uppercase":  # transformers looks for the message that goes on as it was given
        talks.append(TURNS[:2])
    if SHAPES[name].system is not None:
        talks += [[SYSTEM, *TURNS[:1]], [SYSTEM, *TURNS]]
    talks = [as_read(name, talk) for talk in talks]
    kwargs = memory.generate_kwargs(model, chat, talks)
    out = model.generate(**kwargs, **GREEDY)[:, kwargs["input_ids"].shape[1] :]
    wanted = [chat.decode(row, skip_special_tokens=True) for row in out]
    got = [pipe(talk, memory=memory, return_full_text=False, **GREEDY)[0]["generated_text"] for talk in talks]
    assert got == wanted
    plain = [pipe(talk, return_full_text=False, **GREEDY)[0]["generated_text"] for talk in talks]
    assert plain != got  # the memory is seen


def test_refused_chats(model: Any, tokenizer: Any, memory: Memory) -> None:
    pipe = pipeline(TASK, model=model, tokenizer=shaped(tokenizer, "gemma 1"))
    with pytest.raises(UsageError, match="System role not supported"):
        pipe([SYSTEM, *TURNS], memory=memory, **GREEDY)
    image = [{"role": "user", "content": [{"type": "image", "url": "x.png"}]}]
    with pytest.raises(UsageError, match="content that is not text"):
        pipe(image, memory=memory, **GREEDY)


def test_tools(model: Any, tokenizer: Any, memory: Memory) -> None:
    """Tools that are written into the user's turn stand behind the memory, as the user's words do."""
    chat = shaped(tokenizer, "llama-3")
    tools = [{"type": "function", "function": {"name": "clock"}}]
    pipe = pipeline(TASK, model=model, tokenizer=chat)
    made = pipe.preprocess(pipe_chat(TURNS), memory=memory, tools=tools)
    assert made["frame"] == frame(chat, TURNS, tools=tools)
    assert chat.decode(made["frame"].after).startswith("\n\nGiven the following functions")
    assert pipe.preprocess(pipe_chat(TURNS), tools=tools)["frame"] is None


def test_parts_are_given_back_as_they_were(model: Any, tokenizer: Any, memory: Memory) -> None:
    pipe = pipeline(TASK, model=model, tokenizer=shaped(tokenizer, "chatml"))
    parts = [{"role": "user", "content": [{"type": "text", "text": "However little"}]}]
    (answer,) = pipe(parts, memory=memory, **GREEDY)
    (plain,) = pipe(TURNS[:1], memory=memory, **GREEDY)
    assert answer["generated_text"][:-1] == parts
    assert answer["generated_text"][-1] == plain["generated_text"][-1]


def test_a_chat_that_was_rendered_before(model: Any, tokenizer: Any, memory: Memory) -> None:
    """Text that a template made is a chat; it gets no second BOS."""
    chat = shaped(tokenizer, "llama-2")
    pipe = pipeline(TASK, model=model, tokenizer=chat)
    talk = [SYSTEM, *TURNS]
    text = chat.apply_chat_template(talk, tokenize=False, add_generation_prompt=True)
    made = pipe.preprocess(text, memory=memory, add_special_tokens=False)
    assert made["frame"] == frame(chat, talk)
    assert made["input_ids"][0].tolist() == chat(text, add_special_tokens=False)["input_ids"]


def pipe_chat(talk: list[dict[str, Any]]) -> Any:
    from transformers.utils.chat_template_utils import Chat

    return Chat(talk)
