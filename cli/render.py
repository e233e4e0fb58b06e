"""Results in words. Every ratio that flatters stands next to the one that does not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, get_args

from memvec.cli.output import aligned, clock
from memvec.filesystem.plain_text import printable
from memvec.store.listing import DocumentRow
from memvec.types import PackReport

if TYPE_CHECKING:
    from memvec.packing.calibrate import Profile
    from memvec.packing.estimate import Estimate


def totals(r: PackReport) -> str:
    """The table of `pack` and `info`."""
    corrected = r.corrected_tokens / r.fitted_tokens if r.fitted_tokens else 0.0
    rows = [
        ("documents", f"{r.documents:,}" + (f" ({r.unchanged:,} unchanged)" if r.unchanged else "")),
        ("records", f"{r.records:,} ({r.raw_records:,} raw)" + _copied(r.reused)),
        ("tokens", f"{r.source_tokens:,}, of them {r.fitted_tokens:,} in vectors"),
        ("corrections", f"{r.corrected_tokens:,} tokens ({corrected:.1%} of those in vectors)"),
        ("vectors", f"{r.vectors:,} ({r.tokens_per_vector:.2f} tokens each)"),
        ("cost", f"{r.token_steps:,} token-steps{_per_token(r)}, {clock(r.seconds)}"),
        ("model", f"{printable(r.model)} (fingerprint {r.fingerprint})"),
        ("exact", _exact(r)),
    ]
    if r.context_records:
        rows.insert(5, ("memory", _memory(r)))
    if r.raw_text_bytes:
        rows.insert(2, ("raw text", f"{r.raw_text_bytes:,} bytes of valid text are in zstd frames; `show` says why"))
    return _columns(rows) + "\n" + honest(r)


def estimated(e: Estimate) -> str:
    """What `pack --dry-run` says."""
    by = "the model's profile" if e.profiled else "what the default model takes; `memvec calibrate` measures this one"
    rows = [
        ("documents", f"{e.documents:,}" + (f" ({e.unchanged:,} there already)" if e.unchanged else "")),
        ("records", f"{e.records:,} ({e.raw_records:,} raw)" + _copied(e.reused)),
        ("tokens", f"{e.tokens:,} in vectors"),
        ("vectors", f"{e.vectors:,}" + (f" ({e.tokens / e.vectors:.2f} tokens each)" if e.vectors else "")),
        (
            "time",
            f"{clock(e.seconds)} ({e.token_steps:,} token-steps by {by}; {e.token_steps_per_second:.0f}/s measured)",
        ),
        ("size", f"{e.store_bytes:,} bytes, of vectors and more than the text; for bytes use zstd"),
    ]
    if e.skipped:
        rows.append(("skipped", f"{e.skipped:,} inputs that cannot be read"))
    return "nothing was written; a pack would make\n" + _columns(rows)


def profile(p: Profile) -> str:
    """What `calibrate` found: the curve, and which points the presets are."""
    from memvec.packing.calibrate import Preset

    chosen = {name: p.point(name) for name in get_args(Preset)}
    lines = [("nats a vector", "tokens/vector", "token-steps/token", "steps", "corrected", "unsolved", "preset")]
    lines += [
        (
            f"{point.nats_per_vector:.1f}",
            f"{point.tokens_per_vector:.2f}",
            f"{point.token_steps:.1f}",
            f"{point.steps:.0f}",
            f"{point.corrected:.1%}",
            f"{point.unsolved:.0%}",
            ", ".join(name for name, own in chosen.items() if own == point),
        )
        for point in p.points
    ]
    head = f"{printable(p.model)} (fingerprint {p.fingerprint}), learning rate {p.learning_rate:g}, sample: {printable(p.sample)}"
    return f"{head}\n{aligned(lines)}"


def honest(r: PackReport) -> str:
    """What vectors save and what they do not."""
    if not r.source_bytes or r.incomplete:  # half of a document has no ratio
        return ""
    rows = [("", "bytes", "of the documents")]
    rows += [
        (name, f"{size:,}", f"{size / r.source_bytes:.2f}")
        for name, size in (
            ("documents", r.source_bytes),
            ("zstd -19", r.zstd_bytes),
            ("vectors", r.vector_bytes),
            ("store", r.store_bytes),
        )
    ]
    context = f"context: {r.vectors:,} positions instead of {r.fitted_tokens:,}, {r.tokens_per_vector:.1f} times fewer"
    warning = "bytes: a vector is larger than the text it holds; for bytes use zstd"
    notes = [f"\n  {context}"] * bool(r.vectors) + [f"\n  {warning}"] * bool(r.vectors or r.context_vectors)
    return f"\n{aligned(rows)}\n" + "".join(notes)


def documents(rows: Sequence[DocumentRow]) -> str:
    """The table of `list`."""
    lines: list[tuple[str, ...]] = [
        ("name", "bytes", "tokens", "records", "raw", "vectors", "corrected", "memory", "gain")
    ]
    for r in rows:
        figures = (r.bytes, r.tokens, r.records, r.raw_records, r.vectors, r.corrected_tokens, r.memory)
        lines.append((printable(r.name), *(f"{n:,}" for n in figures), gain(r.gain)))
    return aligned(lines, indent="")


def gain(share: float | None) -> str:
    """A share of the text's gain, a dash for none."""
    return "-" if share is None else f"{share:.2f}"


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
    return (
        f"{r.context_tokens:,} tokens in {r.context_vectors:,} context vectors ({each:.2f} tokens each), "
        f"{r.context_token_steps / max(1, r.context_tokens):.0f} token-steps a token, gain {gain(r.gain)} of the text's, harm {harm}"
    )


def _per_token(r: PackReport) -> str:
    return f" ({r.token_steps / r.fitted_tokens:.0f} for a token in vectors)" if r.fitted_tokens else ""


def _columns(rows: Sequence[tuple[str, str]]) -> str:
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"  {name:<{width}}  {value}" for name, value in rows)
