"""Results in words. Every ratio that flatters stands next to the one that does not."""

from __future__ import annotations

from collections.abc import Sequence

from memvec.cli.output import clock, printable
from memvec.inspection import DocumentRow
from memvec.types import PackReport


def totals(r: PackReport) -> str:
    """The table of `pack` and `info`."""
    corrected = r.corrected_tokens / r.fitted_tokens if r.fitted_tokens else 0.0
    rows = [
        ("documents", f"{r.documents:,}" + (f" ({r.unchanged:,} unchanged)" if r.unchanged else "")),
        ("records", f"{r.records:,} ({r.raw_records:,} raw)"),
        ("tokens", f"{r.source_tokens:,}, of them {r.fitted_tokens:,} in vectors"),
        ("corrections", f"{r.corrected_tokens:,} tokens ({corrected:.1%} of those in vectors)"),
        ("vectors", f"{r.vectors:,} ({r.tokens_per_vector:.2f} tokens each)"),
        ("cost", f"{r.token_steps:,} token-steps{_per_token(r)}, {clock(r.seconds)}"),
        ("model", f"{printable(r.model)} (fingerprint {r.fingerprint})"),
        ("exact", "every record certified" if r.exact else "no: some documents are incomplete"),
    ]
    if r.raw_text_bytes:
        rows.insert(2, ("raw text", f"{r.raw_text_bytes:,} bytes of valid text are in zstd frames; `show` says why"))
    return _columns(rows) + "\n" + honest(r)


def honest(r: PackReport) -> str:
    """What vectors save and what they do not."""
    if not r.source_bytes or not r.exact:  # half of a document has no ratio
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
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    table = "\n".join(f"  {a:<{widths[0]}}  {b:>{widths[1]}}  {c:>{widths[2]}}" for a, b, c in rows)
    context = f"context: {r.vectors:,} positions instead of {r.fitted_tokens:,}, {r.tokens_per_vector:.1f} times fewer"
    warning = "bytes: a vector is larger than the text it holds; for bytes use zstd"
    return f"\n{table}\n" + (f"\n  {context}\n  {warning}" if r.vectors else "")


def documents(rows: Sequence[DocumentRow]) -> str:
    """The table of `list`."""
    lines: list[tuple[str, ...]] = [("name", "bytes", "tokens", "records", "raw", "vectors", "corrected")]
    for r in rows:
        figures = (r.bytes, r.tokens, r.records, r.raw_records, r.vectors, r.corrected_tokens)
        lines.append((printable(r.name), *(f"{n:,}" for n in figures)))
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join(
        f"{line[0]:<{widths[0]}}  " + "  ".join(f"{cell:>{w}}" for cell, w in zip(line[1:], widths[1:], strict=True))
        for line in lines
    )


def _per_token(r: PackReport) -> str:
    return f" ({r.token_steps / r.fitted_tokens:.0f} for a token in vectors)" if r.fitted_tokens else ""


def _columns(rows: Sequence[tuple[str, str]]) -> str:
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"  {name:<{width}}  {value}" for name, value in rows)
