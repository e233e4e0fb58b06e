"""Which keys and values do the methods of kvpress keep? benchmarks/kv.py asks, and judges them as memvec's own memories.

kvpress wants another version of transformers, so it has an environment of its own:

    python -m venv KVPRESS
    KVPRESS/bin/pip install kvpress==0.5.5
    python benchmarks/kv.py FILE.json --arms head,kvzip,kvcompose,expected,snap --kvpress KVPRESS/bin/python --lean

This script reads {"model": folder, "press": name, "before": ids, "texts": [ids …], "positions": [M …]} from standard input.
It writes the places that are kept of each text, by layer and head. A press reads a text behind the tokens `before`, which
are kept and not counted. It sees no question. Settings are those that kvpress has by default, except for SnapKV's window.

Letters: L layers, H key/value heads, P tokens before the text, N tokens of the text, M positions.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch

try:
    import kvpress
    import transformers
except ImportError as error:
    sys.exit(
        f"{sys.executable} cannot import kvpress ({error}). Run `python -m venv KVPRESS` and `KVPRESS/bin/pip install "
        "kvpress==0.5.5`, and pass --kvpress KVPRESS/bin/python to benchmarks/kv.py."
    )

Kept = list[list[list[int]]]  # places by layer and head


def of_scores(press: type[Any], **settings: Any) -> Callable[..., Kept]:
    """A press that scores positions, and keeps as many in every head."""

    def kept(model: Any, before: int, ids: torch.Tensor, most: int) -> Kept:
        found: Kept = []

        class Noting(press):
            def compress(
                self, module: Any, hidden: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, *rest: Any
            ) -> tuple[torch.Tensor, torch.Tensor]:
                scores = self.score(module, hidden, keys, values, *rest)[0, :, before:]
                found.append(scores.topk(most).indices.sort().values.tolist())  # layers come in order
                return keys, values

        run(model, Noting(compression_ratio=0.5, **{name: of(most) for name, of in settings.items()}), ids)
        return found

    return kept


def kvzip(model: Any, before: int, ids: torch.Tensor, most: int) -> Kept:
    """KVzip: the text is said again. A budget over all layers and heads."""
    run(model, kvpress.KVzipPress(removed(before, ids, most), n_sink=before), ids)
    heads, tokens = model.config.num_key_value_heads, ids.shape[1]
    found = []
    for layer in model.model.layers:
        mask = torch.ones(heads, tokens, dtype=torch.bool)
        _, head, place = layer.self_attn.masked_key_indices
        mask[head, place] = False
        found.append(places(mask, before))
    return found


def kvcompose(model: Any, before: int, ids: torch.Tensor, most: int) -> Kept:
    """KVCompose: a budget over layers, with as many positions in all heads of a layer."""

    class Noting(kvpress.KVComposePress):
        def enhance_scores(self) -> None:
            super().enhance_scores()
            self.scores[..., :before] = self.scores.max() + 1

        def compress_cache(self, model: Any) -> None:
            self.noted = [places(torch.stack(heads), before) for heads in self.important_mask_per_kv_head]

    noting = Noting(compression_ratio=removed(before, ids, most))
    run(model, noting, ids)
    return noting.noted


def removed(before: int, ids: torch.Tensor, most: int) -> float:
    """The share that is removed if all tokens `before` and `most` others are kept."""
    return 1 - (before + most + 1e-6) / ids.shape[1]


def places(mask: torch.Tensor, before: int) -> list[list[int]]:
    """The places in the text that a mask (H, P + N) keeps."""
    return [row.nonzero()[:, 0].tolist() for row in mask[:, before:]]


def run(model: Any, press: Any, ids: torch.Tensor) -> None:
    """Read ids (1, P + N) with a press."""
    with torch.inference_mode(), press(model):
        model.model(input_ids=ids, past_key_values=transformers.DynamicCache())


PRESSES: dict[str, Callable[..., Kept]] = {
    "kvzip": kvzip,
    "kvcompose": kvcompose,
    "expected": of_scores(kvpress.ExpectedAttentionPress),
    # By default it keeps the last 64 tokens whatever their scores. From short texts it would keep nothing else.
    "snap": of_scores(kvpress.SnapKVPress, window_size=lambda most: max(1, most // 2)),
}


def answer(asked: dict[str, Any]) -> Sequence[Kept]:
    """The places that a press keeps of each text."""
    model = transformers.AutoModelForCausalLM.from_pretrained(asked["model"], dtype=torch.float32).eval()
    found = []
    for text, most in zip(asked["texts"], asked["positions"], strict=True):
        ids = torch.tensor([[*asked["before"], *text]])
        found.append(PRESSES[asked["press"]](model, len(asked["before"]), ids, most))
    return found


if __name__ == "__main__":
    json.dump(answer(json.load(sys.stdin)), sys.stdout)
