"""Export complete embedded prompts for other engines: vLLM offline, vLLM's server, and programs that read .npy.

All functions but `vllm_chat_messages` export the *complete* prompt (BOS, template, memory, question), because those engines
apply no template to embeddings. The engine must run the model that the memory belongs to. Memories of keys and values are
refused: these engines take embeddings, which only context vectors are.

Known limits of the engines:
- vLLM's server needs `--enable-prompt-embeds`, offline `LLM(…, enable_prompt_embeds=True)`. The server reads the tensors
  with torch's own loader, which has been attacked through them (CVE-2025-62164): accept trusted clients only.
- vLLM's prefix cache has mixed up prompts of ids and embeddings (vllm#56655, open when this was written). Disable it with
  `--no-enable-prefix-caching` for chats, or send complete prompts.
- SGLang takes `input_embeds` (nested lists) with `--disable-radix-cache`. llama.cpp takes them as `llama_batch.embd` from C,
  not from its server. `save_npy` writes a file for both.

Letters: P positions, M vectors, D width.
"""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from memvec.arguments import anything, checked, choice, instance, literal, text
from memvec.errors import UsageError
from memvec.filesystem.paths import outside
from memvec.formats import files
from memvec.memory.memory import Memory
from memvec.memory.prompt import prompts_with, refuse_kv, tensor
from memvec.memory.prompt_input import one_prompt
from memvec.templates.template import SEPARATOR, Messages, Template

DTYPES = (torch.float32, torch.bfloat16, torch.float16)  # accepted by vLLM
# vLLM joins the parts of a message with these, by the content format of the chat template.
JOINED_BY = {"string": "\n", "openai": ""}


@checked(model=anything, template=literal(Template))
def prompt_embeds(
    model: Any, tokenizer: Any, prompt: str | Messages, memory: Memory | None, template: Template = "auto"
) -> Tensor:
    """Make a complete embedded prompt, (P, D) in the model's dtype on the CPU.

    FingerprintError; UsageError, also for a memory of keys and values, which no embedding can hold.
    """
    refuse_kv(memory)
    made = prompts_with(model, tokenizer, one_prompt(prompt), memory, template)
    return made.inputs_embeds[0].detach().cpu().contiguous()


def vllm_inputs(
    model: Any, tokenizer: Any, prompt: str | Messages, memory: Memory | None, template: Template = "auto"
) -> dict[str, Tensor]:
    """Make the input of `LLM(…, enable_prompt_embeds=True).generate(…)`: {"prompt_embeds": (P, D)}. As `prompt_embeds`."""
    return {"prompt_embeds": prompt_embeds(model, tokenizer, prompt, memory, template)}


def vllm_completion_body(
    model: Any,
    tokenizer: Any,
    prompt: str | Messages,
    memory: Memory | None,
    template: Template = "auto",
    *,
    served_model: str,
    **options: Any,
) -> dict[str, Any]:
    """Make the JSON body of a POST to /v1/completions of a vLLM server with --enable-prompt-embeds. As `prompt_embeds`.

    `served_model` is the server's name of the model. `options` are other fields, such as max_tokens and temperature.
    """
    embeds = prompt_embeds(model, tokenizer, prompt, memory, template)
    return {"model": served_model, "prompt_embeds": encode_tensor(embeds), **options}


@checked(
    memory=instance(Memory), prompt=text, system=text, content_format=choice(*JOINED_BY), dtype=instance(torch.dtype)
)
def vllm_chat_messages(
    memory: Memory,
    prompt: str,
    *,
    system: str | None = None,
    content_format: Literal["string", "openai"] = "string",
    dtype: torch.dtype = torch.float32,
) -> list[dict[str, Any]]:
    """Make `messages` for /v1/chat/completions of a vLLM server with --enable-prompt-embeds. UsageError.

    The server must support content parts of this type (vllm#40720, April 2026). Only the memory is sent as embeddings,
    (M, D); the question follows as text, and the server applies the template. The server logs its `content_format` at the
    first chat. If that is "string", it joins the parts of a message with a line end, if "openai", with nothing. The prompt is the same as memvec's if the tokenizer splits at the blank line behind the memory. It does not if `prompt`
    begins with a line end.
    """
    words = SEPARATOR.removeprefix(JOINED_BY[content_format]) + prompt
    content = [
        {"type": "prompt_embeds", "data": encode_tensor(tensor(memory).to(dtype))},
        {"type": "text", "text": words},
    ]
    before = [{"role": "system", "content": system}] if system is not None else []
    return [*before, {"role": "user", "content": content}]


@checked(model=anything, template=literal(Template))
def save_npy(
    path: str | Path,
    model: Any,
    tokenizer: Any,
    prompt: str | Messages,
    memory: Memory | None,
    template: Template = "auto",
) -> tuple[int, int]:
    """Write a complete embedded prompt as a float32 .npy file and return its shape (P, D). As `prompt_embeds`."""
    path = outside(path, "path")
    embeds = prompt_embeds(model, tokenizer, prompt, memory, template).float().numpy()
    buffer = io.BytesIO()
    np.save(buffer, embeds)
    files.write_atomically(path, buffer.getvalue())
    return embeds.shape


def encode_tensor(embeds: Tensor) -> str:
    """Encode a tensor for a vLLM server: base64 of a file of torch.save. UsageError for another dtype or shape."""
    if embeds.ndim != 2 or embeds.dtype not in DTYPES:
        raise UsageError(
            f"embeddings are {tuple(embeds.shape)} {embeds.dtype}, expected (positions, width) of "
            f"{', '.join(str(d).removeprefix('torch.') for d in DTYPES)}."
        )
    buffer = io.BytesIO()
    torch.save(embeds.detach().cpu().clone(), buffer)  # a clone: a view would carry the complete storage behind it
    return base64.b64encode(buffer.getvalue()).decode()
