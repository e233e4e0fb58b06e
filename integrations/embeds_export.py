"""Complete embedded prompts for engines that run elsewhere: vLLM offline, vLLM's server, and anything that reads .npy.

Everything but `vllm_chat_messages` holds the *whole* prompt (BOS, template, memory, question), as the hook would feed it:
those engines apply no template to embeddings. Only for the model the memory was made with.

Known limits of the engines:
- vLLM's server needs `--enable-prompt-embeds`, offline `LLM(…, enable_prompt_embeds=True)`. The server reads the tensors
  with torch's own loader, which has been attacked through them (CVE-2025-62164): open it to trusted clients only.
- vLLM's prefix cache has mixed up prompts of ids and embeddings (vllm#56655, open when this was written): switch it off
  with `--no-enable-prefix-caching` for chats, or send whole prompts.
- SGLang takes `input_embeds` (nested lists) with `--disable-radix-cache`; llama.cpp takes them as `llama_batch.embd` from C,
  not from its server. `save_npy` writes what both need.

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
from memvec.memory.prompt import prompts_with, tensor
from memvec.memory.prompt_input import one_prompt
from memvec.templates.template import SEPARATOR, Messages, Template

DTYPES = (torch.float32, torch.bfloat16, torch.float16)  # what vLLM takes
# What vLLM puts between the parts of a message, by the content format it finds in the chat template.
JOINED_BY = {"string": "\n", "openai": ""}


@checked(model=anything, template=literal(Template))
def prompt_embeds(
    model: Any, tokenizer: Any, prompt: str | Messages, memory: Memory | None, template: Template = "auto"
) -> Tensor:
    """The complete embedded prompt, (P, D) in the model's dtype on the CPU. FingerprintError, UsageError."""
    made = prompts_with(model, tokenizer, one_prompt(prompt), memory, template)
    return made.inputs_embeds[0].detach().cpu().contiguous()


def vllm_inputs(
    model: Any, tokenizer: Any, prompt: str | Messages, memory: Memory | None, template: Template = "auto"
) -> dict[str, Tensor]:
    """For `LLM(…, enable_prompt_embeds=True).generate(…)`, offline: {"prompt_embeds": (P, D)}. As `prompt_embeds`."""
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
    """The JSON body of a POST to /v1/completions of a vLLM server with --enable-prompt-embeds. As `prompt_embeds`.

    `served_model`: the name the server knows the model by; `options`: max_tokens, temperature and whatever else it takes.
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
    """`messages` for /v1/chat/completions of a vLLM server with --enable-prompt-embeds. UsageError.

    The server must know content parts of this type (vllm#40720, April 2026). The memory alone goes as embeddings, (M, D),
    the question as text behind it; the server applies the template. It joins the parts of a message with a line end where
    its chat template takes strings and with nothing where it takes parts (`content_format`, which the server logs at the
    first chat); the blank line behind the memory allows for that. Equal to the hook's prompt where the tokenizer splits
    at that blank line, so not for a prompt that begins with one.
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
    """Write the complete embedded prompt as a float32 .npy file; its shape (P, D). As `prompt_embeds`."""
    path = outside(path, "path")
    embeds = prompt_embeds(model, tokenizer, prompt, memory, template).float().numpy()
    buffer = io.BytesIO()
    np.save(buffer, embeds)
    files.write_atomically(path, buffer.getvalue())
    return embeds.shape


def encode_tensor(embeds: Tensor) -> str:
    """Base64 of the tensor as torch saves it, which is what a vLLM server takes. UsageError for another dtype or shape."""
    if embeds.ndim != 2 or embeds.dtype not in DTYPES:
        raise UsageError(
            f"embeddings are {tuple(embeds.shape)} {embeds.dtype}, expected (positions, width) of "
            f"{', '.join(str(d).removeprefix('torch.') for d in DTYPES)}."
        )
    buffer = io.BytesIO()
    torch.save(embeds.detach().cpu().clone(), buffer)  # a clone: a view would carry the whole storage behind it
    return base64.b64encode(buffer.getvalue()).decode()
