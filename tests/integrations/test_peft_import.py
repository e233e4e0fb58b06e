"""Adapters of keys and values as memories: they answer as the memory they were made of, and as PEFT does."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import make
from kv_memory import kv_memory
from peft import CartridgeConfig, PeftModel, PrefixTuningConfig, get_peft_model
from safetensors.torch import load_file, save_file

import memvec
from memvec.errors import FingerprintError, NotFoundError, UnsupportedModelError, UsageError
from memvec.identity.fingerprint import fingerprint
from memvec.integrations.peft_adapter import export_cartridge, export_prefix_tuning, export_prompt_tuning
from memvec.integrations.peft_import import import_cartridge, import_prompt_tuning
from memvec.lm.load import load
from memvec.memory.memory import Memory
from memvec.memory.prompt import embed, front_of, prompts_with
from memvec.templates.template import Frame, frame

TEXT = "The feelings or views of such a man may be on his first entering a neighbourhood."
PROMPT = "However little known"
# Rotary with grouped heads, most of a head unrotated, layers without rotation, scaled; learned positions.
FAMILIES = ["llama", "gpt_neox", "smollm3", "llama, yarn", "gpt2"]
ROUNDING = 1e-3  # most error of logits behind float16 keys and values, of their size

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated", "ignore:.*sliding windows")


def behind(model: Any, row: Frame, memory: Any) -> torch.Tensor:
    """Logits (T, V) of the tokens after a memory."""
    made = embed(model, [(row, front_of(memory))]).forward_kwargs()
    with torch.inference_mode():
        return model(**made).logits[0, -len(row.after) :]


def by_peft(model: Any, row: Frame, folder: Path) -> torch.Tensor:
    """The same by PEFT's own forward pass of an adapter."""
    adapted = PeftModel.from_pretrained(copy.deepcopy(model), folder)
    ids = torch.tensor([row.after])
    with torch.inference_mode():
        return adapted(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0]


def off(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """The difference, as a share of the size."""
    return float((found - wanted).norm() / wanted.norm())


def vectors(owner: Any) -> Memory:
    noise = np.random.default_rng(1).standard_normal((5, owner.width)) * 0.3
    return Memory(("a",), (noise.astype(np.float16),), owner)


@pytest.fixture(scope="module")
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """(model, tokenizer, fingerprint, ratio) of a family. Where keys cannot be moved, all of them are kept."""
    folder = make(request.param, tmp_path_factory.mktemp("family"))
    lm = load(folder)
    return lm.model, lm.tokenizer, fingerprint(str(folder)), 1.0 if request.param == "gpt2" else 3.0


@pytest.mark.parametrize("family", FAMILIES, indirect=True)
@pytest.mark.parametrize("export", [export_cartridge, export_prefix_tuning])
def test_an_export_comes_back(family: Any, export: Callable[..., Path], tmp_path: Path) -> None:
    """As keys and values with the answers of the memory and of PEFT, alone and several together."""
    model, tokenizer, owner, ratio = family
    one = kv_memory(model, tokenizer, owner, TEXT[:40], ratio, "even")
    both = one + kv_memory(model, tokenizer, owner, TEXT, ratio, "even")
    row = frame(tokenizer, PROMPT)
    nothing = behind(model, row, None)
    for number, memory in enumerate((one, both, vectors(owner))):
        folder = export(memory, tmp_path / str(number), model, tokenizer)
        back = import_cartridge(folder, model, tokenizer)
        assert (back.documents, len(back), back.fingerprint) == (memory.documents, len(memory), owner)
        assert back.kv[0][0].stored.bits == 16
        wanted = behind(model, row, memory)
        assert off(nothing, wanted) > 100 * ROUNDING
        assert off(behind(model, row, back), wanted) < ROUNDING
        assert off(by_peft(model, row, folder), wanted) < ROUNDING


@pytest.mark.parametrize("family", [*FAMILIES, "gemma3"], indirect=True)  # two bases and sliding windows
@pytest.mark.parametrize("kind", [CartridgeConfig, PrefixTuningConfig])
def test_an_adapter_that_peft_trained(family: Any, kind: Any, tmp_path: Path) -> None:
    """Behind nothing, as PEFT puts it. The first positions can be left out: BOS or a frozen token."""
    model, tokenizer, owner, _ = family
    trained = get_peft_model(copy.deepcopy(model), kind(task_type="CAUSAL_LM", num_virtual_tokens=6))
    ids = torch.tensor([tokenizer(TEXT)["input_ids"]])
    optimizer = torch.optim.Adam([p for p in trained.parameters() if p.requires_grad], 0.1)
    for _ in range(3):
        trained(input_ids=ids, attention_mask=torch.ones_like(ids), labels=ids).loss.backward()
        optimizer.step()
    trained.eval().save_pretrained(tmp_path / "a")
    row = Frame((), tuple(ids[0].tolist()))
    back = import_cartridge(tmp_path / "a", trained, tokenizer, owner, 0)
    assert off(behind(model, row, back), by_peft(model, row, tmp_path / "a")) < ROUNDING
    rest = import_cartridge(tmp_path / "a", model, tokenizer, owner, 2)
    assert (len(rest), rest.documents) == (4, ("a",))
    heads = back.kv[0][0].stored.counts.size
    for name in ("keys", "values", "distances"):  # the last four rows of each head
        whole, part = (getattr(memory.kv[0][0].stored, name) for memory in (back, rest))
        assert np.array_equal(whole.reshape(heads, 6, -1)[:, 2:], part.reshape(heads, 4, -1)), name


@pytest.fixture
def cartridge(tiny_lm: Any, tiny: str, tmp_path: Path) -> Path:
    """A cartridge of the tiny model."""
    memory = vectors(fingerprint(tiny))
    return export_cartridge(memory, tmp_path / "cartridge", tiny_lm.model, tiny_lm.tokenizer)


def test_an_imported_memory_is_used_as_any_other(tiny_lm: Any, cartridge: Path) -> None:
    """Attached, as a cache, in a batch beside other memories, and in `generate`."""
    model, tokenizer = tiny_lm.model, tiny_lm.tokenizer
    back = import_cartridge(cartridge, model, tokenizer)
    options = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    made = back.generate_kwargs(model, tokenizer, PROMPT)
    wanted = model.generate(**made, **options)[0, -6:]
    kept = back.as_cache(model, tokenizer).generate_kwargs(PROMPT)
    assert torch.equal(model.generate(**kept, **options)[0, -6:], wanted)
    with memvec.attached(model, tokenizer, back):
        ids = torch.tensor([tokenizer(PROMPT)["input_ids"]])
        assert torch.equal(model.generate(ids, attention_mask=torch.ones_like(ids), **options)[0, -6:], wanted)
    other = kv_memory(model, tokenizer, back.fingerprint, TEXT, 2.0)
    rows = prompts_with(model, tokenizer, [PROMPT] * 3, [back, None, other]).generate_kwargs()
    answers = model.generate(**rows, **options)[:, -6:]
    assert torch.equal(answers[0], wanted) and not torch.equal(answers[1], wanted)


def test_an_adapter_of_others_names_its_model_and_its_beginning(tiny_lm: Any, cartridge: Path, tmp_path: Path) -> None:
    """PEFT keeps neither when it saves an adapter again."""
    model, tokenizer = tiny_lm.model, tiny_lm.tokenizer
    owner = import_cartridge(cartridge, model, tokenizer).fingerprint
    PeftModel.from_pretrained(copy.deepcopy(model), cartridge).save_pretrained(tmp_path / "again")
    with pytest.raises(UsageError, match="Pass fingerprint"):
        import_cartridge(tmp_path / "again", model, tokenizer)
    with pytest.raises(UsageError, match="before=0"):
        import_cartridge(tmp_path / "again", model, tokenizer, owner)
    for wrong in (-1, 5, True):
        with pytest.raises(UsageError, match="expected 0 to 4"):
            import_cartridge(tmp_path / "again", model, tokenizer, owner, wrong)
    again = import_cartridge(tmp_path / "again", model, tokenizer, owner, 0)
    row = frame(tokenizer, PROMPT)
    assert off(behind(model, row, again), by_peft(model, row, cartridge)) < ROUNDING
    with pytest.raises(UsageError, match=r"before is 1 .* expected 0, as it says"):
        import_cartridge(cartridge, model, tokenizer, before=1)


def test_another_model_is_refused(tiny_lm: Any, cartridge: Path) -> None:
    model, tokenizer = tiny_lm.model, tiny_lm.tokenizer
    changed = copy.deepcopy(model)
    with torch.no_grad():
        changed.get_input_embeddings().weight[3] += 1
    with pytest.raises(FingerprintError, match="weights"):
        import_cartridge(cartridge, changed, tokenizer)
    owner = import_cartridge(cartridge, model, tokenizer).fingerprint
    with pytest.raises(FingerprintError, match="weights"):
        import_cartridge(cartridge, model, tokenizer, replace(owner, weights="0" * 64))


def test_a_model_without_keys_is_refused(tiny_lm: Any, cartridge: Path, tmp_path: Path) -> None:
    folder = make("mamba", tmp_path / "mamba")
    lm = load(folder)
    (cartridge / "memvec.json").unlink()
    with pytest.raises(UnsupportedModelError, match="state of fixed size"):
        import_cartridge(cartridge, lm.model, lm.tokenizer, fingerprint(str(folder)), 0)


def test_each_kind_has_its_function(tiny_lm: Any, cartridge: Path, tmp_path: Path) -> None:
    model, tokenizer = tiny_lm.model, tiny_lm.tokenizer
    with pytest.raises(UsageError, match=r"CARTRIDGE adapter, expected PROMPT_TUNING.*import_cartridge"):
        import_prompt_tuning(cartridge)
    prompt = export_prompt_tuning(vectors(fingerprint(model.name_or_path)), tmp_path / "p", model)
    with pytest.raises(UsageError, match=r"expected CARTRIDGE or PREFIX_TUNING.*import_prompt_tuning"):
        import_cartridge(prompt, model, tokenizer)


def test_damaged_weights_are_refused(tiny_lm: Any, cartridge: Path) -> None:
    """Each with a sentence. Shape and type are looked at before the numbers are read."""
    model, tokenizer, file = tiny_lm.model, tiny_lm.tokenizer, cartridge / "adapter_model.safetensors"
    good = load_file(file)["prompt_embeddings"]
    for bad, why in (
        ({"prompt_embeddings": good[:, :-1]}, r"expected \(positions, "),
        ({"prompt_embeddings": good[None]}, r"expected \(positions, "),
        ({"prompt_embeddings": good[:0]}, "with 1 to"),
        ({"prompt_embeddings": good[:4]}, "has 4 positions, memvec.json says 5"),
        ({"prompt_embeddings": good.to(torch.int32)}, "I32 numbers, expected one of F64"),
        ({"prompt_embeddings": good * torch.nan}, "not finite"),
        ({"prompt_embeddings": torch.full_like(good, 1e6)}, "too large for float16"),
        ({"lora_A": good}, "holds nothing as 'prompt_embeddings'"),
    ):
        save_file({name: tensor.contiguous() for name, tensor in bad.items()}, file)
        with pytest.raises(UsageError, match=why):
            import_cartridge(cartridge, model, tokenizer)
    file.write_bytes(b"x" * 100)
    with pytest.raises(UsageError, match="damaged"):
        import_cartridge(cartridge, model, tokenizer)
    file.unlink()
    with pytest.raises(NotFoundError, match=r"no adapter_model\.safetensors.*it is missing"):
        import_cartridge(cartridge, model, tokenizer)
    torch.save({"prompt_embeddings": good}, cartridge / "adapter_model.bin")
    with pytest.raises(NotFoundError, match=r"adapter_model\.bin may run any code"):
        import_cartridge(cartridge, model, tokenizer)


def test_too_many_positions_are_not_read(tiny_lm: Any, cartridge: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("memvec.formats.limits.KV_ROWS", 4 * 4)
    with pytest.raises(UsageError, match="with 1 to"):
        import_cartridge(cartridge, tiny_lm.model, tiny_lm.tokenizer)


def test_a_damaged_origin_is_refused(tiny_lm: Any, cartridge: Path) -> None:
    file = cartridge / "memvec.json"
    good = json.loads(file.read_text())
    assert good["tokens"] == 5
    for bad, why in (
        ({"tokens": -1}, "negative"),
        ({"tokens": 1 << 40}, "tokens"),
        ({"tokens": "many"}, "damaged"),
        ({"parts": [2, 2]}, "has 5 positions"),
    ):
        file.write_text(json.dumps(good | bad))
        with pytest.raises(UsageError, match=why):
            import_cartridge(cartridge, tiny_lm.model, tiny_lm.tokenizer)
