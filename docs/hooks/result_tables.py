"""Tables and bars of the results pages, made from the views of benchmarks/results/."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from typing import Any

from figures import view
from views import RECIPES

Row = Sequence[str]
NOTHING = "–"


def markdown(head: Row, rows: Sequence[Row], right: bool = True) -> str:
    """A Markdown table; every column but the first is flush right, unless it holds words."""
    lines = [head, ["---"] + ["---:" if right else "---"] * (len(head) - 1), *rows]
    return "\n".join(f"| {' | '.join(_cell(cell) for cell in line)} |" for line in lines)


def _cell(text: str) -> str:
    """A bar outside code would end the cell; in code it does not, and an escape would be shown."""
    parts = text.split("`")
    parts[::2] = [part.replace("|", r"\|") for part in parts[::2]]
    return "`".join(parts)


def bars(rows: Sequence[tuple[str, float, str]], caption: str) -> str:
    """Bars as HTML, so that they take the colours of the page: (label, value, value as written)."""
    most = max(value for _, value, _ in rows)
    drawn = [
        f'<div class="bar"><span class="bar-label">{escape(label)}</span><span class="bar-track">'
        f'<span class="bar-fill" style="width:{100 * value / most:.2f}%"></span></span>'
        f'<span class="bar-value">{escape(said)}</span></div>'
        for label, value, said in rows
    ]
    return f'<figure class="bars">{"".join(drawn)}<figcaption>{escape(caption)}</figcaption></figure>'


def _spread(value: Mapping[str, float]) -> str:
    return f"{value['median']:.0f} ({value['low']:.0f}–{value['high']:.0f})"


def _recipes(found: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    densities = [value for name, value in found.items() if name.startswith("at_")]
    return [(RECIPES_SAID[name], row) for density in densities for name, row in density.items()]


RECIPES_SAID = dict(RECIPES.values())


def fit(name: str) -> str:
    """A row for each recipe and number of vectors."""
    head = ["recipe", "vectors", "tokens per vector", "finished", "steps", "token-steps per exact token"]
    head += ["seconds per exact token", "corrected", "exact prefix, decoded freely", "the same, first token given"]
    rows = [
        [
            f"**{said}**" if said == "memvec" else said,
            f"{row['vectors']}",
            f"{row['tokens_per_vector']:.1f}",
            f"{row['finished']} of {row['texts']}",
            _spread(row["steps"]),
            _spread(row["token_steps"]),
            f"{row['seconds']:.2f}",
            f"{row['corrected']:.1%}",
            _spread(row["free"]),
            _spread(row["free_behind_first"]),
        ]
        for said, row in _recipes(view(name))
    ]
    return markdown(head, rows)


def fit_bars(name: str) -> str:
    """Token-steps for each exact token, a bar a recipe."""
    rows = [
        (said, row["token_steps"]["median"], f"{row['token_steps']['median']:.0f}")
        for said, row in _recipes(view(name))
    ]
    return bars(rows, "Token-steps per exact token, median over the texts. Fewer is better.")


def roundtrip(name: str) -> str:
    """A row for each document."""
    found = view(name)
    head = [
        "document",
        "bytes",
        "tokens",
        "nats per token",
        "vectors",
        "tokens per vector",
        "corrected",
        "token-steps per token",
    ]
    rows = []
    for row in found["rows"]:
        fitted = bool(row["vectors"])
        cells = [
            f"{row['vectors']}",
            f"{row['tokens_per_vector']:.2f}",
            f"{row['corrected']}",
            f"{row['token_steps_per_token']:.1f}",
        ]
        surprisal = f"{row['nats_per_token']:.2f}" if fitted else NOTHING
        rows.append(
            [f"`{row['document']}`", f"{row['bytes']:,}", f"{row['tokens']:,}", surprisal]
            + (cells if fitted else [NOTHING] * 4)
        )
    totals = found["totals"]
    rows.append(
        [
            "**all**",
            f"{totals['source_bytes']:,}",
            f"{totals['fitted_tokens']:,}",
            "",
            f"{totals['vectors']}",
            f"{totals['tokens_per_vector']:.2f}",
            f"{totals['corrected_tokens']} ({found['corrected']:.1%})",
            f"{found['token_steps_per_token']:.1f}",
        ]
    )
    return markdown(head, rows)


def roundtrip_bytes(name: str) -> str:
    """What the documents, their zstd frame, the vectors and the store take."""
    totals = view(name)["totals"]
    kinds = {"documents": "source", "zstd -19, one frame": "zstd", "vectors": "vector", "store, with its keys": "store"}
    rows = [
        [said, f"{totals[f'{kind}_bytes']:,}", f"{totals[f'{kind}_bytes'] / totals['source_bytes']:.2f}"]
        for said, kind in kinds.items()
    ]
    return markdown(["", "bytes", "of the documents"], rows)


def throughput(name: str) -> str:
    """Seconds of each verb and of its stages that take half a hundredth or more."""
    found = view(name)
    tokens, rows = found["report"]["fitted_tokens"], []
    for verb in ("pack", "unpack"):
        whole = found[verb]["seconds"]
        rows.append([f"**{verb}**", f"{tokens / whole:,.0f}", f"{whole:.1f}"])
        stages = sorted(found[verb]["stages"].items(), key=lambda pair: -pair[1])
        rows += [[f"{verb}: {stage}", f"{tokens / s:,.0f}", f"{s:.1f}"] for stage, s in stages if s > whole / 200]
    seconds = found["expected"]["seconds"]
    rows.append(["fitting, as `pack --dry-run` expected it", f"{tokens / seconds:,.0f}", f"{seconds:.1f}"])
    rival = found["rival"]
    rows.append(["full cramming (Kuratov et al. 2025)", f"{rival['tokens_a_second']:.2f}", NOTHING])
    return markdown(["", "tokens per second", "seconds"], rows)


def speed(name: str) -> str:
    """Shares of a fitting step."""
    return markdown(
        ["part of a step", "share"], [[kind, f"{share:.1%}"] for kind, share in view(name)["shares"].items()]
    )


def speed_bars(name: str) -> str:
    """A step beside its matrix products alone."""
    found = view(name)
    rows = [("a fitting step", found["step"], f"{found['step']:,.0f}")]
    rows.append(("its matrix products alone", found["products"], f"{found['products']:,.0f}"))
    return bars(rows, "Token positions per second. More is better; the products are the limit.")


def decode_bars(name: str) -> str:
    """memvec's decoding loop beside `generate` of transformers."""
    found = view(name)
    kinds = {"memvec": "memvec", "generate of transformers": "transformers"}
    rows = [(said, found[kind], f"{found[kind]:,.0f}") for said, kind in kinds.items()]
    return bars(rows, "Tokens decoded per second. More is better.")


def capacity(name: str) -> str:
    """What trained vectors hold, a row for each text source and number of vectors."""
    head = [
        "text",
        "trained vectors",
        "texts",
        "tokens",
        "of linear",
        "bits",
        "without corrections",
        "99% right, text fed back",
    ]
    said = {"corpus.txt": "a novel"}
    rows = [
        [
            said.get(row["source"], row["source"].removesuffix(".txt")),
            f"{row['vectors']}",
            f"{row['texts']}",
            f"{row['tokens']:.1f} ± {row['tokens_spread']:.1f}",
            f"{row['scaling']:.0%}",
            f"{row['bits']:,.0f} ± {row['bits_spread']:,.0f}",
            f"{row['alone']:.1f}",
            f"{row['published']:.1f}",
        ]
        for row in view(name)["summary"]
    ]
    return markdown(head, rows)


def conditioning(*names: str) -> str:
    """Gain of memories and of every control, a column for each ratio and form of the questions."""
    found = {ratio: one for name in names for ratio, one in view(name)["ratios"].items()}
    columns = [(ratio, form, found[ratio][form]) for ratio in sorted(found, key=float) for form in ("chat", "text")]

    def share(value: float | None) -> str:
        return NOTHING if value is None else f"{value:.2f}".replace("-", "−")

    rows = [
        [
            "**memory**",
            *(f"**{one['gain']:.2f}** ({one['gain_low']:.2f}–{one['gain_high']:.2f})" for *_, one in columns),
        ]
    ]
    lines = {"another document's memory": "shuffled", "another document's text": "shuffled_text"}
    lines |= {"noise of the same norms": "random", "exact vectors": "exact"}
    rows += [[said, *(share(one[key]) for *_, one in columns)] for said, key in lines.items()]
    for said, key in {"first tokens": "first", "last tokens": "last", "spaced sentences": "sentences"}.items():
        rows.append([f"the text cut: {said}", *(share(one["text_at_equal_positions"][key]) for *_, one in columns)])
    for said, key in {"two memories": "2", "four memories": "4"}.items():
        rows.append([f"{said}, the right one among them", *(share(one["company"][key]) for *_, one in columns)])
    for arm in ("memory", "text", "none"):
        said = "nothing" if arm == "none" else f"the {arm}" if arm == "text" else "a memory"
        rows.append([f"*answered word for word with* {said}", *(f"{one['answered'][arm]:.0%}" for *_, one in columns)])
    return markdown(["in front of the question", *(f"ratio {ratio}, {form}" for ratio, form, _ in columns)], rows)


def harm(*names: str) -> str:
    """What a memory costs unrelated prompts."""
    found = {ratio: one["text"] for name in names for ratio, one in view(name)["ratios"].items()}
    rows = []
    for ratio in sorted(found, key=float):
        nll, right = found[ratio]["off_topic"]["nll"], found[ratio]["off_topic"]["accuracy"]
        rows.append(
            [ratio, f"{found[ratio]['harm']:.3f}"]
            + [f"{nll[arm]:.3f}" for arm in ("memory", "text", "none")]
            + [f"{right[arm]:.0%}" for arm in ("memory", "text", "none")]
        )
    head = ["ratio", "harm (nats per token)", "nats: memory", "nats: text", "nats: nothing"]
    return markdown([*head, "choices right: memory", "text", "nothing"], rows)


def kv(name: str) -> str:
    """Gain, answers, size and cost of kv memories, a row for each budget and ratio."""
    head = ["memory", "tokens per position", "gain", "another document's", "text cut to as many positions"]
    head += ["contained", "F1", "bytes per token", "made with"]
    found = view(name)
    rows = []
    for one in found["found"]:
        budget, _, steps = one["arm"].partition("+")
        row = found[one["arm"].replace("+", "_")][f"{one['ratio']:g}"]
        (form,) = one["forms"].values()
        rows.append(
            [
                f"{budget}, {steps} steps" if steps else budget,
                f"{one['ratio']:g}",
                f"**{form['gain']:.2f}** ({form['gain_low']:.2f}–{form['gain_high']:.2f})",
                f"{form['shuffled']:.2f}".replace("-", "−"),
                _best(form["text_at_equal_positions"].values()),
                *(f"{form[score]['memory']:.0%} of {form[score]['text']:.0%}" for score in ("contained", "f1")),
                f"{row['bytes_a_token']:,.0f}",
                f"{one['cost']['token_steps_per_token']:.0f} token-steps"
                if steps or budget == "context"
                else f"{row['readings']:.1f} readings",
            ]
        )
    return markdown(head, rows)


def _best(values: Iterable[float | None]) -> str:
    """The largest value. A lean judgement has none."""
    found = [value for value in values if value is not None]
    return f"{max(found):.2f}" if found else NOTHING


KEPT = {  # by arm of benchmarks/kv.py, without steps: how a page says it
    "head": "memvec, head",
    "even": "memvec, even",
    "cartridge": "PEFT's cartridge",
    "kvzip": "KVzip",
    "kvcompose": "KVCompose",
    "expected": "ExpectedAttention",
    "snap": "SnapKV",
}


def rivals(name: str) -> str:
    """Gain and right answers of memories by what chose their keys and values, by set and ratio, the best first."""
    head = ["questions about", "tokens per position", "keys and values", "gain", "another document's", "right answers"]
    rows = []
    found = [(one, one["forms"]["chat"]) for one in view(name)["found"]]
    for one, form in sorted(found, key=lambda pair: (pair[0]["set"], pair[0]["ratio"], -pair[1]["gain"])):
        arm, _, steps = one["arm"].partition("+")
        rows.append(
            [
                "invented facts" if one["set"] == "report" else "XQuAD",
                f"{one['ratio']:g}",
                f"{KEPT[arm]}, {steps} steps" if steps else KEPT[arm],
                f"**{form['gain']:.2f}** ({form['gain_low']:.2f}–{form['gain_high']:.2f})".replace("-", "−"),
                f"{form['shuffled']:.2f}".replace("-", "−"),
                f"{form['answered']['memory']:.0%} of {form['answered']['text']:.0%}",
            ]
        )
    return markdown(head, rows, right=False)


MODELS = {  # by folder: how a page says it
    "smollm2-135m": "SmolLM2-135M",
    "gemma-3-270m": "Gemma-3-270M",
    "qwen2.5-0.5b": "Qwen2.5-0.5B",
    "gpt2": "small GPT-2",
    "neox": "small GPT-NeoX",
    "opt": "small OPT",
    "llama": "small Llama",
    "mamba": "small Mamba",
}
SETTINGS = {  # by arm of benchmarks/untuned.py: how a page says it
    "untuned": "as they are",
    "trial": "of a trial",
    "calibrated": "of `calibrate`",
}


def untuned(name: str) -> str:
    """Cost and density of packs by model and settings, and the cost beside that after calibrating."""
    head = ["model", "settings", "token-steps per token", "of calibrated", "tokens per vector", "corrected", "raw"]
    rows = []
    found = view(name)
    for one in found["found"]:
        result, best = one["result"], found[one["model"]].get("calibrated")
        said = [MODELS.get(one["model"], one["model"]), SETTINGS[one["arm"]]]
        if result is None:
            rows.append([*said, *[NOTHING] * 5])
            continue
        cost = result["token_steps_per_token"]
        rows.append(
            [
                *said,
                f"{cost:.1f}",
                f"{cost / best['token_steps_per_token']:.2f}" if best else NOTHING,
                f"{result['tokens_per_vector']:.1f}",
                f"{result['corrected']:.1%}",
                f"{result['raw']:.0%}",
            ]
        )
    return markdown(head, rows)


TABLES: dict[str, Callable[..., str]] = {
    "fit": fit,
    "fit-bars": fit_bars,
    "roundtrip": roundtrip,
    "roundtrip-bytes": roundtrip_bytes,
    "throughput": throughput,
    "speed": speed,
    "speed-bars": speed_bars,
    "decode-bars": decode_bars,
    "capacity": capacity,
    "conditioning": conditioning,
    "harm": harm,
    "kv": kv,
    "rivals": rivals,
    "untuned": untuned,
}
