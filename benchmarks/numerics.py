"""Measure whether stores decode alike in other numerics, and whether the certified margin is large enough. On real records.

    python benchmarks/numerics.py [--store STORE] [--records 300] [--model NAME] [--json FILE]

Every record is decoded on 1 and 2 threads, with SDPA and with eager attention, in batches of 16; and with SDPA on one thread
in batches of 3 and 1. The table says how many come out identical at once, in a batch of one, and in the numerics of
certification. --all tries every batch with every kernel and thread count, which takes hours. Then the leads of all tokens
that come from vectors are measured in float64: the small ones, the least, and how far other numerics move any of them.
A threshold is large enough if it is many times the greatest move. If STORE does not exist, the texts of
benchmarks/roundtrip.py and a part of the novel are packed into it. Without --store the pack is not kept.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import roundtrip
import torch

import memvec
from memvec.checkpoints.resolve import DEFAULT_MODEL, resolve
from memvec.decoding.escalation import ALONE, CANONICAL, Attempt, attempt, text_bytes
from memvec.decoding.greedy import decode, measure
from memvec.lm.frozen import FrozenLM
from memvec.lm.load import load
from memvec.store.store import Store
from memvec.types import Kind, Record

BATCHES, THREADS, ATTENTIONS = (16, 3, 1), (1, 2), ("sdpa", "eager")
SMALL = (1e-4, 1e-3, 1e-2, 0.1, 0.2)  # leads counted [logits]
RECORD_CHARACTERS = 240  # of prose, about
Leads = list[list[float]]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How records decode in one configuration."""

    attention: str
    threads: int
    batch: int
    identical: int  # records that are right at the first attempt
    alone: int  # of the others, right in a batch of one
    canonical: int  # of what is left, right in the certified numerics
    wrong: int
    moved: (
        float | None
    )  # the greatest move of a lead against float64 [logits]; measured once for each kernel and thread count


def read_records(store: Store, most: int) -> list[Record]:
    """At most `most` exact records of the live documents."""
    refs = [ref for stored in store.documents().values() for ref in stored.records]
    return [record for ref in refs if (record := store.record(ref)).kind == Kind.EXACT][:most]


def pack(store: Path, model: str, records: int, **options: Any) -> None:
    """Make a store of real texts with about so many records."""
    texts = roundtrip.documents()
    novel = (Path(__file__).parents[1] / "tests/tiny/corpus.txt").read_text(encoding="utf-8")
    known = sum(len(data) for name, data in texts.items() if name != "noise.bin")
    more = max(0, records * RECORD_CHARACTERS - known)
    sources = [memvec.Source(name, data) for name, data in texts.items()]
    if more:
        sources.append(memvec.Source("more.txt", novel[130_000 : 130_000 + more].encode()))
    memvec.pack(sources, store, model=model, **options)


def compare(folder: Path, records: Sequence[Record], every: bool = True) -> tuple[list[Outcome], Leads]:
    """(an outcome for each configuration, leads in float64 of every token left to the vectors [logits]).

    Unless `every` combination is wanted, smaller batches are tried with the first kernel and thread count alone.
    """
    canonical, before = load(folder), torch.get_num_threads()
    truth = decode_all(canonical, records, max(BATCHES))
    exact = leads(load(folder, torch.float64), records, truth)
    outcomes = []
    lm = load(folder)
    for number, (attention, threads) in enumerate(itertools.product(ATTENTIONS, THREADS)):
        if attention == "eager":
            lm.model.set_attn_implementation("eager")
        torch.set_num_threads(threads)
        moved = greatest_move(leads(lm, records, truth), exact)
        for batch in BATCHES if every or not number else BATCHES[:1]:
            outcomes.append(
                outcome(lm, canonical, records, attention, threads, batch, moved if batch == max(BATCHES) else None)
            )
            print(outcomes[-1], file=sys.stderr, flush=True)
    torch.set_num_threads(before)
    return outcomes, exact


def outcome(
    lm: FrozenLM,
    canonical: FrozenLM,
    records: Sequence[Record],
    attention: str,
    threads: int,
    batch: int,
    moved: float | None,
) -> Outcome:
    """Decode `records` with `lm` in batches of `batch`. Wrong ones are tried again as unpacking does."""
    ids = decode_all(lm, records, batch)
    first = [Attempt("", tuple(row), text_bytes(lm, row)) for row in ids]
    wrong = [record for record, made in zip(records, first, strict=True) if not made.gives(record)]
    still = [record for record in wrong if not attempt(lm, record, ALONE).gives(record)]
    left = [record for record in still if not attempt(canonical, record, CANONICAL).gives(record)]
    return Outcome(
        attention, threads, batch, len(records) - len(wrong), len(wrong) - len(still), len(still) - len(left),
        len(left), moved,
    )  # fmt: skip


def decode_all(lm: FrozenLM, records: Sequence[Record], batch: int) -> list[list[int]]:
    """The token ids of every record, with corrections."""
    return decode(
        lm, [r.vectors for r in records], [r.tokens for r in records], [r.corrections for r in records], batch
    )


def leads(lm: FrozenLM, records: Sequence[Record], ids: Sequence[Sequence[int]]) -> Leads:
    """The leads of the tokens of each record that are not stored [logits]."""
    found = measure(lm, [r.vectors for r in records], ids, max(BATCHES))
    stored = [{place for place, _ in record.corrections} for record in records]
    return [
        [lead for at, lead in enumerate(row) if at not in places]
        for (row, _), places in zip(found, stored, strict=True)
    ]


def greatest_move(found: Leads, exact: Leads) -> float:
    """The greatest difference between leads [logits]."""
    pairs = zip(itertools.chain(*found), itertools.chain(*exact), strict=True)
    return max((abs(one - other) for one, other in pairs), default=0.0)


def tables(outcomes: Sequence[Outcome], exact: Leads, records: Sequence[Record]) -> str:
    """The results as Markdown."""
    flat = list(itertools.chain(*exact))
    lines = [
        f"{len(records)} records, {sum(r.tokens for r in records)} tokens, of them {len(flat)} left to vectors",
        "",
        "| attention | threads | batch | identical at once | right alone | right in certified numerics | wrong | greatest move of a lead |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for o in outcomes:
        moved = "" if o.moved is None else f"{o.moved:.2g}"
        lines.append(
            f"| {o.attention} | {o.threads} | {o.batch} | {o.identical} of {len(records)} | {o.alone} | {o.canonical} | {o.wrong} | {moved} |"
        )
    least = min(flat, default=0.0)
    lines += ["", f"In float64 the least lead of a token left to vectors is {least:.6f} logits.", ""]
    lines += ["| lead under | tokens |", "|---|---|"]
    lines += [f"| {bound:g} | {sum(lead < bound for lead in flat)} |" for bound in SMALL]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Decode in every configuration and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path)
    parser.add_argument("--records", type=int, default=300, help="at most so many are decoded")
    parser.add_argument("--model", default=None)
    parser.add_argument("--all", action="store_true", help="every batch with every kernel and thread count")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        path = options.store or Path(scratch) / "s.memvec"
        if not path.exists():
            pack(path, options.model or DEFAULT_MODEL, options.records)
        store = Store.open(path)
        records = read_records(store, options.records)
    folder = resolve(options.model or store.manifest.fingerprint.source)
    outcomes, exact = compare(folder, records, options.all)
    machine = (
        f"{os.cpu_count()} cores, {platform.machine()}, torch {torch.__version__}; {store.manifest.fingerprint.source}"
    )
    text = f"{machine}\n\n{tables(outcomes, exact, records)}"
    print(text)
    if options.json:
        flat = list(itertools.chain(*exact))
        value = {
            "command": sys.argv,
            "machine": machine,
            "records": len(records),
            "outcomes": [asdict(one) for one in outcomes],
            "tokens_from_vectors": len(flat),
            "least_lead": min(flat, default=None),
            "leads_under": {f"{bound:g}": sum(lead < bound for lead in flat) for bound in SMALL},
        }
        options.json.write_text(json.dumps(value, indent=1) + "\n")


if __name__ == "__main__":
    main()
