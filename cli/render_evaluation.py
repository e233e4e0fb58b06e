"""The tables of `evaluate`: the gain with its controls, answers, harm and costs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from memvec.cli.tables import clock, optional, table
from memvec.errors import counted

if TYPE_CHECKING:
    from memvec.evaluation.evaluate import Evaluation

LEGEND = "gain: share of the text's help on right answers; 1 is as good as the text, 0 is no help"


def evaluation(e: Evaluation) -> str:
    """All tables, one below the other."""
    left_out = f", {e.skipped} left out: the model makes no use of their text" if e.skipped else ""
    elsewhere = f"; {counted(e.elsewhere, 'question')} are about documents that the store lacks" if e.elsewhere else ""
    head = f"{counted(e.documents, 'document')}, {counted(e.questions, 'question')} ({e.template} form), {e.kind} memories{left_out}{elsewhere}"
    tables = [_gains(e), _answers(e), _elsewhere(e), _costs(e)]
    return "\n\n".join([head, *(table for table in tables if table), f"  {LEGEND}"])


def _gains(e: Evaluation) -> str:
    bounds = "" if e.gain_low is None or e.gain_high is None else _bounds(e.gain_low, e.gain_high)
    rows = [
        ("in front of the question", "gain", "95 %", "nats/token"),
        ("memory", optional(e.gain), bounds, _nll(e, "memory")),
    ]
    rows += [
        (name, optional(value), "", _nll(e, key))
        for name, value, key in (
            ("another's memory", e.shuffled, "shuffled"),
            ("another's text", e.shuffled_text, "shuffled_text"),
            ("noise of its size" if e.kind == "kv" else "noise of its norms", e.random, "random"),
            ("exact vectors", e.exact, "exact"),
            *((f"text, {name}", value, name) for name, value in e.text_at_equal_positions.items()),
            *((f"{count} memories", value, count) for count, value in e.company.items()),
            ("nothing", 0.0, "none"),
            ("the complete text", 1.0, "text"),
        )
        if value is not None
    ]
    return table(rows)


def _answers(e: Evaluation) -> str:
    if not e.answered:
        return ""
    share = ("of the text's", "95 %")
    rows = [("answers", "word for word", "contained", *share, "F1", *share)]
    rows += [
        (
            _front(name),
            f"{right:.0%}",
            *_score(e.contained, e.contained_bounds, name),
            *_score(e.f1, e.f1_bounds, name),
        )
        for name, right in e.answered.items()
    ]
    return table(rows)


def _score(scores: Mapping[str, float], bounds: tuple[float, float] | None, name: str) -> tuple[str, str, str]:
    """A score, the same as a share of the text's own, and the interval of the memory's share."""
    share = f"{scores[name] / scores['text']:.2f}" if scores["text"] else ""
    known = _bounds(*bounds) if bounds and name == "memory" else ""
    return f"{scores[name]:.0%}", share, known


def _bounds(low: float, high: float) -> str:
    return f"{low:.2f} to {high:.2f}"


def _elsewhere(e: Evaluation) -> str:
    off = e.off_topic
    if off is None:
        return ""
    rows = [("on unrelated prompts", "nats/token", "choices right")]
    rows += [(_front(name), f"{off.nll[name]:.3f}", f"{off.accuracy[name]:.0%}") for name in off.nll]
    return f"{table(rows)}\n  harm: {e.harm:+.3f} nats/token against the text in front"


def _costs(e: Evaluation) -> str:
    c = e.costs
    rows = [("cost of a query", "positions", "prefill ms", "cache bytes", "stored bytes")]
    rows += [
        (name, f"{positions:.0f}", f"{prefill * 1000:.1f}", f"{cache:,.0f}", f"{stored:,.0f}")
        for name, positions, prefill, cache, stored in (
            ("text", c.positions_text, c.prefill_text, c.cache_text, c.stored_text),
            ("memory", c.positions_memory, c.prefill_memory, c.cache_memory, c.stored_memory),
        )
    ]
    only = "" if e.kind == "context" else ", as it reads the question only"
    paid = (
        ""
        if c.break_even is None
        else f"; writing ({clock(c.write_seconds or 0)}) pays off after {c.break_even:,.0f} queries"
    )
    placed = (
        ""
        if c.place_memory is None
        else f"\n  putting the memory in its place takes {c.place_memory * 1000:.1f} ms, once"
    )
    return f"{table(rows)}\n  prefill {c.speedup:.1f} times faster{only}{paid}{placed}"


def _front(name: str) -> str:
    return {
        "none": "nothing",
        "text": "the complete text",
        "memory": "the memory",
        "shuffled": "another's memory",
        "last": "the text, last tokens",
    }.get(name, f"{name} memories")


def _nll(e: Evaluation, name: str) -> str:
    values: Mapping[str, float | None] = e.nll
    return optional(values.get(name))
