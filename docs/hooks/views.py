"""What pages and README say of results beyond the JSON itself: medians, shares and ratios, under short names."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Results = Mapping[str, Any]
RECIPES = {  # as benchmarks/fit.py names them: (short name, as a page says it)
    "memvec": ("memvec", "memvec"),
    "full (Kuratov et al. 2025)": ("full", "full cramming (Kuratov et al. 2025)"),
    "progressive (Tarasov et al. 2026), rate 0.1": (
        "progressive",
        "progressive cramming (Tarasov et al. 2026), rate 0.1",
    ),
    "progressive (Tarasov et al. 2026), rate 1": ("progressive_rate_1", "the same, rate 1"),
}
SOURCES = {"corpus.txt": "novel", "random words": "random"}


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median and quartiles."""
    low, middle, high = statistics.quantiles(values, n=4) if len(values) > 1 else [values[0]] * 3
    return {"low": low, "median": middle, "high": high}


def fit(raw: Results) -> dict[str, Any]:
    """`at_M.RECIPE.…` for M vectors; with one M in the file also `RECIPE.…`."""
    found: dict[str, Any] = {}
    for row in raw["results"]:
        found.setdefault(f"at_{row['vectors']}", {}).setdefault(RECIPES[row["recipe"]][0], []).append(row)
    for recipes in found.values():
        for name, rows in recipes.items():
            recipes[name] = _recipe(rows)
        for row in recipes.values():
            ours = recipes["memvec"]
            row["times_token_steps"] = row["token_steps"]["median"] / ours["token_steps"]["median"]
            row["times_seconds"] = row["seconds"] / ours["seconds"]
    return {**found, **next(iter(found.values()))} if len(found) == 1 else found


def _recipe(rows: Sequence[Results]) -> dict[str, Any]:
    tokens, corrected = (sum(row[name] for row in rows) for name in ("tokens", "corrected"))
    return {
        "texts": len(rows),
        "finished": sum(row["solved"] for row in rows),
        "vectors": rows[0]["vectors"],
        "tokens_per_vector": tokens / sum(row["vectors"] for row in rows),
        "steps": spread([row["steps"] for row in rows]),
        "token_steps": spread([row["token_steps"] / max(1, row["tokens"] - row["corrected"]) for row in rows]),
        "seconds": sum(row["seconds"] for row in rows) / (tokens - corrected),
        "corrected": corrected / tokens,
        "free": spread([row["free"] for row in rows]),
        "free_behind_first": spread([row["free_behind_first"] for row in rows]),
    }


def roundtrip(raw: Results) -> dict[str, Any]:
    """Shares of the documents' bytes and tokens; `document.NAME` without its ending."""
    totals = raw["totals"]
    return {
        "document": {row["document"].partition(".")[0]: row for row in raw["rows"]},
        "corrected": totals["corrected_tokens"] / totals["fitted_tokens"],
        "token_steps_per_token": totals["token_steps"] / totals["fitted_tokens"],
        "bytes_per_vector": totals["vector_bytes"] / totals["vectors"],
        "times_bytes": {
            name: totals[f"{name}_bytes"] / totals["source_bytes"] for name in ("source", "zstd", "vector", "store")
        },
    }


def throughput(raw: Results) -> dict[str, Any]:
    """Tokens a second, and how many times faster than the rival."""
    tokens = raw["report"]["fitted_tokens"]
    speed = {f"{verb}_tokens_a_second": tokens / raw[verb]["seconds"] for verb in ("pack", "unpack")}
    rival = raw["rival"]
    return {
        **speed,
        "corrected": raw["report"]["corrected_tokens"] / tokens,
        "token_steps_per_token": raw["report"]["token_steps"] / tokens,
        "times_rival": speed["pack_tokens_a_second"] / rival["tokens_a_second"],
        "rival_step_ms": 1000 * rival["seconds_a_step"],
    }


def speed(raw: Results) -> dict[str, Any]:
    """Positions a second under short names; operations in TFLOP/s where they were counted."""
    found = {"step": raw["speed"]["step"], "products": raw["speed"]["its matrix products alone"]}
    if "flops" in raw:
        found |= {"tflops": raw["flops"] / 1e12, "best_tflops": raw["best_flops"] / 1e12}
        found["of_best"] = raw["flops"] / raw["best_flops"]
    return found


def decode(raw: Results) -> dict[str, Any]:
    """How many times faster memvec decodes."""
    return {"times": raw["memvec"] / raw["transformers"]}


def capacity(raw: Results) -> dict[str, Any]:
    """`SOURCE_M.…` for M vectors, and `all.…` over every text of the file."""
    by_source = {f"{_source(row['source'])}_{row['vectors']}": row for row in raw["summary"]}
    every = {"texts": len(raw["held"])}
    for name in ("tokens", "bits", "alone", "published", "token_steps", "seconds"):
        values = [row[name] for row in raw["held"]]
        every |= {name: statistics.fmean(values), f"{name}_spread": statistics.pstdev(values)}
    return {**by_source, "all": every}


def _source(name: str) -> str:
    return SOURCES.get(name, name.partition(".")[0])


def numerics(raw: Results) -> dict[str, Any]:
    """The greatest move of a lead, and records that did not come out at the first attempt."""
    outcomes = raw["outcomes"]
    return {
        "greatest_move": max(row["moved"] for row in outcomes if row["moved"] is not None),
        "not_at_once": sum(raw["records"] - row["identical"] for row in outcomes),
        "ways": len(outcomes),
    }


def isolation(raw: Results) -> dict[str, Any]:
    """Numbers of ways and of wrong answers."""
    return {"ways": len(raw["by_way"]), "wrong_answers": len(raw["wrong"])}


def scale(raw: Results) -> dict[str, Any]:
    """`largest`: the store of the most records and documents. Seconds of the slowest reading command there."""
    largest = max(raw["stores"], key=lambda store: (store["records"], store["documents"]))
    reading = [run for name, run in largest["commands"].items() if "at random" not in name]
    return {"largest": largest, "slowest_seconds": max(max(run["first"], run["seconds"]) for run in reading)}


def documents(raw: Results) -> dict[str, Any]:
    """`largest`: the run with the most documents. `wrong`: documents of all runs that came back otherwise."""
    wrong = sum(run["documents"] - run["right"] for run in raw["found"])
    return {"largest": max(raw["found"], key=lambda run: run["documents"]), "wrong": wrong}


def untuned(raw: Results) -> dict[str, Any]:
    """`MODEL.ARM.…`: the figures of a pack."""
    found: dict[str, Any] = {}
    for one in raw["found"]:
        found.setdefault(one["model"], {})[one["arm"]] = one["result"]
    return found


def kv(raw: Results) -> dict[str, Any]:
    """`ARM.RATIO.FORM.…` of the first set, ARM being `head`, or `head_20` with 20 training steps. `machine` made the first result."""
    found: dict[str, Any] = {}
    first = raw["found"][0]
    for one in raw["found"]:
        if one["set"] != first["set"]:
            continue
        found.setdefault(one["arm"].replace("+", "_"), {})[f"{one['ratio']:g}"] = {
            **one["forms"],
            "bytes_a_token": one["cost"]["bytes"] / one["cost"]["tokens"],
            "tokens_a_position": one["cost"]["tokens"] / one["cost"]["positions"],
            "readings": one["cost"]["seconds_making"] / one["cost"]["seconds_reading"],
        }
    return {**found, "first": first}


def prefill(raw: Results) -> dict[str, Any]:
    """`KIND_LENGTH.…`: the costs of a kind of memory and a length of text, with how many times sooner its first token comes."""
    return {
        f"{row['kind']}_{row['tokens']}": {**row, "times_sooner": row["prefill_text"] / row["prefill_memory"]}
        for row in raw["found"]
    }


DERIVED: dict[str, Callable[[Results], dict[str, Any]]] = {
    "fit": fit,
    "roundtrip": roundtrip,
    "throughput": throughput,
    "speed": speed,
    "decode": decode,
    "capacity": capacity,
    "numerics": numerics,
    "isolation": isolation,
    "scale": scale,
    "documents": documents,
    "kv": kv,
    "untuned": untuned,
    "prefill": prefill,
}
