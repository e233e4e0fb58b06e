"""`memvec pack`."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from memvec.checkpoints.resolve import DEFAULT_MODEL
from memvec.cli.output import F, Output, common, lock_wait, pairs
from memvec.cli.render import estimated, totals
from memvec.cli.streams import emit, read_input
from memvec.errors import InterruptedPackError, PartialError, UsageError
from memvec.evaluation.questions import read_questions
from memvec.filesystem.plain_text import printable
from memvec.filesystem.sources import Source
from memvec.retrieval.embedders import DEFAULT
from memvec.settings import ContextSettings, PackSettings
from memvec.types import PackReport

C, D = ContextSettings(), PackSettings()


def options(model: str | None) -> Callable[[F], F]:
    """Everything that `pack` and `add` can be told; `model` is the default of -m."""
    every = [
        click.argument("sources", nargs=-1, required=True, metavar="SRC..."),
        click.option(
            "-o", "--output-store", "store", required=True, metavar="STORE", help="Store folder; added to when there."
        ),
        click.option(
            "-m", "--model", default=model, show_default=True, help="Name, checkpoint folder, GGUF or hub id."
        ),
        click.option(
            "--kind",
            type=click.Choice(["exact", "context", "both"]),
            default="exact",
            show_default=True,
            help="Records that give the bytes back, memories to condition the model with, or both.",
        ),
        click.option(
            "--ratio", type=float, default=C.ratio, show_default=True, help="Tokens a context vector stands for."
        ),
        click.option("--gist", is_flag=True, help="Allow ratios above 16, which lose names and numbers."),
        click.option(
            "--window-tokens", type=int, default=C.window_tokens, show_default=True, help="Most tokens of a memory."
        ),
        click.option(
            "--distil-steps", type=int, default=C.steps, show_default=True, help="Optimiser steps of a memory."
        ),
        click.option(
            "--questions", metavar="FILE", help="JSON lines {document, question, answer} that memories learn from too."
        ),
        click.option(
            "--meta", multiple=True, metavar="KEY=VALUE", help="Said of every document, to search --where. Repeatable."
        ),
        click.option(
            "--keys",
            default=",".join(DEFAULT),
            show_default=True,
            metavar="NAMES",
            help="Embedders to search by, or none.",
        ),
        click.option("--name", help="Document name of standard input (SRC is -)."),
        click.option(
            "--include", multiple=True, metavar="PATTERN", help="Only files that match, as in .gitignore. Repeatable."
        ),
        click.option(
            "--exclude", multiple=True, metavar="PATTERN", help="No files that match, as in .gitignore. Repeatable."
        ),
        click.option(
            "--reuse/--no-reuse", default=True, show_default=True, help="Copy records of the same text in STORE."
        ),
        click.option(
            "--preset",
            type=click.Choice(["fast", "balanced", "dense"]),
            help="Budget and rate by the model's `calibrate`d curve.",
        ),
        click.option("--dry-run", is_flag=True, help="Print records, vectors, expected time and size; write nothing."),
        click.option(
            "--nats-per-vector", type=float, help="Surprisal a vector is asked to carry. [default: 76 at width 576]"
        ),
        click.option(
            "--segment-tokens", type=int, default=D.segment_tokens, show_default=True, help="Most tokens in a segment."
        ),
        click.option("--vectors", type=int, help="Exactly this many vectors a segment."),
        click.option(
            "--max-corrections", type=float, default=D.max_corrections, show_default=True, help="Fraction of tokens."
        ),
        click.option(
            "--margin", type=float, default=D.margin, show_default=True, help="Logit gap below which a token is stored."
        ),
        click.option("--strict", is_flag=True, help="No corrections of wrong tokens."),
        click.option("--learning-rate", type=float, help=f"Of AdamW. [default: {D.learning_rate:g}]"),
        click.option(
            "--max-steps", type=int, default=D.max_steps, show_default=True, help="Optimiser steps of one attempt."
        ),
        click.option(
            "--refits", type=int, default=D.refits, show_default=True, help="Further attempts before a segment is raw."
        ),
        click.option("--seed", type=int, default=D.seed, show_default=True, help="Seed of the starting vectors."),
        click.option("--memory", type=float, help="GiB for activations. [default: 2; on a GPU much of what is free]"),
        click.option("--device", help="Torch device. [default: cuda if there is one, else cpu]"),
        click.option(
            "--dtype", type=click.Choice(["bfloat16", "float32"]), help="What fits run in. [default: by processor]"
        ),
        lock_wait,
    ]
    return lambda command: functools.reduce(lambda made, option: option(made), reversed(every), command)


@click.command("pack")
@options(DEFAULT_MODEL)
@common
def command(**given: Any) -> None:
    """Pack files and folders (- for standard input) into STORE as [mem] vectors.

    Exact records are certified by decoding them; memories are measured on questions they did not learn from.

    Names are relative to each folder given. Documents that are in STORE already are left as they are.
    """
    from memvec.packing.pack import pack

    run_pack(pack, **given)


def run_pack(
    pack: Callable[..., PackReport],
    *,
    sources: tuple[str, ...],
    store: str,
    model: str,
    kind: Any,
    ratio: float,
    gist: bool,
    window_tokens: int,
    distil_steps: int,
    questions: str | None,
    meta: tuple[str, ...],
    keys: str,
    preset: Any,
    dry_run: bool,
    name: str | None,
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    reuse: bool,
    memory: float | None,
    device: str | None,
    dtype: str | None,
    lock_wait: float,
    output: Output,
    **options: Any,
) -> None:
    """Pack what the command line names with `pack`, or with what takes the same."""
    if preset and (both := [name for name in ("nats_per_vector", "learning_rate") if options[name] is not None]):
        raise UsageError(f"--preset says what --{both[0].replace('_', '-')} says. Pass one of them.")
    if memory is not None and not 0 < memory < math.inf:
        raise UsageError(f"--memory is {memory:g} GiB, expected more than 0.")
    limit = None if memory is None else int(min(memory, 1e9) * 2**30)  # 1e300 GiB would be infinitely many bytes
    settings = PackSettings(memory=limit, **{name: value for name, value in options.items() if value is not None})
    context = ContextSettings(
        ratio=ratio, gist=gist, window_tokens=window_tokens, steps=distil_steps, seed=settings.seed, memory=limit
    )
    asked = read_questions(questions) if questions else []
    said = pairs(meta, "--meta") if meta else None
    embedders = [] if keys == "none" else keys.split(",")
    if dry_run:
        _estimate(kind, output, _read(sources, name), store, model=model, settings=settings, preset=preset,
                  keys=embedders, include=include, exclude=exclude, reuse=reuse, device=device, dtype=dtype)  # fmt: skip
        return
    try:
        report = pack(
            _read(sources, name), store, model=model, kind=kind, settings=settings, preset=preset, context=context,
            questions=asked, keys=embedders, meta=said, include=include, exclude=exclude, reuse=reuse, device=device, dtype=dtype, lock_wait=lock_wait, watch=output.watch,
        )  # fmt: skip
    except (PartialError, InterruptedPackError) as error:
        why = {"interrupted": True} if isinstance(error, InterruptedPackError) else {"skipped": dict(error.skipped)}
        if isinstance(error.report, PackReport):
            output.result(asdict(error.report) | why, totals(error.report), notice=True)
            _warn(error.report.unmatched)
        raise
    output.result(asdict(report), f"packed into {store}\n{totals(report)}", notice=True)
    _warn(report.unmatched)


def _warn(unmatched: Sequence[str]) -> None:
    """Say which patterns were of no use; also with -q, as what they were to keep out was packed."""
    for pattern in unmatched:
        emit(f"memvec: warning: {printable(pattern)!r} matches no file and no folder\n", err=True)


def _estimate(kind: str, output: Output, *arguments: Any, **options: Any) -> None:
    from memvec.packing.estimate import estimate

    if kind != "exact":
        raise UsageError(
            "--dry-run estimates exact records. Leave --kind out; a memory takes five to six times as long."
        )
    found = estimate(*arguments, **options, watch=output.watch)
    output.result({"dry_run": True, **asdict(found)}, estimated(found))
    _warn(found.unmatched)


def _read(sources: tuple[str, ...], name: str | None) -> list[str | Path | Source]:
    if (name is None) == ("-" in sources):
        raise UsageError("expected --name NAME with - for standard input, and only with it.")
    if sources.count("-") > 1:
        raise UsageError("standard input can be read once. Pass - once.")
    return [Source(name or "", read_input()) if source == "-" else source for source in sources]
