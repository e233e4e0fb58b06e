"""Adapter folders: what PEFT makes of them against the hook, and the way back."""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import make
from greedy import reference
from kv_memory import kv_memory
from peft import PeftModel
from safetensors.torch import load_file, save_file

from memvec.errors import FingerprintError, MissingExtraError, NotFoundError, UsageError
from memvec.identity.fingerprint import fingerprint
from memvec.integrations import peft_adapter
from memvec.integrations.peft_adapter import (
    export_cartridge,
    export_prefix_tuning,
    export_prompt_tuning,
    import_prompt_tuning,
)
from memvec.lm import load as loading
from memvec.memory.memory import Memory, load
from memvec.memory.prompt import embed, generate_kwargs
from memvec.templates.template import Frame, frame

CHAT = (
    "{% if messages[0]['role'] != 'system' %}be kind\n{% endif %}"
    "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}<|end|>{% endfor %}{% if add_generation_prompt %}[a]{% endif %}"
)
PROMPTS = ["However little", "The feelings or views of such a man may be on", "wife"]

pytestmark = [
    # PEFT warns of this at every step of prompt tuning; one row alone is right all the same.
    pytest.mark.filterwarnings("ignore:Position ids are not supported"),
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated"),  # PEFT asks for the old name
]


@pytest.fixture(scope="module")
def owner(tiny: str) -> Any:
    return fingerprint(tiny)


@pytest.fixture
def model(tiny_lm: Any) -> Any:
    return copy.deepcopy(tiny_lm.model)  # PEFT writes on what it wraps


@pytest.fixture
def chat(tiny_lm: Any) -> Any:
    changed = copy.deepcopy(tiny_lm.tokenizer)
    changed.bos_token = "<|end|>"
    changed.chat_template = CHAT
    return changed


@pytest.fixture
def memory(owner: Any) -> Memory:
    noise = [np.random.default_rng(seed).standard_normal((5, owner.width)) * 0.3 for seed in (1, 2)]
    return Memory(("a", "b/c.txt"), tuple(part.astype(np.float16) for part in noise), owner)


def greedy(model: Any, kwargs: dict[str, Any]) -> list[list[int]]:
    kwargs = {"pad_token_id": 0, **kwargs}
    out = model.generate(**kwargs, do_sample=False, eos_token_id=None, max_new_tokens=8)
    return [row[kwargs["input_ids"].shape[1] :].tolist() for row in out]


def rest(tokenizer: Any, prompts: list[str]) -> dict[str, Any]:
    """What the user of an adapter gives the model: what comes after the memory, left-padded."""
    rows = [frame(tokenizer, prompt).after for prompt in prompts]
    width = max(map(len, rows))
    ids = torch.tensor([[0] * (width - len(row)) + list(row) for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    return {"input_ids": ids, "attention_mask": mask}


def test_prompt_tuning_with_the_template_is_the_hook(model: Any, chat: Any, memory: Memory, tmp_path: Path) -> None:
    wanted = [greedy(model, generate_kwargs(model, chat, prompt, memory)) for prompt in PROMPTS]
    before = frame(chat, "").before
    assert chat.decode(before) == "be kind\n[user]"
    folder = export_prompt_tuning(memory, tmp_path / "a", model, chat, before)
    assert load_file(folder / "adapter_model.safetensors")["prompt_embeddings"].shape == (len(before) + 10, 128)
    adapted = PeftModel.from_pretrained(model, folder)
    assert [greedy(adapted, rest(chat, [prompt])) for prompt in PROMPTS] == wanted


def test_prompt_tuning_alone_is_the_hook_with_nothing_before(
    model: Any, chat: Any, memory: Memory, tmp_path: Path
) -> None:
    row = Frame((), tuple(chat(PROMPTS[1])["input_ids"]))
    wanted = greedy(model, embed(model, [(row, torch.from_numpy(memory.vectors))]).generate_kwargs())
    adapted = PeftModel.from_pretrained(model, export_prompt_tuning(memory, tmp_path / "a", model))
    assert greedy(adapted, {"input_ids": torch.tensor([row.after])}) == wanted


def test_exact_vectors_of_a_store_can_be_exported(model: Any, chat: Any, packed: Path, tmp_path: Path) -> None:
    exact = load(packed, "prose.txt", kind="exact")
    row = Frame((), tuple(chat(PROMPTS[1])["input_ids"]))
    wanted = greedy(model, embed(model, [(row, torch.from_numpy(exact.vectors))]).generate_kwargs())
    adapted = PeftModel.from_pretrained(model, export_prompt_tuning(exact, tmp_path / "a", model, chat))
    assert greedy(adapted, {"input_ids": torch.tensor([row.after])}) == wanted


@pytest.mark.parametrize("export", [export_prefix_tuning, export_cartridge])
def test_keys_and_values_are_the_hook_in_a_left_padded_batch(
    model: Any, chat: Any, memory: Memory, tmp_path: Path, export: Callable[..., Path]
) -> None:
    wanted = greedy(model, generate_kwargs(model, chat, PROMPTS, memory))
    assert greedy(model, rest(chat, PROMPTS)) != wanted
    adapted = PeftModel.from_pretrained(model, export(memory, tmp_path / "a", model, chat))
    given = rest(chat, PROMPTS)
    assert given["attention_mask"].sum(1).unique().numel() == 3  # otherwise nothing would be padded
    assert greedy(adapted, given) == wanted
    kind = {export_prefix_tuning: "PREFIX_TUNING", export_cartridge: "CARTRIDGE"}[export]
    assert json.loads((tmp_path / "a" / "adapter_config.json").read_text())["peft_type"] == kind


def test_the_trap_of_padded_prompt_tuning_is_there_and_told(
    model: Any, chat: Any, memory: Memory, tmp_path: Path
) -> None:
    folder = export_prompt_tuning(memory, tmp_path / "a", model, chat, frame(chat, "").before)
    given = rest(chat, PROMPTS)
    wanted = model(**generate_kwargs_for_logits(model, chat, memory)).logits[:, -1]
    adapted = PeftModel.from_pretrained(model, folder)
    got = adapted(**given, position_ids=(given["attention_mask"].cumsum(1) - 1).clamp(min=0)).logits[:, -1]
    off = (got - wanted).abs().amax(1)
    longest = int(given["attention_mask"].sum(1).argmax())
    assert off[longest] < 1e-3  # the row that is not padded
    assert all(off[row] > 0.01 for row in range(3) if row != longest)
    assert "gets padded rows wrong" in (export_prompt_tuning.__doc__ or "")
    assert "wrong: PEFT drops the positions" in (peft_adapter.__doc__ or "")


def generate_kwargs_for_logits(model: Any, tokenizer: Any, memory: Memory) -> dict[str, Any]:
    from memvec.memory.prompt import prompts_with

    made = prompts_with(model, tokenizer, PROMPTS, memory)
    return {
        "inputs_embeds": made.inputs_embeds,
        "attention_mask": made.attention_mask,
        "position_ids": made.position_ids,
    }


def test_a_memory_comes_back_bit_for_bit(model: Any, chat: Any, memory: Memory, tmp_path: Path) -> None:
    folder = export_prompt_tuning(memory, tmp_path / "a", model, chat, frame(chat, "").before)
    for back in (import_prompt_tuning(folder), import_prompt_tuning(folder, memory.fingerprint)):
        assert back.documents == memory.documents
        assert back.fingerprint == memory.fingerprint
        assert [part.tobytes() for part in back.parts] == [part.tobytes() for part in memory.parts]
    with pytest.raises(FingerprintError, match="weights"):
        import_prompt_tuning(folder, replace(memory.fingerprint, weights="0" * 64))


def test_an_adapter_without_origin_needs_a_fingerprint(model: Any, memory: Memory, tmp_path: Path) -> None:
    folder = export_prompt_tuning(memory, tmp_path / "a", model)
    (folder / "memvec.json").unlink()
    with pytest.raises(UsageError, match="Pass fingerprint"):
        import_prompt_tuning(folder)
    back = import_prompt_tuning(folder, memory.fingerprint)
    assert back.documents == ("a",) and np.array_equal(back.vectors, memory.vectors)
    with pytest.raises(UsageError, match=r"expected \(positions, 64\)"):
        import_prompt_tuning(folder, replace(memory.fingerprint, width=64))


def test_an_adapter_saved_again_gives_the_memory_alone(
    model: Any, chat: Any, memory: Memory, tmp_path: Path, owner: Any
) -> None:
    before = frame(chat, "").before
    export_prompt_tuning(memory, tmp_path / "a", model, chat, before)
    again = PeftModel.from_pretrained(model, tmp_path / "a")
    again.save_pretrained(tmp_path / "b")  # keeps no memvec.json
    assert before and not (tmp_path / "b" / "memvec.json").exists()
    for options in ({}, {"before": len(before)}):
        back = import_prompt_tuning(tmp_path / "b", owner, **options)
        assert np.array_equal(back.vectors, memory.vectors)
    for wrong in (0, len(before) + 1):
        for folder in ("a", "b"):
            with pytest.raises(UsageError, match=f"before is {wrong}"):
                import_prompt_tuning(tmp_path / folder, owner, before=wrong)
    with pytest.raises(FingerprintError):
        import_prompt_tuning(tmp_path / "b", replace(owner, weights="0" * 64))


def test_an_adapter_of_others_has_to_say_what_stands_before(
    model: Any, memory: Memory, tmp_path: Path, owner: Any
) -> None:
    from peft import PromptTuningConfig, get_peft_model

    trained = get_peft_model(model, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5))
    trained.save_pretrained(tmp_path / "a")
    with pytest.raises(UsageError, match=r"does not say how many of its 5 positions.*before=0"):
        import_prompt_tuning(tmp_path / "a", owner)
    assert len(import_prompt_tuning(tmp_path / "a", owner, before=0)) == 5
    assert len(import_prompt_tuning(tmp_path / "a", owner, before=2)) == 3
    for wrong in (-1, 5, 9, True, 1.0):
        with pytest.raises(UsageError, match="expected 0 to 4"):
            import_prompt_tuning(tmp_path / "a", owner, before=wrong)  # type: ignore[arg-type]


def test_import_refuses_what_is_no_memory(model: Any, chat: Any, memory: Memory, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"no adapter_config\.json"):
        import_prompt_tuning(tmp_path)
    prefix = export_prefix_tuning(memory, tmp_path / "p", model, chat)
    with pytest.raises(UsageError, match="PREFIX_TUNING adapter, expected PROMPT_TUNING"):
        import_prompt_tuning(prefix)
    folder = export_prompt_tuning(memory, tmp_path / "a", model)
    good = (folder / "memvec.json").read_text()
    for bad, fragment in (
        (good.replace('"before": 0', '"before": 1'), "says 11"),
        (good.replace("memvec.adapter/1", "memvec.adapter/9"), "Upgrade memvec"),
        ("{", "damaged"),
        ("[]", "no JSON object"),
        ('{"format": "memvec.adapter/1"}', "damaged"),
        (good.replace('"before": 0', '"before": -1'), "negative"),
        ("[" * 100_000, "damaged"),
        (good.replace('"width": 128', '"width": "128"'), "damaged"),
        (good.replace('"documents": [', '"documents": [3, '), "damaged"),
    ):
        (folder / "memvec.json").write_text(bad)
        with pytest.raises(UsageError, match=fragment):
            import_prompt_tuning(folder)
    (folder / "memvec.json").write_text(good)
    weights = folder / "adapter_model.safetensors"
    save_file({"prompt_embeddings": torch.full((10, 128), 1e6)}, weights)
    with pytest.raises(UsageError, match="outside the range of float16"):
        import_prompt_tuning(folder)
    weights.write_bytes(b"x")
    with pytest.raises(UsageError, match="damaged"):
        import_prompt_tuning(folder)
    weights.unlink()
    with pytest.raises(NotFoundError, match="safetensors"):
        import_prompt_tuning(folder)


def test_export_refuses_another_model_and_what_is_there(
    model: Any, chat: Any, memory: Memory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stranger = Memory(("x",), memory.parts, replace(memory.fingerprint, weights="0" * 64))
    for export in (export_prompt_tuning, export_prefix_tuning, export_cartridge):
        with pytest.raises(FingerprintError, match="weights"):
            export(stranger, tmp_path / "a", model, chat)
    narrow = Memory(("x",), (np.zeros((2, 64), np.float16),), replace(memory.fingerprint, width=64))
    with pytest.raises(FingerprintError, match="width"):
        export_prompt_tuning(narrow, tmp_path / "a", model)
    with pytest.raises(UsageError, match="nothing to export"):
        export_prompt_tuning(Memory(("x",), (), memory.fingerprint), tmp_path / "a", model)
    assert not (tmp_path / "a").exists()
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "file").touch()
    with pytest.raises(UsageError, match="not an empty folder"):
        export_prompt_tuning(memory, tmp_path / "a", model)
    monkeypatch.delattr(sys.modules["peft"], "CartridgeConfig")
    with pytest.raises(MissingExtraError, match="pip install -U peft"):
        export_cartridge(memory, tmp_path / "b", model, chat)


@pytest.mark.parametrize("wrap", ["parallel", "offloaded"])
def test_wrapped_models_export_the_same(model: Any, chat: Any, memory: Memory, tmp_path: Path, wrap: str) -> None:
    wrapped = copy.deepcopy(model)
    if wrap == "parallel":
        wrapped = torch.nn.DataParallel(wrapped)
    else:
        import accelerate

        accelerate.cpu_offload(wrapped, execution_device=torch.device("cpu"))
    before = frame(chat, "").before
    for name, export in {"prompt": export_prompt_tuning, "prefix": export_prefix_tuning}.items():
        more = (before,) if name == "prompt" else ()
        made = [
            load_file(export(memory, tmp_path / f"{name}{number}", one, chat, *more) / "adapter_model.safetensors")
            for number, one in enumerate((model, wrapped))
        ]
        torch.testing.assert_close(made[0]["prompt_embeddings"], made[1]["prompt_embeddings"])


@pytest.mark.parametrize("export", [export_prefix_tuning, export_cartridge])
def test_kept_keys_and_values_are_the_hook(
    model: Any, chat: Any, owner: Any, tmp_path: Path, export: Callable[..., Path]
) -> None:
    """Of memories with an even budget, several together. Those with a budget by head are refused, and leave nothing."""
    parts = [kv_memory(model, chat, owner, text, 3, "even") for text in (PROMPTS[1], " ".join(PROMPTS))]
    both = parts[0] + parts[1]
    wanted = greedy(model, generate_kwargs(model, chat, PROMPTS, both))
    before = len(frame(chat, "").before)
    folder = export(both, tmp_path / "a", model, chat)
    config = json.loads((folder / "adapter_config.json").read_text())
    assert before and config["num_virtual_tokens"] == before + len(both)
    assert json.loads((folder / "memvec.json").read_text())["parts"] == [len(part) for part in parts]
    assert greedy(PeftModel.from_pretrained(model, folder), rest(chat, PROMPTS)) == wanted
    head = kv_memory(model, chat, owner, PROMPTS[1], 3)
    with pytest.raises(UsageError, match="even budget"):
        export(both + head, tmp_path / "b", model, chat)
    with pytest.raises(UsageError, match="kind='context'"):
        export_prompt_tuning(both, tmp_path / "b", model, chat)
    assert not (tmp_path / "b").exists()


def test_a_state_is_lost_in_generate_and_told(tmp_path: Path) -> None:
    """PEFT goes on from no state of Mamba's. Without a cache it says what the memory says."""
    folder = make("mamba", tmp_path / "mamba")
    lm, owner = loading.load(folder), fingerprint(str(folder))
    memory = Memory(("a",), (np.random.default_rng(0).standard_normal((4, 64)).astype(np.float16),), owner)
    row = frame(lm.tokenizer, PROMPTS[0])
    with pytest.warns(UserWarning, match="use_cache=False"):
        export_prompt_tuning(memory, tmp_path / "a", lm.model, lm.tokenizer, row.before)
    adapted = PeftModel.from_pretrained(copy.deepcopy(lm.model), tmp_path / "a")
    ids = torch.tensor([row.after])
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "max_new_tokens": 5, "do_sample": False}
    said = adapted.generate(**given, use_cache=False)[0, -5:].tolist()
    assert said == reference(lm.model, row.before, memory, row.after, 5)
