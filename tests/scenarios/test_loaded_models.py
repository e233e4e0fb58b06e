"""A loaded model is refused if it has adapters, other weights than the store's model, or a tokenizer that splits otherwise."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from loaded import load_model, moved, nudge
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from torch import Tensor, nn

from memvec.checkpoints import traits
from memvec.errors import FingerprintError
from memvec.identity import fingerprint as identity
from memvec.identity import weights
from memvec.identity.fingerprint import check_model, fingerprint
from memvec.identity.verdict import stored_identity
from memvec.memory.memory import Memory, load
from memvec.store.store import Store
from memvec.types import Identity

pytestmark = pytest.mark.filterwarnings(
    "ignore:.is_gradient_checkpointing. is deprecated"
)  # PEFT asks for the old name

Check = Callable[..., None]


@pytest.fixture(scope="module")
def owner(tiny: str) -> Any:
    return fingerprint(tiny)


@pytest.fixture(scope="module")
def known(packed: Path) -> Identity:
    """The same, with what the store's model said."""
    return stored_identity(Store.open(packed).manifest)


@pytest.fixture
def model(tiny: str) -> Any:
    return load_model(tiny)


@pytest.fixture
def check(tokenizer: Any, owner: Any) -> Check:
    return lambda model, expected=None, **options: check_model(model, tokenizer, expected or owner, **options)


def lora(**options: Any) -> LoraConfig:
    """An adapter that changes something."""
    return LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False, **options)


class TestAdapters:
    """An active one is named and refused."""

    @pytest.mark.parametrize(
        "wrap",
        [lambda m: m, lambda m: torch.compile(m, backend="eager"), nn.DataParallel],
        ids=["bare", "compiled", "parallel"],
    )
    def test_lora(self, model: Any, check: Check, wrap: Any) -> None:
        check(wrap(model))
        with pytest.raises(FingerprintError, match=r"model has 'default' \(LORA\).*allow_adapters=True"):
            check(wrap(get_peft_model(model, lora())))
        check(wrap(model), allow_adapters=True)

    def test_every_way_in(self, model: Any, tokenizer: Any, owner: Any) -> None:
        memory = Memory(("a",), (np.ones((2, owner.width), np.float16),), owner)
        adapted = get_peft_model(model, lora())
        for use in (memory.generate_kwargs, lambda *args: memory.as_cache(*args[:2])):
            with pytest.raises(FingerprintError, match="LORA"):
                use(adapted, tokenizer, "who")

    def test_switched_off_and_on_again(self, model: Any, check: Check) -> None:
        adapted = get_peft_model(model, lora())
        with adapted.disable_adapter():
            check(adapted)
        with pytest.raises(FingerprintError, match="LORA"):
            check(adapted)
        check(adapted.unload())

    def test_transformers_own_integration(self, model: Any, check: Check) -> None:
        model.add_adapter(lora(), "mine")
        with pytest.raises(FingerprintError, match=r"'mine' \(LORA\)"):
            check(model)
        model.disable_adapters()
        check(model)
        model.enable_adapters()
        with pytest.raises(FingerprintError, match="mine"):
            check(model)

    def test_the_model_below_the_wrapper(self, model: Any, check: Check) -> None:
        get_peft_model(model, lora())
        with pytest.raises(FingerprintError, match="'default'"):
            check(model)

    @pytest.mark.filterwarnings("ignore:All adapters are already merged")
    def test_merged(self, model: Any, check: Check) -> None:
        check(model)
        adapted = get_peft_model(model, lora())
        adapted.merge_adapter()
        with pytest.raises(FingerprintError, match="merged into the weights"):
            check(adapted)
        check(adapted, allow_adapters=True)
        with pytest.raises(
            FingerprintError, match=r"changed in memory.*q_proj\.weight.*merged into the weights change"
        ):
            check(adapted.merge_and_unload())

    def test_prompt_tuning(self, model: Any, check: Check) -> None:
        adapted = get_peft_model(model, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3))
        with pytest.raises(FingerprintError, match="PROMPT_TUNING"):
            check(adapted)
        with adapted.disable_adapter():
            check(adapted)
        check(model)

    def test_a_trained_copy_of_a_module(self, model: Any, check: Check) -> None:
        adapted = get_peft_model(model, lora(modules_to_save=["norm"]))
        with adapted.disable_adapter():
            check(adapted)
        for layer in adapted.modules():
            if hasattr(layer, "lora_A"):
                layer.enable_adapters(False)
        with pytest.raises(FingerprintError, match="'default'"):
            check(adapted)

    def test_weights_below_an_allowed_one_are_looked_at(self, model: Any, check: Check) -> None:
        nudge(model.model.layers[1].mlp.up_proj.weight)
        with pytest.raises(FingerprintError, match="up_proj"):
            check(get_peft_model(model, lora()), allow_adapters=True)


class TestWeights:
    """What is in memory counts."""

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
    def test_any_dtype_of_the_files(self, tiny: str, check: Check, dtype: torch.dtype) -> None:
        check(load_model(tiny, dtype))
        check(load_model(tiny, dtype).float())

    @pytest.mark.parametrize("how", ["in place", "data", "replaced", "loaded"])
    @pytest.mark.parametrize("before", [True, False])
    def test_edited(self, model: Any, check: Check, how: str, before: bool) -> None:
        if before:
            check(model)
        layer = model.model.layers[2].self_attn.o_proj
        if how == "in place":
            with torch.no_grad():
                layer.weight[3, 4] += 1.0
        elif how == "data":
            layer.weight.data.mul_(1.5)
        elif how == "replaced":
            layer.weight = nn.Parameter(layer.weight * 1.5)
        else:
            state = {n: value * 1.5 if "o_proj" in n else value for n, value in model.state_dict().items()}
            model.load_state_dict(state)
        with pytest.raises(FingerprintError, match=r"changed in memory.*o_proj"):
            check(model)

    def test_put_back(self, model: Any, check: Check) -> None:
        state = copy.deepcopy(model.state_dict())
        nudge(model.model.norm.weight)
        with pytest.raises(FingerprintError):
            check(model)
        model.load_state_dict(state)
        check(model)

    def test_layers_gone_and_layers_more(self, tiny: str, check: Check) -> None:
        less, more = load_model(tiny), load_model(tiny)
        less.model.layers = less.model.layers[:2]
        more.model.layers[0].self_attn.gate = nn.Linear(4, 4)
        for model in (less, more):
            with pytest.raises(FingerprintError, match="differ from its files"):
                check(model)

    def test_a_folder_that_was_moved(self, tiny: str, check: Check, known: Identity) -> None:
        check(moved(load_model(tiny)))  # float32 of a float16 checkpoint
        check(moved(load_model(tiny, torch.float16)))
        edited = moved(load_model(tiny))
        nudge(edited.model.norm.weight)
        for expected in (None, known):
            with pytest.raises(FingerprintError, match="weights"):
                check(edited, expected)

    def test_rounded_and_moved_is_told_by_the_probe_alone(self, tiny: str, check: Check, known: Identity) -> None:
        rounded = moved(load_model(tiny, torch.bfloat16))
        with pytest.raises(FingerprintError, match=r"no probe.*check=False"):
            check(rounded)
        check(rounded, known)

    def test_an_empty_name_is_no_folder(self, tiny: str, check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
        from transformers import AutoConfig, AutoModelForCausalLM

        made = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(tiny)).float()
        made.name_or_path = ""
        monkeypatch.chdir(tiny)
        with pytest.raises(FingerprintError, match="not here to compare"):
            check(made)
        right = load_model(tiny)
        right.name_or_path = ""
        check(right)

    def test_a_relative_name_that_means_another_folder_now(
        self, tiny: str, tmp_path: Path, check: Check, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        right, other = load_model(tiny), load_model(tiny)
        nudge(other.model.norm.weight)
        other.save_pretrained(tmp_path / "model")
        shutil.copy(Path(tiny) / "tokenizer.json", tmp_path / "model")
        shutil.copy(Path(tiny) / "tokenizer_config.json", tmp_path / "model")
        monkeypatch.chdir(tmp_path)
        right.name_or_path = "model"
        check(right)
        other.name_or_path = "model"
        with pytest.raises(FingerprintError, match="weights"):
            check(other)

    @pytest.mark.parametrize(("bits", "near"), [(8, True), (2, False)])
    def test_quantised_is_told_by_the_probe(
        self, model: Any, check: Check, known: Identity, bits: int, near: bool
    ) -> None:
        for layer in model.model.layers:
            layer.mlp.up_proj = Quantised(layer.mlp.up_proj, bits)
        with pytest.raises(FingerprintError, match=r"up_proj.*no probe"):
            check(model)
        if near:
            check(model, known)
        else:
            with pytest.raises(FingerprintError, match="answers the probe otherwise"):
                check(model, known)

    def test_a_model_in_training_is_asked_without_dropout_and_left_in_training(
        self, model: Any, check: Check, known: Identity
    ) -> None:
        model.model.layers[0].mlp.up_proj = Quantised(model.model.layers[0].mlp.up_proj, 8)
        model.train()
        check(model, known)
        assert model.training and model.model.layers[0].training

    def test_large_models_are_looked_at_in_part(
        self, model: Any, check: Check, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(weights, "MOST_COMPARED", 10_000)
        check(copy.deepcopy(model))
        model.model.layers[1].mlp.down_proj.weight.data.mul_(1.01)
        with pytest.raises(FingerprintError, match="down_proj"):
            check(model)


class Quantised(nn.Module):
    """A linear layer with weights of a few bits."""

    def __init__(self, layer: nn.Linear, bits: int) -> None:
        super().__init__()
        self.scale = float(layer.weight.detach().abs().max()) / 2 ** (bits - 1)
        self.weight = nn.Parameter((layer.weight / self.scale).round().to(torch.int32), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight.to(x.dtype) * self.scale)


class TestTokenizer:
    """Tokens that were added."""

    @pytest.mark.parametrize("token", ["[PAD]", "<pad>", "<|pad|>", "<unk>"])  # some stand in the probes
    def test_a_padding_token(self, model: Any, tokenizer: Any, owner: Any, token: str) -> None:
        check_model(model, tokenizer, owner)
        tokenizer.add_special_tokens({"pad_token": token})
        check_model(model, tokenizer, owner)

    def test_a_model_made_larger_for_it(self, tiny: str, tokenizer: Any, owner: Any, known: Identity) -> None:
        tokenizer.add_special_tokens({"pad_token": "[PAD]", "additional_special_tokens": ["<a>", "<b>"]})
        for model in (load_model(tiny), moved(load_model(tiny))):
            model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
            check_model(model, tokenizer, owner)
            nudge(model.get_input_embeddings().weight)
            with pytest.raises(FingerprintError, match="weights"):
                check_model(model, tokenizer, known)

    @pytest.mark.parametrize(
        "add",
        [
            lambda t: t.add_tokens(["truth"]),
            lambda t: t.add_special_tokens({"pad_token": "truth"}),
            lambda t: t.add_special_tokens({"pad_token": "..."}),
            lambda t: (t.add_special_tokens({"pad_token": "[PAD]"}), t.add_tokens(["truth"])),
            lambda t: (t.add_tokens(["truth"]), t.add_special_tokens({"pad_token": "[PAD]"})),
        ],
    )
    @pytest.mark.parametrize("before", [True, False])
    def test_tokens_that_split_text_otherwise(
        self, model: Any, tokenizer: Any, known: Identity, add: Any, before: bool
    ) -> None:
        if before:
            check_model(model, tokenizer, known)
        add(tokenizer)
        for expected in (known, known.fingerprint):
            with pytest.raises(FingerprintError, match="vocabulary"):
                check_model(model, tokenizer, expected)

    def test_another_normaliser(self, model: Any, tokenizer: Any, owner: Any) -> None:
        from tokenizers import normalizers

        check_model(model, tokenizer, owner)
        tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
        with pytest.raises(FingerprintError, match="probe"):
            check_model(model, tokenizer, owner)


@pytest.mark.parametrize("where", ["cpu", "disk"])
def test_what_accelerate_keeps_outside_is_compared_too(
    model: Any, tokenizer: Any, owner: Any, where: str, tmp_path: Path
) -> None:
    import accelerate

    def offloaded(one: Any) -> Any:
        options = {"execution_device": torch.device("cpu")}
        if where == "cpu":
            return accelerate.cpu_offload(one, **options)
        return accelerate.disk_offload(one, tmp_path / str(id(one)), **options)

    edited = copy.deepcopy(model)
    nudge(edited.model.layers[0].self_attn.q_proj.weight)
    check_model(offloaded(model), tokenizer, owner)
    with pytest.raises(FingerprintError, match="q_proj"):
        check_model(offloaded(edited), tokenizer, owner)


def test_memvec_loads_a_model_also_where_transformers_was_left_tying_none(
    tiny: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import PreTrainedModel

    from memvec.lm.load import load

    # So it stays once two threads of a program have loaded models with transformers at the same time.
    monkeypatch.setattr(PreTrainedModel, "tie_weights", lambda *args, **options: None)
    lm = load(Path(tiny))
    assert lm.head is lm.table


def test_the_second_look_is_cheap(model: Any, tokenizer: Any, owner: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    check_model(model, tokenizer, owner)
    for module, name in ((identity, "fingerprint_folder"), (weights, "with_files"), (traits, "vocabulary_of")):
        monkeypatch.setattr(module, name, None)  # files, values and the vocabulary are left alone
    check_model(model, tokenizer, owner)
    check_model(torch.compile(model, backend="eager"), tokenizer, owner)
    with pytest.raises(TypeError):
        check_model(copy.deepcopy(model), tokenizer, owner)  # another object


def test_nothing_is_kept_of_a_model_that_is_gone(tiny: str, tokenizer: Any, owner: Any) -> None:
    import gc
    import weakref

    model = load_model(tiny)
    check_model(model, tokenizer, owner)
    gone = weakref.ref(model), weakref.ref(model.model.norm.weight)
    del model
    gc.collect()
    assert gone[0]() is None and gone[1]() is None


def test_a_memory_knows_the_probe_of_its_store(memories: Path) -> None:
    both = load(memories, ["a.txt"]) + load(memories, ["b.txt"])
    assert both.identity.probe == Store.open(memories).manifest.probe and both.probe["text"]
