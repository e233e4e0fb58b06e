"""One copy of weights in 16 bits computes in float32 what a float32 copy computes, to the bit."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from families import FAMILIES, VARIANTS, make
from safetensors.torch import load_file, save_file

import memvec
from memvec.decoding.greedy import decode, measure
from memvec.lm.frozen import FrozenLM
from memvec.lm.load import in_float32, load
from memvec.lm.widen import Widened, weights_bytes
from memvec.memory.memory import load as load_memory

TEXT = "The ferry leaves from the north pier at seven, and comes back at nine."
STATES = {"mamba", "rwkv"}  # memvec runs them in float32 always


def narrow(folder: Path, target: Path, dtype: torch.dtype = torch.bfloat16) -> Path:
    """A copy of a checkpoint whose weights are stored in `dtype`."""
    shutil.copytree(folder, target)
    file = target / "model.safetensors"
    save_file({name: value.to(dtype) for name, value in load_file(file).items()}, file, {"format": "pt"})
    return target


@pytest.fixture(scope="module")
def stored(tiny: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny LM as hubs have models: in bfloat16."""
    return narrow(Path(tiny), tmp_path_factory.mktemp("stored") / "model")


def wide_bytes(lm: FrozenLM) -> int:
    """Bytes of weights that are there in float32."""
    return sum(w.nbytes for w in lm.model.parameters() if not isinstance(w, Widened) and w.dtype == torch.float32)


@pytest.mark.parametrize("name", sorted((FAMILIES | VARIANTS).keys() - STATES))
def test_families(name: str, tmp_path: Path) -> None:
    """Hidden states, logits behind a cache, and gradients."""
    folder = narrow(make(name, tmp_path / "made"), tmp_path / "stored")
    fast, full = load(folder, torch.bfloat16), load(folder)
    lean = in_float32(fast, folder)
    assert (lean.dtype, lean.scale) == (full.dtype, full.scale)
    assert lean.model.config._attn_implementation == full.model.config._attn_implementation
    assert any(isinstance(weight, Widened) for weight in lean.model.parameters())
    ids = torch.tensor([fast.encode(TEXT)])
    found = []
    for lm in (lean, full):
        embeds = lm.embed(ids).requires_grad_()
        hidden = lm.hidden(embeds)
        (hidden @ lm.head.T).logsumexp(-1).sum().backward()
        logits, cache = lm.start(lm.embed(ids))
        found.append((hidden, embeds.grad, logits, lm.advance(ids[:, 0], cache)[0]))
    for ours, theirs in zip(*found, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_memory(dtype: torch.dtype, tiny: str, tmp_path: Path) -> None:
    """No weight is copied: neither into float32, nor for a second model of the same dtype."""
    folder = narrow(Path(tiny), tmp_path / "model", dtype)
    fast = load(folder, torch.bfloat16)
    lean = in_float32(fast, folder)
    assert wide_bytes(lean) == 0
    assert wide_bytes(load(folder)) > 0
    shared = lean.table.stored.data_ptr() == fast.table.data_ptr()  # type: ignore[attr-defined]
    assert shared == (dtype == torch.bfloat16)
    assert torch.equal(lean.table.float(), load(folder).table)
    own, largest = sum(w.nbytes for w in fast.model.parameters()), fast.table.nbytes * 2
    assert weights_bytes(fast, lean) == own * (1 if shared else 2) + largest
    assert weights_bytes(fast, load(folder)) == own * 3
    assert lean.splitter is fast.splitter  # Gemma's takes 300 MB


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_memory_for_gradients(name: str, tmp_path: Path) -> None:
    """What a forward pass stores for its backward pass holds no float32 copy of a weight."""
    folder = narrow(make(name, tmp_path / "made"), tmp_path / "stored")
    lean = in_float32(load(folder, torch.bfloat16), folder)
    shapes = {tuple(shape) for w in lean.model.parameters() if w.dim() == 2 for shape in (w.shape, w.T.shape)}
    saved: list[torch.Tensor] = []

    def note(value: torch.Tensor) -> torch.Tensor:
        saved.append(value)
        return value

    with torch.autograd.graph.saved_tensors_hooks(note, lambda value: value):
        lean.hidden(torch.zeros(1, 3, lean.width).requires_grad_())
    weights = [value for value in saved if tuple(value.shape) in shapes]
    assert weights and all(isinstance(value, Widened) for value in weights)


def test_weights_of_several_dtypes(stored: Path, tmp_path: Path) -> None:
    """What is stored in float32 is not taken from a model in bfloat16."""
    folder = Path(shutil.copytree(stored, tmp_path / "mixed"))
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if name.endswith("norm.weight"))
    weights[name] = weights[name].float() * (1 + 2**-12)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    exact = in_float32(load(folder, torch.bfloat16), folder)
    assert torch.equal(exact.model.get_parameter(name), weights[name])


def test_float32_is_itself(tiny_lm: FrozenLM, tiny: str) -> None:
    assert in_float32(tiny_lm, Path(tiny)) is tiny_lm


def test_decoding(stored: Path) -> None:
    fast, full = load(stored, torch.bfloat16), load(stored)
    lean = in_float32(fast, stored)
    chance = torch.Generator().manual_seed(0)
    vectors = [torch.randn(3, lean.width, generator=chance).half().numpy() for _ in range(5)]
    ids = [full.encode(TEXT)[: 4 + number] for number in range(5)]
    assert measure(lean, vectors, ids) == measure(full, vectors, ids)
    lengths, nothing = [len(one) for one in ids], [()] * 5
    assert decode(lean, vectors, lengths, nothing) == decode(full, vectors, lengths, nothing)


def test_a_pack(stored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It makes the same records with one copy as with two, and they decode."""
    settings = memvec.PackSettings(max_steps=40, segment_tokens=16)
    source = [memvec.Source("a", TEXT.encode())]

    def packed(name: str) -> bytes:
        memvec.pack(source, tmp_path / name, model=str(stored), settings=settings, dtype="bfloat16")
        assert memvec.unpack(tmp_path / name, tmp_path / f"{name} out").documents == 1
        return load_memory(tmp_path / name, "a", "exact").vectors.tobytes()

    lean = packed("lean")
    monkeypatch.setattr("memvec.packing.pack.in_float32", lambda lm, folder: load(folder))
    assert packed("full") == lean


def test_short_memory(stored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where float32 weights would not fit, what reads a store runs with those in 16 bits, and says so."""
    store = tmp_path / "s"
    settings = memvec.PackSettings(max_steps=40, segment_tokens=16)
    memvec.pack([memvec.Source("a", TEXT.encode())], store, model=str(stored), settings=settings, dtype="bfloat16")
    wide = 2 * (stored / "model.safetensors").stat().st_size

    def opened(free: int) -> tuple[memvec.Runtime, list[str]]:
        stages = list[str]()
        memvec.unload()
        monkeypatch.setattr("memvec.lm.load.free_bytes", lambda _: free)
        runtime = memvec.open(store, watch=lambda at: stages.append(at.stage))
        assert runtime.lm.dtype == torch.float32
        return runtime, [stage for stage in stages if "in 16 bits" in stage]

    (plain, nothing), (lean, said) = opened(2 * wide), opened(wide)
    assert wide_bytes(plain.lm) > 0 and not nothing
    assert wide_bytes(lean.lm) == 0 and said
    assert memvec.cat(lean, "a") == TEXT.encode() and memvec.verify(lean, decode=True).ok
    answers = [memvec.generate(one, "The ferry", ["a"], using="text", max_new_tokens=8).text for one in (plain, lean)]
    assert answers[0] == answers[1]
