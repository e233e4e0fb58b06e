"""`memvec export`."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from memvec.cli.output import Output, common
from memvec.errors import UsageError
from memvec.filesystem.plain_text import printable

if TYPE_CHECKING:
    from memvec.lm.frozen import FrozenLM
    from memvec.memory.memory import Memory
    from memvec.templates.template import Template

STORE = "store"
NOTES = {
    STORE: "everything in one safetensors file; `memvec import` makes a store of it again",
    "peft-prompt": "one row at a time: PEFT gets padded rows of prompt tuning wrong",
    "peft-prefix": "give the model what comes after the memory; left-padded batches are right",
    "peft-cartridge": "give the model what comes after the memory; left-padded batches are right",
    "vllm": "POST it to /v1/completions of a server with --enable-prompt-embeds, for trusted clients only",
    "vllm-chat": "POST it to /v1/chat/completions of a server with --enable-prompt-embeds, for trusted clients only",
    "npy": "the whole prompt as float32 (positions, width)",
}


@dataclass(frozen=True, slots=True)
class _Request:
    """What is to be written where."""

    memory: Memory
    path: Path
    load: Callable[[], FrozenLM]
    prompt: str
    template: Template
    bare: bool
    served: str
    content_format: Literal["string", "openai"]


@click.command("export")
@click.argument("store")
@click.option("--id", "documents", multiple=True, metavar="DOCUMENT", help="Whose memories, in this order. Repeatable.")
@click.option(
    "--to", "target", type=click.Choice(sorted(NOTES)), default=STORE, show_default=True, help="What to write."
)
@click.option("-o", "--output", "path", required=True, metavar="PATH", help="A new folder for PEFT, else a file.")
@click.option("--prompt", metavar="TEXT", help="The user's words, for vllm, vllm-chat and npy.")
@click.option(
    "--kind",
    type=click.Choice(["context", "exact"]),
    default="context",
    show_default=True,
    help="Which vectors. Exact ones harm what a model says; they are for measuring that.",
)
@click.option(
    "--template",
    type=click.Choice(["auto", "chat", "text"]),
    default="auto",
    show_default=True,
    help="What stands around memory and prompt. auto: the chat template where the model has one.",
)
@click.option("--bare", is_flag=True, help="peft-prompt: the vectors alone, without BOS and template before them.")
@click.option("--served-model", metavar="NAME", help="What vLLM calls the model. [default: the name in the store]")
@click.option(
    "--content-format",
    type=click.Choice(["string", "openai"]),
    default="string",
    show_default=True,
    help="vllm-chat: the content format that the server finds in its chat template.",
)
@click.option("--overwrite", is_flag=True, help="Replace the file that is there.")
@click.option("-m", "--model", help="Model to export with. [default: the one named in the store]")
@common
def command(
    store: str,
    documents: tuple[str, ...],
    target: str,
    path: str,
    prompt: str | None,
    kind: str,
    overwrite: bool,
    served_model: str | None,
    model: str | None,
    output: Output,
    **options: Any,
) -> None:
    """Write STORE as one file, or with --to the memories of documents for another program.

    PEFT adapters and embedded prompts, no training. The model must be the one the store was packed with; memories mean
    nothing to another.
    """
    from memvec.filesystem.paths import outside

    outside(path, "output", store)
    if target == STORE:
        _whole(store, path, documents, prompt, overwrite, output)
        return
    from memvec.identity.match import load_lm
    from memvec.memory.memory import load
    from memvec.progress import Progress, enter
    from memvec.store.store import Store

    if not documents:
        raise UsageError(f"{target} is of documents, expected their names. Pass --id.")
    _check(target, Path(path), prompt, options["bare"], overwrite)
    opened = Store.open(store)
    memory = load(opened, documents, kind)
    owner, progress = memory.fingerprint, Progress()
    request = _Request(
        memory=memory,
        path=Path(path),
        load=lambda: load_lm(owner, model, None, lambda stage: enter(stage, progress, output.watch)),
        prompt=prompt or "",
        served=served_model or owner.source,
        **options,
    )
    WRITERS[target](request)
    result = {
        "to": target,
        "path": path,
        "documents": list(documents),
        "vectors": len(memory),
        "bytes": _size(Path(path)),
    }
    text = f"{len(memory):,} vectors of {', '.join(documents)} as {target} in {path} ({result['bytes']:,} bytes)"
    output.result(result, f"{printable(text)}\n{NOTES[target]}", notice=True)


def _whole(
    store: str, path: str, documents: tuple[str, ...], prompt: str | None, overwrite: bool, output: Output
) -> None:
    """Write everything that counts in a store as one file."""
    from memvec.maintenance.archive import export_store

    if documents or prompt is not None:
        raise UsageError("a whole store takes no --id and no --prompt. Leave them out, or say --to what.")
    report = export_store(store, path, overwrite=overwrite)
    text = f"{report.documents:,} documents, {report.records:,} records in {path} ({report.bytes:,} bytes)"
    output.result({"to": STORE, "path": path, **asdict(report)}, f"{printable(text)}\n{NOTES[STORE]}", notice=True)


def _check(target: str, path: Path, prompt: str | None, bare: bool, overwrite: bool) -> None:
    """UsageError, before anything is loaded, for options that do not go together."""
    adapter = target.startswith("peft-")
    if adapter and prompt is not None:
        raise UsageError(
            f"{target} holds no prompt; prompts are given to the model it is loaded into. Leave --prompt out."
        )
    if not adapter and not prompt:
        raise UsageError(f"{target} is a whole prompt, expected the user's words. Pass --prompt.")
    if bare and target != "peft-prompt":
        raise UsageError("--bare is for peft-prompt. Leave it out.")
    if not adapter and path.is_dir():
        raise UsageError(f"{str(path)!r} is a folder, expected the name of a file for {target}. Pass another -o.")
    if not adapter and path.exists() and not overwrite:
        raise UsageError(f"{str(path)!r} exists. Pass --overwrite or another -o.")


def _peft_prompt(request: _Request) -> None:
    from memvec.integrations.peft_adapter import export_prompt_tuning
    from memvec.templates.template import frame

    lm = request.load()
    before = () if request.bare else frame(lm.tokenizer, "", request.template).before
    export_prompt_tuning(request.memory, request.path, lm.model, lm.tokenizer, before)


def _peft_prefix(request: _Request) -> None:
    from memvec.integrations.peft_adapter import export_prefix_tuning

    lm = request.load()
    export_prefix_tuning(request.memory, request.path, lm.model, lm.tokenizer, request.template)


def _peft_cartridge(request: _Request) -> None:
    from memvec.integrations.peft_adapter import export_cartridge

    lm = request.load()
    export_cartridge(request.memory, request.path, lm.model, lm.tokenizer, request.template)


def _vllm(request: _Request) -> None:
    from memvec.integrations.embeds_export import vllm_completion_body

    lm = request.load()
    body = vllm_completion_body(
        lm.model, lm.tokenizer, request.prompt, request.memory, request.template, served_model=request.served
    )
    _write_json(request.path, body)


def _vllm_chat(request: _Request) -> None:
    from memvec.integrations.embeds_export import vllm_chat_messages

    messages = vllm_chat_messages(request.memory, request.prompt, content_format=request.content_format)
    _write_json(request.path, {"model": request.served, "messages": messages})


def _npy(request: _Request) -> None:
    from memvec.integrations.embeds_export import save_npy

    lm = request.load()
    save_npy(request.path, lm.model, lm.tokenizer, request.prompt, request.memory, request.template)


WRITERS: dict[str, Callable[[_Request], None]] = {
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


def _size(path: Path) -> int:
    """Bytes of a file, or of the files in a folder."""
    return sum(file.stat().st_size for file in ([path] if path.is_file() else path.iterdir()))
