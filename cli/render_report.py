"""The tables of `pack`, `add` and `info`. Every ratio that flatters vectors stands next to one that does not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memvec.cli.tables import clock, facts, optional, table
from memvec.errors import counted
from memvec.filesystem.plain_text import printable
from memvec.types import PackReport

if TYPE_CHECKING:
    from memvec.packing.estimate import Estimate


def totals(r: PackReport) -> str:
    """Counts and costs of a pack or a store, then the sizes."""
    corrected = r.corrected_tokens / r.fitted_tokens if r.fitted_tokens else 0.0
    rows = [
        ("documents", f"{r.documents:,}" + (f" ({r.unchanged:,} unchanged)" if r.unchanged else "")),
        ("records", f"{r.records:,} ({r.raw_records:,} raw)" + _copied(r.reused)),
        ("tokens", f"{r.source_tokens:,}, of which {r.fitted_tokens:,} in vectors"),
        ("corrections", f"{counted(r.corrected_tokens, 'token')} ({corrected:.1%} of those in vectors)"),
        ("vectors", f"{r.vectors:,} ({r.tokens_per_vector:.2f} tokens each)"),
        ("cost", f"{r.token_steps:,} token-steps{_per_token(r)}, {clock(r.seconds)}"),
        ("model", f"{printable(r.model)} (fingerprint {r.fingerprint})"),
        ("exact", _exact(r)),
    ]
    if r.context_records:
        rows.insert(5, ("memory", _memory(r)))
    if r.kv_records:
        rows.insert(-3, ("kv memory", _kv(r)))
    if r.raw_text_bytes:
        rows.insert(2, ("raw text", f"{r.raw_text_bytes:,} bytes of valid text are in zstd frames; `show` says why"))
    return f"{facts(rows)}\n{sizes(r)}"


def estimated(e: Estimate) -> str:
    """The estimate of `pack --dry-run`."""
    rows = _exact_rows(e) if e.kind == "exact" else _memory_rows(e)
    if e.skipped:
        more = "" if e.kind == "exact" else ", or without text"
        rows.append(("skipped", f"{counted(e.skipped, 'input')} that cannot be read{more}"))
    there = ("documents", f"{e.documents:,}" + (f" ({e.unchanged:,} there already)" if e.unchanged else ""))
    return f"nothing was written; a pack would make\n{facts([there, *rows])}"


def _memory_rows(e: Estimate) -> list[tuple[str, str]]:
    ratio = f"{e.tokens / e.positions:.1f} tokens and " if e.positions and not e.reused else ""
    each = f" ({ratio}{e.memory_bytes / e.positions:,.0f} bytes each)" if e.positions else ""
    steps = f"; {e.token_steps:,} token-steps, {e.token_steps_per_second:.0f}/s measured" if e.token_steps else ""
    what = "context vectors" if e.kind == "context" else "keys and values"
    return [
        ("records", f"{e.records:,}" + _copied(e.reused)),
        ("tokens", f"{e.tokens:,} to read"),
        ("positions", f"{e.positions:,}{each}"),
        ("time", f"{clock(e.seconds)} (by a trial on this machine{steps})"),
        (what, f"{e.memory_bytes:,} bytes; the text {e.text_bytes:,}, its whole cache {e.cache_bytes:,}"),
        ("size", f"{e.store_bytes:,} bytes in the store"),
    ]


def _exact_rows(e: Estimate) -> list[tuple[str, str]]:
    by = "the model's profile" if e.profiled else "figures of the default model; `memvec calibrate` measures this one"
    return [
        ("records", f"{e.records:,} ({e.raw_records:,} raw)" + _copied(e.reused)),
        ("tokens", f"{e.tokens:,} in vectors"),
        ("vectors", f"{e.vectors:,}" + (f" ({e.tokens / e.vectors:.2f} tokens each)" if e.vectors else "")),
        (
            "time",
            f"{clock(e.seconds)} ({e.token_steps:,} token-steps by {by}; {e.token_steps_per_second:.0f}/s measured)",
        ),
        ("size", f"{e.store_bytes:,} bytes; vectors are larger than the text, for bytes use zstd"),
        ("memory", f"about {e.peak_bytes / 1e9:.1f} GB"),
    ]


def sizes(r: PackReport) -> str:
    """Bytes of documents, of zstd and of vectors, and the positions that vectors save."""
    if not r.source_bytes or r.incomplete:  # half of a document has no ratio
        return ""
    rows = [("", "bytes", "of the documents")]
    rows += [
        (name, f"{size:,}", f"{size / r.source_bytes:.2f}")
        for name, size in (
            ("documents", r.source_bytes),
            ("zstd -19 (estimated from a sample)" if r.zstd_sampled else "zstd -19", r.zstd_bytes),
            ("vectors", r.vector_bytes),
            *[("keys and values", r.kv_bytes)] * bool(r.kv_bytes),
            ("store", r.store_bytes),
        )
    ]
    context = f"context: {r.vectors:,} positions instead of {r.fitted_tokens:,}, {r.tokens_per_vector:.1f} times fewer"
    warning = "bytes: a vector is larger than the text it holds; for bytes use zstd"
    notes = [f"\n  {context}"] * bool(r.vectors) + [f"\n  {warning}"] * bool(r.vectors or r.context_vectors)
    return f"\n{table(rows)}\n" + "".join(notes)


def _copied(records: int) -> str:
    return f", {records:,} copied from the same text elsewhere" if records else ""


def _exact(r: PackReport) -> str:
    if r.exact:
        return "every record certified"
    why = "are incomplete" if r.incomplete else "are there as a memory only, which does not decode"
    return f"no: some documents {why}"


def _memory(r: PackReport) -> str:
    each = r.context_tokens / r.context_vectors
    harm = "not measured" if r.harm is None else f"{r.harm:.3f} nats/token"
    steps = r.context_token_steps / max(1, r.context_tokens)
    return (
        f"{r.context_tokens:,} tokens in {r.context_vectors:,} context vectors ({each:.2f} tokens each), "
        f"{steps:.0f} token-steps a token, gain {optional(r.gain)} of the text's, harm {harm}"
    )


def _kv(r: PackReport) -> str:
    each, text = (size / max(1, r.kv_tokens) for size in (r.kv_bytes, r.kv_text_bytes))
    ratio, cost = r.kv_tokens / max(1, r.kv_positions), 1000 * r.kv_seconds / max(1, r.kv_tokens)
    # Blanks in the text's own sentences are easier than people's questions, so the figure promises nothing about those.
    gain = f", gain on blanks {optional(r.kv_gain)} of the text's" if r.kv_measured else ""
    return (
        f"{counted(r.kv_records, 'record')} of {r.kv_tokens:,} tokens in {r.kv_positions:,} positions ({ratio:.1f} tokens "
        f"each), {each:.0f} bytes a token as stored (the text {text:.1f}), {cost:.1f} s for 1,000 tokens, "
        f"{r.kv_measured:,} measured{gain}"
    )


def _per_token(r: PackReport) -> str:
    return f" ({r.token_steps / r.fitted_tokens:.0f} for each token in vectors)" if r.fitted_tokens else ""
