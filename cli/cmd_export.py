"""`memvec export`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from memvec.cli import options
from memvec.cli.export_targets import KEEPS_KV, NOTES, STORE, WRITERS, Request, check, size
from memvec.cli.options import common, examples
from memvec.cli.output import Output
from memvec.errors import UsageError, counted
from memvec.filesystem.plain_text import printable


@click.command(
    "export",
    epilog=examples(
        "memvec export notes.memvec -o notes.safetensors",
        "memvec export notes.memvec --to peft-prefix --id todo.txt -o adapter/",
        'memvec export notes.memvec --to vllm --id todo.txt --prompt "What is due?" -o body.json',
    ),
)
@click.argument("store")
@click.option("--to", "target", type=click.Choice(sorted(NOTES)), default=STORE, show_default=True, help="Format.")
@options.memories
@click.option("-o", "--output", "path", required=True, metavar="PATH", help="File to write; for PEFT a new folder.")
@click.option("--prompt", metavar="TEXT", help="The user's words, for vllm, vllm-chat and npy.")
@click.option(
    "--kind",
    type=click.Choice(["auto", "context", "kv", "exact"]),
    default="auto",
    show_default=True,
    help="Kind of memory. auto is kv for peft-prefix and peft-cartridge where the documents have one, else context. Exact "
    "vectors harm a model's answers; use them to measure that.",
)
@options.template("auto", "chat", "text", default="auto")
@click.option("--bare", is_flag=True, help="For peft-prompt: write the vectors without BOS and template in front.")
@click.option("--served-model", metavar="NAME", help="The model's name in vLLM. [default: the one in the store]")
@click.option(
    "--content-format",
    type=click.Choice(["string", "openai"]),
    default="string",
    show_default=True,
    help="For vllm-chat: the content format of the server.",
)
@options.overwrite
@options.model()
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
    **more: Any,
) -> None:
    """Write a store as one file, or memories for another program.

    With --to, the memories of documents become a PEFT adapter or an embedded prompt; nothing is trained. The other
    program must use the model that STORE was packed with.
    """
    from memvec.filesystem.paths import outside

    outside(path, "output", store)
    if target == STORE:
        _whole_store(store, path, documents, prompt, overwrite, output)
        return
    from memvec.identity.runtime import open_runtime
    from memvec.memory.memory import load

    if not documents:
        raise UsageError(f"{target} needs the names of documents. Pass --id.")
    check(target, Path(path), prompt, more["bare"], overwrite)
    runtime = open_runtime(store, model=model, watch=output.watch)
    memory = load(runtime, documents, "context" if kind == "auto" and target not in KEEPS_KV else kind)
    request = Request(
        memory=memory,
        path=Path(path),
        load=lambda: runtime.lm,
        prompt=prompt or "",
        served=served_model or memory.fingerprint.source,
        **more,
    )
    WRITERS[target](request)
    result = {
        "to": target,
        "path": path,
        "documents": list(documents),
        "vectors": 0 if memory.kv else len(memory),
        "positions": len(memory),
        "bytes": size(Path(path)),
    }
    amount = f"{counted(len(memory), 'position')} of keys and values" if memory.kv else counted(len(memory), "vector")
    text = f"{amount} of {', '.join(documents)} as {target} in {path} ({result['bytes']:,} bytes)"
    output.result(result, f"{printable(text)}\n{NOTES[target]}", notice=True)


def _whole_store(
    store: str, path: str, documents: tuple[str, ...], prompt: str | None, overwrite: bool, output: Output
) -> None:
    """Write all live documents of a store as one file."""
    from memvec.maintenance.archive import export_store

    if documents or prompt is not None:
        raise UsageError("a whole store takes no --id and no --prompt. Leave them out, or pass --to with a format.")
    report = export_store(store, path, overwrite=overwrite)
    text = f"{counted(report.documents, 'document')}, {counted(report.records, 'record')} in {path} ({report.bytes:,} bytes)"
    output.result({"to": STORE, "path": path, **asdict(report)}, f"{printable(text)}\n{NOTES[STORE]}", notice=True)
