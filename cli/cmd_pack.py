"""`memvec pack`, and the options that `add` shares."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import click

from memvec.checkpoints.resolve import DEFAULT_MODEL
from memvec.cli import options
from memvec.cli.options import F, common, examples
from memvec.cli.output import Output
from memvec.cli.render_report import estimated, totals
from memvec.cli.streams import emit, read_input
from memvec.errors import InterruptedPackError, PartialError, UsageError
from memvec.evaluation.questions import read_questions
from memvec.filesystem.plain_text import printable
from memvec.filesystem.sources import Source
from memvec.retrieval.embedders import DEFAULT
from memvec.settings import ContextSettings, CorpusSettings, KVSettings, PackSettings
from memvec.types import PackReport

C, D, K = ContextSettings(), PackSettings(), KVSettings()


def _number(flag: str, default: float, text: str) -> Callable[[F], F]:
    return click.option(flag, type=type(default), default=default, show_default=True, help=text)


def _choice(flag: str, accepted: Sequence[str], default: str, text: str) -> Callable[[F], F]:
    return click.option(flag, type=click.Choice(accepted), default=default, show_default=True, help=text)


def pack_options(model: str | None, store: str) -> Callable[[F], F]:
    """All arguments and options of `pack` and `add`: the default `model` of -m, and the help text of -o."""
    every = [
        click.argument("sources", nargs=-1, required=True, metavar="SRC..."),
        options.output_store(store),
        options.model(model),
        click.option(
            "--kind",
            type=click.Choice(["exact", "context", "kv", "both"]),
            default="exact",
            show_default=True,
            help="exact: records that decode to the bytes. context: memories to put in front of prompts. kv: memories "
            "of keys and values, made in seconds. both: exact and context.",
        ),
        options.include,
        options.exclude,
        click.option("--name", help="Document name for standard input (SRC is -)."),
        options.text_field,
        options.id_field,
        click.option("--meta-fields", metavar="FIELDS", help="Fields of a row to label its document with: a,b,c."),
        click.option(
            "--strict-input", is_flag=True, help="Stop at a row that is no document. By default it is skipped, exit 8."
        ),
        click.option("--meta", multiple=True, metavar="KEY=VALUE", help="Label every document. Repeatable."),
        click.option(
            "--keys",
            default=",".join(DEFAULT),
            show_default=True,
            metavar="NAMES",
            help=f"Make search keys with these embedders, or none: {options.embedder_names}.",
        ),
        click.option(
            "--reuse/--no-reuse", default=True, show_default=True, help="Copy records of the same text in STORE."
        ),
        click.option(
            "--trial/--no-trial",
            default=True,
            show_default=True,
            help="Use the model's profile. A large pack without one makes it first, in at most two minutes.",
        ),
        options.dry_run,
        click.option(
            "--preset",
            type=click.Choice(["fast", "balanced", "dense"]),
            help="Take the budget and learning rate from the curve that `memvec calibrate` measured.",
        ),
        click.option("--nats-per-vector", type=float, help="Budget of one vector, in nats. [default: fits the model]"),
        _number("--segment-tokens", D.segment_tokens, "Longest segment, in tokens."),
        click.option("--vectors", type=int, help="Use exactly this many vectors a segment."),
        _number("--max-corrections", D.max_corrections, "Largest share of corrected tokens in a segment."),
        _number("--margin", D.margin, "Store a correction for a token with a smaller logit gap."),
        click.option("--strict", is_flag=True, help="Store no corrections for wrong tokens."),
        click.option("--learning-rate", type=float, help="Learning rate of AdamW. [default: fits the model]"),
        _number("--max-steps", D.max_steps, "Largest number of optimiser steps in one attempt."),
        _number("--refits", D.refits, "Further attempts before a segment is stored raw."),
        click.option(
            "--ratio",
            type=float,
            help=f"For memories: tokens of text for each position. [default: context {C.ratio:g}, kv the model's "
            "safe ratio]",
        ),
        click.option(
            "--gist", is_flag=True, help="For context: allow a ratio above 16, which loses names and numbers."
        ),
        click.option(
            "--window-tokens",
            type=int,
            help=f"For memories: longest text of one memory, in tokens. [default: context {C.window_tokens}, kv all that "
            "the model can read and repeat]",
        ),
        _number("--distil-steps", C.steps, "For context: optimiser steps."),
        _choice(
            "--budget",
            ("head", "even"),
            K.budget,
            "For kv: keep most where the model looks, or the same in every head.",
        ),
        _choice("--score", ("repeat", "norm"), K.score, "For kv: read a text three times or once."),
        _number("--refine", K.refine, "For kv: training steps."),
        _choice("--bits", ("4", "8", "16"), str(K.bits), "For kv: bits of each stored number."),
        _choice("--measure", ("all", "sample", "none"), K.measure, "For kv: measure every memory, 1 in 16 or none."),
        click.option(
            "--questions",
            metavar="FILE",
            help="For context, and kv with --refine: learn from these too: JSON lines {document, question, answer}.",
        ),
        options.seed,
        click.option("--memory", type=float, help="GiB for activations. [default: 2; on a GPU 40 % of what is free]"),
        options.device,
        options.dtype,
        options.lock_wait,
    ]
    return lambda command: functools.reduce(lambda made, option: option(made), reversed(every), command)


@click.command(
    "pack",
    epilog=examples(
        "memvec pack notes/ -o notes.memvec",
        "memvec pack notes/ -o notes.memvec --kind kv --exclude '*.log'",
        "memvec pack notes/ -o notes.memvec --dry-run",
        "memvec pack pages.jsonl.zst -o pages.memvec --text-field body --id-field url",
    ),
)
@pack_options(DEFAULT_MODEL, "Store folder to make or add to.")
@common
def command(**given: Any) -> None:
    """Pack files, folders and corpora into a store.

    SRC is a file, a folder, or - for standard input. The files of a folder are named relative to it. JSON lines (.jsonl),
    Parquet files and tar archives hold a document in each row or file, and so do hf://datasets/OWNER/NAME[:SPLIT] and
    folders that `datasets` saved. Documents that STORE has already are left as they are. Exact records are certified: each
    is decoded and compared.
    """
    from memvec.packing.pack import pack

    run_pack(pack, **given)


def run_pack(
    pack: Callable[..., PackReport],
    *,
    sources: tuple[str, ...],
    store: str,
    name: str | None,
    dry_run: bool,
    output: Output,
    **given: Any,
) -> None:
    """Run `pack` with the options of `pack_options`, and print the report."""
    given["settings"], context, kv = _settings(given)
    given["keys"] = [] if given["keys"] == "none" else given["keys"].split(",")
    labels = given.pop("meta_fields")
    given["corpus"] = CorpusSettings(
        text_field=given.pop("text_field"),
        id_field=given.pop("id_field"),
        meta_fields=tuple(labels.split(",")) if labels else (),
        strict=given.pop("strict_input"),
    )
    questions, meta, lock_wait = given.pop("questions"), given.pop("meta"), given.pop("lock_wait")
    asked = read_questions(questions) if questions else []
    said = options.pairs(meta, "--meta") if meta else None
    if dry_run:
        _estimate(output, _read(sources, name), store, context=context, kv=kv, **given)
        return
    try:
        report = pack(
            _read(sources, name), store, context=context, kv=kv, questions=asked, meta=said, lock_wait=lock_wait,
            watch=output.watch, **given,
        )  # fmt: skip
    except InterruptedPackError as error:
        _say(error.report, output, interrupted=True)
        raise
    _say(report, output, f"packed into {store}\n")
    if report.skipped:
        raise PartialError(report.skipped, report)


def _settings(given: dict[str, Any]) -> tuple[PackSettings, ContextSettings, KVSettings]:
    """Take the options that are settings out of `given`."""
    if given["preset"] and (both := [name for name in ("nats_per_vector", "learning_rate") if given[name] is not None]):
        raise UsageError(f"--preset sets --{both[0].replace('_', '-')} too. Pass one of them.")
    memory = given.pop("memory")
    if memory is not None and not 0 < memory < math.inf:
        raise UsageError(f"--memory is {memory:g} GiB, expected more than 0.")
    limit = None if memory is None else int(min(memory, 1e9) * 2**30)  # 1e300 GiB would be infinitely many bytes
    shared = {name: value for name in ("ratio", "window_tokens") if (value := given.pop(name)) is not None}
    gist, steps, bits = given.pop("gist"), given.pop("distil_steps"), int(given.pop("bits"))
    kept = {name: given.pop(name) for name in ("budget", "score", "refine", "measure")}
    exact = {field.name: given.pop(field.name) for field in fields(PackSettings) if field.name in given}
    settings = PackSettings(memory=limit, **{name: value for name, value in exact.items() if value is not None})
    common: dict[str, Any] = {"seed": settings.seed, "memory": limit}
    if given["kind"] == "kv":
        return settings, C, KVSettings(**shared, **kept, bits=bits, **common)
    return settings, ContextSettings(**shared, gist=gist, steps=steps, **common), K


def _say(report: PackReport, output: Output, title: str = "", **more: bool) -> None:
    value = asdict(report) | {"skipped": dict(report.skipped)} | more
    output.result(value, lambda: title + totals(report), notice=True)
    _warn(report.unmatched)


def _warn(unmatched: Sequence[str]) -> None:
    """Name the patterns that matched nothing. Also with -q: files were packed that the user meant to leave out."""
    for pattern in unmatched:
        emit(f"memvec: warning: {printable(pattern)!r} matches no file and no folder\n", err=True)


def _estimate(output: Output, *arguments: Any, **given: Any) -> None:
    from memvec.packing.estimate import estimate

    if given["kind"] == "both":
        raise UsageError(
            "--dry-run estimates records of one kind. Pass --kind exact, then --kind context, and add them up."
        )
    found = estimate(*arguments, **given, watch=output.watch)
    output.result({"dry_run": True, **asdict(found)}, lambda: estimated(found))
    _warn(found.unmatched)


def _read(sources: tuple[str, ...], name: str | None) -> list[str | Path | Source]:
    if (name is None) == ("-" in sources):
        raise UsageError("expected --name NAME with - for standard input, and only with it.")
    if sources.count("-") > 1:
        raise UsageError("standard input can be read once. Pass - once.")
    return [Source(name or "", read_input()) if source == "-" else source for source in sources]
