"""How far other numerics move the margins of a store's records: the reason for the default threshold.

    python benchmarks/numerics.py STORE [--records N]

Each record is decoded freely with other batch sizes, thread counts, attention kernels and in float64, and compared with
how it was certified: same tokens or not, and how far the margin of any token moved [logits].
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import torch

from memvec.decode import decode, measure
from memvec.lm import FrozenLM
from memvec.model_cache import resolve
from memvec.store import Store
from memvec.types import Kind, Record


def variants(model: str) -> Iterator[tuple[str, FrozenLM, int]]:
    """(name, model, batch) of each way to decode; threads are set as a side effect."""
    folder = resolve(model)
    lm = FrozenLM(folder)
    threads = torch.get_num_threads()
    yield "float32, batch 16 (as certified)", lm, 16
    yield "batch 3", lm, 3
    yield "batch 1", lm, 1
    torch.set_num_threads(1)
    yield "one thread", lm, 16
    torch.set_num_threads(threads)
    lm.model.set_attn_implementation("eager")
    yield "eager attention", lm, 16
    yield "float64", FrozenLM(folder, torch.float64), 16
    yield "bfloat16 (not what a store declares)", FrozenLM(folder, torch.bfloat16), 16


def main() -> None:
    """Decode with every variant and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store")
    parser.add_argument("--records", type=int, default=50)
    chosen = parser.parse_args()
    store = Store.open(chosen.store)
    found = [store.record(ref) for document in store.documents().values() for ref in document.records]
    records: list[Record] = [record for record in found if record.kind == Kind.EXACT][: chosen.records]
    vectors, counts = [r.vectors for r in records], [r.tokens for r in records]
    print(
        f"{len(records)} records, {sum(counts)} tokens, least margin {min(r.report.least_margin for r in records):.3f}\n"
    )
    print("| variant | records decoded identically | greatest move of any margin |")
    print("|---|---|---|")
    truth: list[list[int]] = []
    base: list[float] = []
    for name, lm, batch in variants(store.manifest.fingerprint.source):
        ids = decode(lm, vectors, counts, [r.corrections for r in records], batch)
        truth = truth or ids
        leads = [lead for row, _ in measure(lm, vectors, truth, batch) for lead in row]
        base = base or leads
        moved = max(abs(now - was) for now, was in zip(leads, base, strict=True))
        same = sum(a == b for a, b in zip(ids, truth, strict=True))
        print(f"| {name} | {same} of {len(ids)} | {moved:.2g} |", flush=True)


if __name__ == "__main__":
    main()
