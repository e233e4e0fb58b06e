"""The targets of `export --to`: each writes memories in the form of another program."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from memvec.errors import UsageError

if TYPE_CHECKING:
    from memvec.lm.frozen import FrozenLM
    from memvec.memory.memory import Memory
    from memvec.templates.template import Template

STORE = "store"
KEEPS_KV = ("peft-prefix", "peft-cartridge")  # targets that take memories of keys and values
# Advice on the file, by target.
NOTES = {
    STORE: "one safetensors file with the complete store; `memvec import` makes a store from it",
    "peft-prompt": "use one row at a time: PEFT pads batches of prompt tuning wrongly",
    "peft-prefix": "give the model only the tokens after the memory; left-padded batches work",
    "peft-cartridge": "give the model only the tokens after the memory; left-padded batches work",
    "vllm": "POST it to /v1/completions of a server with --enable-prompt-embeds; such a server must serve trusted clients only",
    "vllm-chat": "POST it to /v1/chat/completions of a server with --enable-prompt-embeds; such a server must serve trusted "
    "clients only",
    "npy": "the complete prompt as float32 (positions, width)",
}


@dataclass(frozen=True, slots=True)
class Request:
    """One export: a memory, its prompt, and the file or folder to write."""

    memory: Memory
    path: Path
    load: Callable[[], FrozenLM]
    prompt: str
    template: Template
    bare: bool
    served: str  # the model's name in vLLM
    content_format: Literal["string", "openai"]


def check(target: str, path: Path, prompt: str | None, bare: bool, overwrite: bool) -> None:
    """Check the options before anything is loaded.

    Raises:
        UsageError: Options do not go together, or the file exists.
    """
    adapter = target.startswith("peft-")
    if adapter and prompt is not None:
        raise UsageError(f"{target} holds no prompt: the model gets it later. Leave --prompt out.")
    if not adapter and not prompt:
        raise UsageError(f"{target} is a complete prompt, expected the user's words. Pass --prompt.")
    if bare and target != "peft-prompt":
        raise UsageError("--bare is for peft-prompt. Leave it out.")
    if not adapter and path.is_dir():
        raise UsageError(f"{str(path)!r} is a folder, expected the name of a file for {target}. Pass another -o.")
    if not adapter and path.exists() and not overwrite:
        raise UsageError(f"{str(path)!r} exists. Pass --overwrite or another -o.")


def size(path: Path) -> int:
    """Bytes of a file, or of the files in a folder."""
    return sum(file.stat().st_size for file in ([path] if path.is_file() else path.iterdir()))


def _peft_prompt(request: Request) -> None:
    from memvec.integrations.peft_adapter import export_prompt_tuning
    from memvec.templates.template import frame

    lm = request.load()
    before = () if request.bare else frame(lm.tokenizer, "", request.template).before
    export_prompt_tuning(request.memory, request.path, lm.model, lm.tokenizer, before)


def _peft_prefix(request: Request) -> None:
    from memvec.integrations.peft_adapter import export_prefix_tuning

    lm = request.load()
    export_prefix_tuning(request.memory, request.path, lm.model, lm.tokenizer, request.template)


def _peft_cartridge(request: Request) -> None:
    from memvec.integrations.peft_adapter import export_cartridge

    lm = request.load()
    export_cartridge(request.memory, request.path, lm.model, lm.tokenizer, request.template)


def _vllm(request: Request) -> None:
    from memvec.integrations.embeds_export import vllm_completion_body

    lm = request.load()
    body = vllm_completion_body(
        lm.model, lm.tokenizer, request.prompt, request.memory, request.template, served_model=request.served
    )
    _write_json(request.path, body)


def _vllm_chat(request: Request) -> None:
    from memvec.integrations.embeds_export import vllm_chat_messages

    messages = vllm_chat_messages(request.memory, request.prompt, content_format=request.content_format)
    _write_json(request.path, {"model": request.served, "messages": messages})


def _npy(request: Request) -> None:
    from memvec.integrations.embeds_export import save_npy

    lm = request.load()
    save_npy(request.path, lm.model, lm.tokenizer, request.prompt, request.memory, request.template)


WRITERS: dict[str, Callable[[Request], None]] = {
    "npy": _npy,
    "peft-cartridge": _peft_cartridge,
    "peft-prefix": _peft_prefix,
    "peft-prompt": _peft_prompt,
    "vllm": _vllm,
    "vllm-chat": _vllm_chat,
}


def _write_json(path: Path, body: dict[str, Any]) -> None:
    from memvec.formats.files import write_atomically

    write_atomically(path, json.dumps(body).encode())
