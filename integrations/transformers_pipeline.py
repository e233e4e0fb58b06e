"""The transformers pipeline "memvec-text-generation": text generation with a memory in front of the prompts.

import memvec.integrations.transformers_pipeline  # registers the task
pipe = transformers.pipeline("memvec-text-generation", model=model, tokenizer=tokenizer)
pipe([{"role": "user", "content": "Who keeps the key?"}], memory=memvec.load_memory("notes.memvec", "ferry.txt"))
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoModelForCausalLM, TextGenerationPipeline
from transformers.pipelines import PIPELINE_REGISTRY
from transformers.utils.chat_template_utils import Chat

from memvec.errors import UsageError, counted
from memvec.identity.fingerprint import check_model
from memvec.lm.adapters import unwrapped
from memvec.memory.attach import mask_of, own_ids
from memvec.memory.prompt import HasVectors, Memories, as_memories, embed, front_of, is_memory, pad_id
from memvec.templates.rendering import refusals
from memvec.templates.template import Frame, chat_frame, normalized_messages, places

TASK = "memvec-text-generation"


@dataclass(frozen=True, slots=True)
class _Row:
    """A prompt with its own memory."""

    prompt: Any
    memory: HasVectors | None


class MemoryTextGenerationPipeline(TextGenerationPipeline):  # type: ignore[misc]
    """transformers' text generation with `memory=`, for all calls or for one.

    In chats, the memory goes to the start of the user's first message; in text, behind BOS. All else is as in the base class.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        """Take the arguments of the base class and two more.

        `memory` is used by calls without a memory. `allow_adapters` accepts a model with active adapters.
        """
        self._allow_adapters = options.pop("allow_adapters", False)
        super().__init__(*args, **options)

    def __call__(self, text_inputs: Any, **options: Any) -> Any:
        """Complete prompts or chats. `memory`: one for all, None for none, or one (or None) for each prompt of a list.

        FingerprintError; UsageError for options that would ignore a memory, and for a wrong number of memories.
        """
        memory: Memories = options.get("memory", self._preprocess_params.get("memory"))
        memories = as_memories(memory)
        if memory is not None and not is_memory(memory):
            prompts = _as_list(text_inputs)
            if len(prompts) != len(memories):
                raise UsageError(
                    f"{counted(len(memories), 'memory', 'memories')} for {counted(len(prompts), 'prompt')}. "
                    "Pass one, or a list of prompts and one for each."
                )
            text_inputs = [_Row(prompt, own) for prompt, own in zip(prompts, memories, strict=True)]
            options = {**options, "memory": None}
        return super().__call__(text_inputs, **options)

    def _sanitize_parameters(self, **options: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        given = {"memory": options.pop("memory")} if "memory" in options else {}
        preprocess, forward, postprocess = super()._sanitize_parameters(**options)
        return {**preprocess, **given}, forward, postprocess

    def preprocess(self, prompt_text: Any, memory: HasVectors | None = None, **options: Any) -> Any:
        """Make the token ids of a prompt, and with a memory its "frame": the tokens before and after the memory.

        UsageError for a chat that has no place for a memory.
        """
        if isinstance(prompt_text, _Row):
            prompt_text, memory = prompt_text.prompt, prompt_text.memory
        if memory is not None and isinstance(prompt_text, Chat):
            inputs = self._chat(prompt_text, options)
        else:
            inputs = super().preprocess(prompt_text, **options)
            inputs["frame"] = None if memory is None else self._make_room(inputs)
        inputs["memory"] = memory
        return inputs

    def _forward(self, model_inputs: Any, **options: Any) -> Any:
        memory, frames = model_inputs.pop("memory"), model_inputs.pop("frame")  # of a batch: lists
        memories = [memory] if memory is None or is_memory(memory) else list(memory)
        if all(own is None for own in memories):
            return super()._forward(model_inputs, **options)
        for own in memories:
            if own is not None:
                check_model(self.model, self.tokenizer, own.identity, allow_adapters=self._allow_adapters)
        # In the arguments of this call only, so nothing is stored on the model.
        ids = model_inputs["input_ids"]
        rows = zip(
            [frames] if isinstance(frames, Frame) else frames,
            own_ids(ids, mask_of(unwrapped(self.model), dict(model_inputs), ids)),
            memories,
            strict=True,
        )
        fronts = {id(own): front_of(own) for own in memories}
        made = embed(
            self.model,
            [(Frame((), ids) if own is None else place, fronts[id(own)]) for place, ids, own in rows],
            pad_id(self.tokenizer),
        ).generate_kwargs()
        inputs = {**model_inputs, "attention_mask": made.pop("attention_mask")}
        del made["input_ids"]
        return super()._forward(inputs, **options, **made)

    def _chat(self, chat: Chat, options: dict[str, Any]) -> Any:
        """Make the token ids of a chat, and its frame. UsageError if it has none or the template refuses the chat."""
        names = ("tools", "documents", "continue_final_message")
        rendering = {name: options.get(name) for name in names} | (options.get("tokenizer_encode_kwargs") or {})
        talk = normalized_messages(self.tokenizer, chat.messages, **rendering)
        with refusals():
            inputs = super().preprocess(Chat(talk), **options)
        inputs["prompt_text"] = chat  # the answer repeats the original chat
        inputs["frame"] = chat_frame(self.tokenizer, talk, _own(inputs), **rendering)
        return inputs

    def _make_room(self, inputs: Any) -> Frame:
        """Make the frame of a text. It may be a rendered chat; if not, BOS is put first in `inputs`."""
        ids, where = _own(inputs), places(self.tokenizer)
        if where.find(ids) is None and where.bos is not None and ids[:1] != [where.bos]:
            inputs["input_ids"] = torch.tensor([[where.bos, *ids]], device=inputs["input_ids"].device)
            inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        return where.split(_own(inputs), True)


def _own(inputs: Any) -> list[int]:
    """The ids of one prompt without padding."""
    ids, mask = inputs["input_ids"][0], inputs.get("attention_mask")
    return [int(i) for i in (ids if mask is None else ids[mask[0].bool()])]


def register() -> None:
    """Register `transformers.pipeline("memvec-text-generation", …)`. Importing this module calls it."""
    if PIPELINE_REGISTRY.supported_tasks.get(TASK, {}).get("impl") is not MemoryTextGenerationPipeline:
        PIPELINE_REGISTRY.register_pipeline(
            TASK, pipeline_class=MemoryTextGenerationPipeline, pt_model=AutoModelForCausalLM, type="text"
        )


def _as_list(prompts: Any) -> list[Any]:
    """Make a list of prompts, with chats wrapped as in the base class. One prompt, or one chat, is a list of one."""
    prompts = [prompts] if isinstance(prompts, str) else list(prompts)
    if prompts and isinstance(prompts[0], Mapping):
        prompts = [prompts]
    return [prompt if isinstance(prompt, str) else Chat(prompt) for prompt in prompts]


register()
