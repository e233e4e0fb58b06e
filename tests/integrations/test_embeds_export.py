"""What goes to other engines, decoded as they would and fed back: the hook's greedy tokens must come out."""

from __future__ import annotations

import base64
import copy
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from kv_memory import kv_memory

from memvec.errors import FingerprintError, UsageError
from memvec.identity.fingerprint import fingerprint
from memvec.integrations import embeds_export
from memvec.integrations.embeds_export import (
    encode_tensor,
    prompt_embeds,
    save_npy,
    vllm_chat_messages,
    vllm_completion_body,
    vllm_inputs,
)
from memvec.memory.memory import Memory
from memvec.memory.prompt import generate_kwargs
from memvec.templates.template import frame

CHAT = (
    "{% if messages[0]['role'] != 'system' %}be kind\n{% endif %}"
    "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}<|end|>{% endfor %}{% if add_generation_prompt %}[a]{% endif %}"
)
PROMPT = "The feelings or views of such a man may be on"


@pytest.fixture(scope="module")
def memory(tiny: str) -> Memory:
    owner = fingerprint(tiny)
    noise = np.random.default_rng(0).standard_normal((6, owner.width)) * 0.3
    return Memory(("a",), (noise.astype(np.float16),), owner)


@pytest.fixture
def model(tiny_lm: Any) -> Any:
    return tiny_lm.model


@pytest.fixture
def chat(tiny_lm: Any) -> Any:
    changed = copy.deepcopy(tiny_lm.tokenizer)
    changed.bos_token = "<|end|>"
    changed.chat_template = CHAT
    return changed


@pytest.fixture
def wanted(model: Any, chat: Any, memory: Memory) -> list[int]:
    kwargs = generate_kwargs(model, chat, PROMPT, memory)
    out = model.generate(**kwargs, do_sample=False, eos_token_id=None, max_new_tokens=8)
    return out[0, kwargs["input_ids"].shape[1] :].tolist()


def continued(model: Any, embeds: torch.Tensor) -> list[int]:
    """Greedy tokens after a whole embedded prompt, which is all that an engine gets."""
    mask = torch.ones(1, len(embeds), dtype=torch.long)
    out = model.generate(
        inputs_embeds=embeds[None], attention_mask=mask, do_sample=False, eos_token_id=None, max_new_tokens=8,
        pad_token_id=0,
    )  # fmt: skip
    return out[0].tolist()


def decoded(text: str) -> torch.Tensor:
    """As a vLLM server reads it."""
    loaded: torch.Tensor = torch.load(io.BytesIO(base64.b64decode(text)), weights_only=True)
    return loaded


def test_offline_inputs(model: Any, chat: Any, memory: Memory, wanted: list[int]) -> None:
    row = frame(chat, PROMPT)
    embeds = vllm_inputs(model, chat, PROMPT, memory)["prompt_embeds"]
    assert embeds.shape == (len(row.before) + 6 + len(row.after), 128) and embeds.is_contiguous()
    assert continued(model, embeds) == wanted
    talk = [{"role": "system", "content": "be brief"}, {"role": "user", "content": PROMPT}]
    assert len(prompt_embeds(model, chat, talk, memory)) != len(embeds)
    assert continued(model, prompt_embeds(model, chat, PROMPT, None)) != wanted


def test_completion_body(model: Any, chat: Any, memory: Memory, wanted: list[int]) -> None:
    body = vllm_completion_body(model, chat, PROMPT, memory, served_model="tiny", max_tokens=8)
    body = json.loads(json.dumps(body))  # it travels as JSON
    assert {k: v for k, v in body.items() if k != "prompt_embeds"} == {"model": "tiny", "max_tokens": 8}
    assert continued(model, decoded(body["prompt_embeds"])) == wanted


@pytest.mark.parametrize(("content_format", "joined_by"), [("string", "\n"), ("openai", "")])
def test_chat_messages(
    model: Any, chat: Any, memory: Memory, wanted: list[int], content_format: Any, joined_by: str
) -> None:
    messages = vllm_chat_messages(memory, PROMPT, content_format=content_format)
    (message,) = json.loads(json.dumps(messages))
    held, text = message["content"]
    assert (message["role"], held["type"], text["type"]) == ("user", "prompt_embeds", "text")
    # The server renders the template around a place-holder, tokenises, and puts the embeddings in its place.
    rendered = chat.apply_chat_template(
        [{"role": "user", "content": "@@" + joined_by + text["text"]}], tokenize=False, add_generation_prompt=True
    )
    before, _, after = rendered.partition("@@")
    look = model.get_input_embeddings()
    ids = (torch.tensor(chat(part, add_special_tokens=False)["input_ids"]) for part in (before, after))
    first, last = (look(part) for part in ids)
    assert continued(model, torch.cat([first, decoded(held["data"]), last])) == wanted


def test_chat_messages_take_a_system_message_and_a_dtype(memory: Memory) -> None:
    system, user = vllm_chat_messages(memory, "x", system="be brief", dtype=torch.bfloat16)
    assert system == {"role": "system", "content": "be brief"}
    assert decoded(user["content"][0]["data"]).dtype == torch.bfloat16
    with pytest.raises(UsageError, match="expected string or openai"):
        vllm_chat_messages(memory, "x", content_format="parts")  # type: ignore[arg-type]


def test_npy(model: Any, chat: Any, memory: Memory, wanted: list[int], tmp_path: Path) -> None:
    shape = save_npy(tmp_path / "prompt.npy", model, chat, PROMPT, memory)
    embeds = np.load(tmp_path / "prompt.npy", allow_pickle=False)
    assert (embeds.shape, embeds.dtype) == (shape, np.float32)
    assert continued(model, torch.from_numpy(embeds)) == wanted


def test_a_view_is_saved_without_the_storage_behind_it() -> None:
    whole = torch.zeros(1000, 8)
    assert len(encode_tensor(whole[:2])) < 4000
    for bad in (whole[0], whole.double(), whole.int()):
        with pytest.raises(UsageError, match="expected \\(positions, width\\) of float32, bfloat16, float16"):
            encode_tensor(bad)


def test_another_model_is_refused(model: Any, chat: Any, memory: Memory) -> None:
    stranger = Memory(("x",), memory.parts, replace(memory.fingerprint, weights="0" * 64))
    with pytest.raises(FingerprintError, match="weights"):
        prompt_embeds(model, chat, PROMPT, stranger)


def test_one_prompt_at_a_time(model: Any, chat: Any, memory: Memory) -> None:
    with pytest.raises(UsageError, match="found 2 prompts"):
        prompt_embeds(model, chat, ["a", "b"], memory)  # type: ignore[arg-type]


def test_the_limits_are_told() -> None:
    text = embeds_export.__doc__ or ""
    for limit in ("--enable-prompt-embeds", "trusted clients only", "vllm#56655", "--disable-radix-cache"):
        assert limit in text


def test_keys_and_values_are_refused(model: Any, chat: Any, tiny: str, tmp_path: Path) -> None:
    """They are no embeddings."""
    kv = kv_memory(model, chat, fingerprint(tiny), PROMPT, 2, "even")
    for export in (
        lambda: prompt_embeds(model, chat, PROMPT, kv),
        lambda: vllm_inputs(model, chat, PROMPT, kv),
        lambda: vllm_completion_body(model, chat, PROMPT, kv, served_model="x"),
        lambda: vllm_chat_messages(kv, PROMPT),
        lambda: save_npy(tmp_path / "x.npy", model, chat, PROMPT, kv),
    ):
        with pytest.raises(UsageError, match="kind='context'"):
            export()
    assert not (tmp_path / "x.npy").exists()
