"""Fronts in models with sliding windows and other attentions, against the text itself in front."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import families
import pytest
import torch
from kv_memory import kv_memory

from memvec.errors import UsageError
from memvec.identity.fingerprint import fingerprint
from memvec.kv.fronts import FrontCache, sees_fronts
from memvec.kv.place import placed
from memvec.kv.selection import Selection
from memvec.lm import compat
from memvec.memory.memory import Memory
from memvec.memory.prompt import front_of
from memvec.templates.template import frame

TEXT = "It is a truth universally acknowledged, that a single man in want"
QUESTIONS = ["wife", "the carriage came to the house and nobody heard"]
NEAR = 5e-3  # of logits of about 10: keys and values are rounded to 16 bits


def load(folder: Path, attention: str) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, attn_implementation=attention).eval()


@pytest.fixture(scope="module", params=["mistral", "gemma3"])
def windowed(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Any, Memory]]:
    """The folder of a model with windows of 16 positions, its tokenizer, and a memory of all of a longer text."""
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp("family")
    folder = families.make(request.param, folder) or folder
    tokenizer = AutoTokenizer.from_pretrained(folder)
    memory = kv_memory(load(folder, "sdpa"), tokenizer, fingerprint(str(folder)), TEXT)
    assert len(memory) > 20
    yield folder, tokenizer, memory


def logits(model: Any, kwargs: dict[str, Any]) -> torch.Tensor:
    """(steps, B, V)."""
    fixed = {"max_new_tokens": 6, "eos_token_id": None, "output_logits": True, "return_dict_in_generate": True}
    return torch.stack(model.generate(**kwargs, **fixed, do_sample=False).logits)


def of_text(model: Any, tokenizer: Any, question: str) -> torch.Tensor:
    row, ids = frame(tokenizer, question), tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    whole = torch.tensor([[*row.before, *ids, *row.after]])
    return logits(model, {"input_ids": whole, "attention_mask": torch.ones_like(whole)})


def test_windows_count_distances(windowed: tuple[Path, Any, Memory]) -> None:
    folder, tokenizer, memory = windowed
    model = load(folder, "sdpa")
    kwargs = memory.generate_kwargs(model, tokenizer, QUESTIONS)  # rows of different length, so one is padded
    assert isinstance(kwargs["past_key_values"], FrontCache)
    found = logits(model, kwargs)
    for row, question in enumerate(QUESTIONS):
        torch.testing.assert_close(found[:, row], of_text(model, tokenizer, question)[:, 0], atol=NEAR, rtol=0)


def test_windows_of_another_attention_take_one_length(windowed: tuple[Path, Any, Memory]) -> None:
    folder, tokenizer, memory = windowed
    model = load(folder, "eager")
    assert not sees_fronts(model)
    for question in QUESTIONS:
        found = logits(model, memory.generate_kwargs(model, tokenizer, question))
        torch.testing.assert_close(found, of_text(model, tokenizer, question), atol=NEAR, rtol=0)
    for make in (memory.generate_kwargs, lambda *given: memory.as_cache(*given[:2]).generate_kwargs(given[2])):
        with pytest.raises(UsageError, match="count the padding"):
            make(model, tokenizer, QUESTIONS)


def test_a_row_is_shared_and_rows_are_chosen(tiny_lm: Any) -> None:
    memory = kv_memory(tiny_lm.model, tiny_lm.tokenizer, fingerprint(str(tiny_lm.model.name_or_path)), TEXT, 4)
    kept = front_of(memory)
    assert isinstance(kept, Selection)
    one = placed(tiny_lm.model, [kept], [[5, 6]]).cache
    twice = compat.repeated(one, 3).layers[0].front.groups[0].keys
    assert twice.shape[0] == 3 and twice.data_ptr() == one.layers[0].front.groups[0].keys.data_ptr()  # type: ignore[attr-defined]
    two = placed(tiny_lm.model, [kept, None], [[5, 6], []]).cache
    for choose in (
        lambda cache: cache.batch_select_indices(torch.tensor([1])),
        lambda cache: setattr(cache, "layers", cache.branched(torch.tensor([1])).layers),
    ):
        chosen = compat.repeated(two)
        choose(chosen)
        layer = chosen.layers[0]
        assert len(layer.keys) == len(layer.front.groups[0].distances) == 1
        assert not layer.front.groups[0].distances.any() and not layer.front.outside.any()
    assert compat.cache_bytes(two) > compat.cache_bytes(one) > 0
