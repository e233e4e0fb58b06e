"""The tokens before a memory are run once, and again after anything they depend on has changed."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from loaded import load_model
from peft import LoraConfig, get_peft_model

from memvec.kv import before
from memvec.kv.before import MOST, run_before
from memvec.lm import compat

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`")  # PEFT asks for the old name

IDS = [5, 9, 40, 7, 12]


@pytest.fixture
def model(tiny: str) -> Any:
    """The tiny LM as users load it."""
    return load_model(tiny)


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The tokens of every run, in order."""
    seen: list[tuple[int, ...]] = []
    real = before._run
    monkeypatch.setattr(before, "_run", lambda model, ids: seen.append(ids) or real(model, ids))
    return seen


def fresh(model: Any, ids: list[int]) -> list[torch.Tensor]:
    """Keys of each layer (1, H, P, E) of a plain pass."""
    with torch.no_grad():
        cache = compat.cache_of(model(input_ids=torch.tensor([ids]), use_cache=True))
    return [layer.keys for layer in cache.layers]


def keys(model: Any, *rows: list[int]) -> torch.Tensor:
    """Keys (L, B, H, P, E) of rows of tokens."""
    found, _ = run_before(model, rows)
    assert found is not None
    return found[0]


def right(model: Any) -> bool:
    """Are the keys those of the model as it is now?"""
    return torch.allclose(keys(model, IDS), torch.stack(fresh(model, IDS)), atol=1e-6, rtol=1e-5)


def test_rows(model: Any, runs: list[Any]) -> None:
    """Rows are padded on the left. Each has the numbers it has alone, to the bit, and equal ones are run once."""
    found, held = run_before(model, [IDS, [], IDS[:2], IDS])
    assert found is not None and sorted(map(len, runs)) == [2, 5]
    assert held.tolist() == [[1] * 5, [0] * 5, [0, 0, 0, 1, 1], [1] * 5]
    for part, alone, short in zip(
        found, run_before(model, [IDS])[0] or (), run_before(model, [IDS[:2]])[0] or (), strict=True
    ):
        assert torch.equal(part[:, [0]], alone) and torch.equal(part[:, [3]], alone)
        assert torch.equal(part[:, [2], :, 3:], short)
    torch.testing.assert_close(found[0][:, [0]], torch.stack(fresh(model, IDS)))
    assert run_before(model, [[], []])[0] is None


def test_they_are_run_once(model: Any, runs: list[Any]) -> None:
    """The second time nothing is run, and the numbers are the same."""
    first = keys(model, IDS)
    assert torch.equal(keys(model, IDS), first) and len(runs) == 1
    keys(model, IDS, [3])
    assert len(runs) == 2


def test_room(model: Any, runs: list[Any]) -> None:
    """Few tokens are kept. A row that is too long is run every time."""
    many = [[n + 1, *range(1, MOST // 4)] for n in range(5)]
    for row in many:
        keys(model, row)
    keys(model, many[-1])
    assert len(runs) == 5
    keys(model, many[0])
    assert len(runs) == 6
    for _ in range(2):
        keys(model, list(range(1, MOST + 2)))
    assert len(runs) == 8


def test_they_go_with_the_model(tiny: str) -> None:
    """Nothing holds a model that is used no more."""
    model = load_model(tiny)
    keys(model, IDS)
    kept = weakref.ref(model), weakref.ref(before._KEPT[model].runs[tuple(IDS)][0])
    del model
    gc.collect()
    assert kept[0]() is None and kept[1]() is None


def test_they_can_be_used_in_training(model: Any) -> None:
    """Also if they were made in inference mode."""
    with torch.inference_mode():
        keys(model, IDS)
    weight = torch.ones(1, requires_grad=True)
    (keys(model, IDS) * weight).sum().backward()
    assert weight.grad is not None


def written(model: Any) -> None:
    """As an optimiser writes."""
    with torch.no_grad():
        model.model.layers[0].self_attn.k_proj.weight.mul_(1.5)


def merged(model: Any) -> None:
    """As PEFT merges: no version counter changes."""
    weight = model.model.layers[0].self_attn.k_proj.weight
    weight.data = weight.data * 1.5


def written_unseen(model: Any) -> None:
    """Through `data`, at the same address."""
    model.model.layers[0].self_attn.k_proj.weight.data.mul_(1.5)


def added(model: Any) -> None:
    """An adapter."""
    get_peft_model(model, LoraConfig(r=2, target_modules=["k_proj"], init_lora_weights=False))


def hooked(model: Any) -> None:
    """As tools that steer a model do."""
    model.model.layers[0].register_forward_pre_hook(lambda module, given: (given[0] + 1.0, *given[1:]))


def patched(model: Any) -> None:
    """A method of one layer."""
    layer = model.model.layers[0]
    own = layer.forward
    layer.forward = lambda hidden, *given, **named: own(hidden + 1.0, *given, **named)


def another_activation(model: Any) -> None:
    """A module without weights."""
    model.model.layers[0].mlp.act_fn = torch.nn.Tanh()


def turned_faster(model: Any) -> None:
    """The frequencies of the rotation."""
    model.model.rotary_emb.inv_freq.mul_(2.0)


def rounded(model: Any) -> None:
    """Another dtype."""
    model.half().float()


CHANGES: list[Callable[[Any], None]] = [
    written, merged, written_unseen, added, hooked, patched, another_activation, turned_faster, rounded,
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: str(change.__name__))
def test_a_changed_model(model: Any, change: Callable[[Any], None]) -> None:
    """What was kept is not used."""
    first = keys(model, IDS)
    change(model)
    assert right(model)
    assert not torch.equal(keys(model, IDS), first)


def test_a_hook_for_all_modules(model: Any) -> None:
    """It is in no module."""
    first, layer = keys(model, IDS), model.model.layers[0]
    hook = torch.nn.modules.module.register_module_forward_pre_hook(
        lambda module, given: (given[0] + 1.0, *given[1:]) if module is layer else None
    )
    try:
        assert right(model) and not torch.equal(keys(model, IDS), first)
    finally:
        hook.remove()


def test_a_patched_class(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A method of all layers of a kind."""
    first, kind = keys(model, IDS), type(model.model.layers[0])
    own = kind.forward
    monkeypatch.setattr(kind, "forward", lambda self, hidden, *given, **named: own(self, hidden + 1.0, *given, **named))
    assert right(model) and not torch.equal(keys(model, IDS), first)


def test_an_adapter_switched_off_and_on(model: Any, runs: list[Any]) -> None:
    """Only what is run without it is kept."""
    plain = keys(model, IDS)
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["k_proj"], init_lora_weights=False)).eval()
    for _ in range(2):
        assert right(model) and not torch.equal(keys(model, IDS), plain)
        with adapted.disable_adapter():
            assert torch.equal(keys(model, IDS), plain)
    assert len(runs) == 6  # without the adapter twice: before it was there, and behind it


@pytest.mark.parametrize(
    "within",
    [lambda model: model.train(), lambda model: torch.set_float32_matmul_precision("medium")],
    ids=["training", "arithmetic"],
)
def test_another_mode(model: Any, runs: list[Any], within: Callable[[Any], Any]) -> None:
    """They are run again."""
    precision = torch.get_float32_matmul_precision()
    keys(model, IDS)
    try:
        within(model)
        keys(model, IDS)
    finally:
        torch.set_float32_matmul_precision(precision)
    assert len(runs) == 2


def test_another_attention(model: Any, runs: list[Any]) -> None:
    """They are run again with it."""
    keys(model, IDS)
    model.set_attn_implementation("eager")
    keys(model, IDS)
    with torch.autocast("cpu", torch.bfloat16):
        keys(model, IDS)
    assert len(runs) == 3


def test_a_model_that_changes_in_the_middle(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What came of it is not kept."""
    real = before._run

    def run(model: Any, ids: tuple[int, ...]) -> Any:
        found = real(model, ids)
        written(model)
        return found

    monkeypatch.setattr(before, "_run", run)
    keys(model, IDS)
    monkeypatch.undo()
    assert right(model)
