"""Layers whose weights or activations do not fit: every number is that of the whole model in memory, to the bit."""

from __future__ import annotations

import gc
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from families import CORPUS, make
from reading import prose
from torch import Tensor

import memvec
from memvec.kv.compact import compact
from memvec.kv.refine import Recipe, Refiner, RefineTask
from memvec.lm import layers
from memvec.lm.frozen import FrozenLM
from memvec.lm.load import in_float32, load
from memvec.lm.scoring import Row
from memvec.lm.widen import layer_bytes, weights_bytes, widened
from memvec.settings import ContextSettings
from memvec.training.distill import DistilEngine, DistilTask

TEXT = "The ferry leaves from the north pier at seven, and comes back at nine."
OFFLOADED = ["falcon", "gemma3", "gpt2", "llama", "opt", "phimoe"]
DTYPES = [torch.float32, torch.bfloat16]


@pytest.fixture
def little(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Limit the memory that seems to be free."""
    return lambda free: monkeypatch.setattr("memvec.lm.load.free_bytes", lambda _: free)


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[Path]]:
    """The folders of offloaded weights that are there now."""
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    return lambda: sorted(place.glob("memvec-offload-*"))


def numbers(lm: FrozenLM) -> list[Tensor]:
    """Hidden states, gradients of input embeddings, and logits in front of a cache and behind it."""
    ids = torch.tensor([lm.encode(TEXT)] * 2)
    embeds = lm.embed(ids).requires_grad_()
    hidden = lm.hidden(embeds)
    (hidden @ lm.head.T).float().logsumexp(-1).sum().backward()
    logits, cache = lm.start(lm.embed(ids))
    assert embeds.grad is not None
    return [hidden.detach(), embeds.grad, logits, lm.advance(ids[:, 0], cache)[0]]


def same(ours: list[Tensor], theirs: list[Tensor]) -> bool:
    return all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))


def in_memory(lm: FrozenLM) -> int:
    """Bytes of the weights that are there between two passes."""
    return sum(weight.nbytes for weight in lm.model.parameters() if not weight.is_meta)


class TestOffloaded:
    """Weights that do not fit."""

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("name", OFFLOADED)
    def test_families(self, name: str, dtype: torch.dtype, tmp_path: Path, little: Any) -> None:
        """Also certified in float32. Behind a pass, no weight of an offloaded layer is left in memory."""
        folder = make(name, tmp_path / "made")
        plain, certifying = load(folder, dtype), load(folder)
        little(in_memory(plain))  # a quarter of it is for activations
        lm = load(folder, dtype, "auto")
        exact = in_float32(lm, folder)
        rest = in_memory(lm)
        assert (lm.offloads, exact.offloads, lm.device) == (True, True, plain.device)
        assert rest < in_memory(plain) and rest + layer_bytes(lm) <= in_memory(plain)
        assert same(numbers(lm), numbers(plain)) and same(numbers(exact), numbers(certifying))
        assert in_memory(lm) == rest

    def test_what_fits_is_not_offloaded(self, tiny: str, tiny_lm: FrozenLM) -> None:
        lm = load(Path(tiny), device="auto")
        assert not lm.offloads and not lm.recomputes and in_memory(lm) == in_memory(tiny_lm)

    def test_recurrent_models_stay(self, tmp_path: Path, little: Any) -> None:
        folder = make("mamba", tmp_path / "made")
        little(0)
        assert not load(folder, device="auto").offloads

    def test_a_pack(
        self, tiny: str, tmp_path: Path, tiny_settings: Any, records_of: Any, little: Any, folders: Any
    ) -> None:
        """The same vectors come out, and the same bytes."""
        text, stages = CORPUS.read_bytes()[:120], set[str]()

        def packed(name: str, device: str) -> tuple[bytes, ...]:
            store = tmp_path / name
            memvec.pack(
                [memvec.Source("a", text)], store, model=tiny, device=device, dtype="bfloat16",
                settings=tiny_settings(max_steps=20), watch=lambda at: stages.add(at.stage),
            )  # fmt: skip
            assert memvec.cat(store, "a", device=device) == text
            memvec.unload()
            return tuple(record.vectors.tobytes() for record in records_of(store))

        plain = packed("plain", "cpu")
        assert not [stage for stage in stages if "do not fit" in stage]
        little(1_600_000)
        assert packed("offloaded", "auto") == plain
        assert [stage for stage in stages if "3 of its layers do not fit on cpu" in stage]
        assert folders() == []

    def test_threads_share_a_model(self, tiny: str, tiny_lm: FrozenLM, little: Any) -> None:
        little(500_000)
        lm = load(Path(tiny), device="auto")
        expected, found = numbers(tiny_lm), list[list[Tensor]]()
        threads = [threading.Thread(target=lambda: found.append(numbers(lm))) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(found) == 4 and all(same(one, expected) for one in found)

    def test_the_folder(self, tmp_path: Path, little: Any, folders: Any) -> None:
        """Weights that the files hold in another layout are written again. The folder goes when the last copy goes."""
        folder = make("phimoe", tmp_path / "made")
        little(0)
        lm = load(folder, torch.bfloat16, "auto")
        exact = widened(lm)
        assert len(folders()) == 1
        del lm
        gc.collect()
        assert len(folders()) == 1
        assert exact.hidden(torch.zeros(1, 2, exact.width)).isfinite().all()
        del exact
        gc.collect()
        assert folders() == []

    def test_the_folder_after_an_error(self, folders: Any) -> None:
        def failing(folder: str) -> Any:
            Path(folder, "half.dat").write_bytes(b"a")
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            layers.offloaded(failing)
        assert folders() == []

    def test_peak_memory(self, tiny: str, little: Any) -> None:
        """A dry run counts what is in memory, and one layer of the rest."""
        folder = Path(tiny)
        fast = load(folder, torch.bfloat16)
        little(500_000)
        lm = load(folder, torch.bfloat16, "auto")
        a_layer = sum(weight.nbytes for weight in fast.model.model.layers[0].parameters())
        assert weights_bytes(lm) == in_memory(lm) + a_layer < weights_bytes(fast)


MEASURED = """
import ctypes, sys, torch
from pathlib import Path
from memvec.lm import load as loading
libc = ctypes.CDLL("libc.so.6")
loading.free_bytes = lambda _: 0

def taken():
    rows = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(rows["RssAnon"].split()[0]) * 1024

def run(device):
    libc.malloc_trim(0)
    before = taken()
    lm = loading.load(Path(sys.argv[1]), torch.bfloat16, device)
    hidden = lm.hidden(torch.zeros(1, 8, lm.width, dtype=lm.dtype).requires_grad_())
    return taken() - before

run("auto")  # imports and first calls take memory too
print(run("cpu"), run("auto"))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the memory of a process is read from /proc")
def test_memory(tmp_path: Path) -> None:
    """Between a forward and a backward pass, the weights of offloaded layers are not in memory."""
    folder = make("llama", tmp_path / "made", hidden_size=512, intermediate_size=2048, num_hidden_layers=6)
    weights = sum(file.stat().st_size for file in folder.glob("*.safetensors")) / 2
    said = subprocess.run([sys.executable, "-c", MEASURED, str(folder)], stdout=subprocess.PIPE, check=True).stdout
    whole, offloaded = map(int, said.split())
    assert whole > 0.9 * weights
    assert offloaded < 0.1 * weights


class TestPlaces:
    """Which layer goes where."""

    def test_order(self, tiny_lm: FrozenLM) -> None:
        """The device gets as many layers as it has room for beside the one that runs, then memory, then the disk."""
        model = tiny_lm.model
        a_layer = sum(weight.nbytes for weight in model.model.layers[0].parameters())
        beside = in_memory(tiny_lm) - 4 * a_layer
        found = layers.places(model, "cuda:1", beside + 2 * a_layer, a_layer)
        assert found is not None
        assert [found[f"model.layers.{n}"] for n in range(4)] == ["cuda:1", "cpu", "disk", "disk"]
        assert {place for name, place in found.items() if ".layers." not in name} == {"cuda:1"}
        assert layers.places(model, "cuda:1", beside + 4 * a_layer, 0) is None

    def test_every_weight_has_a_place(self, tmp_path: Path) -> None:
        """transformers refuses a device map that leaves one out."""
        model = load(make("opt", tmp_path / "made")).model
        names = layers.places(model, "cpu", 0, 0)
        assert names is not None
        for name, _ in model.named_parameters():
            assert [place for place in names if name == place or name.startswith(f"{place}.")]


@pytest.fixture
def recomputing(tiny: str) -> FrozenLM:
    """The tiny LM, which computes its activations again."""
    lm = load(Path(tiny))
    assert lm.recompute() and not lm.recompute()  # once for all
    return lm


class TestRecomputed:
    """Activations that do not fit."""

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("name", ["gpt_neox", "lfm2", "mistral", "qwen3"])
    def test_families(self, name: str, dtype: torch.dtype, tmp_path: Path) -> None:
        folder = make(name, tmp_path / "made")
        lm, plain = load(folder, dtype), load(folder, dtype)
        assert lm.recompute() and lm.recomputes and not lm.graphs
        assert same(numbers(lm), numbers(plain))

    def test_what_is_stored(self, recomputing: FrozenLM, tiny_lm: FrozenLM) -> None:
        """One value of the width for each position and layer, and what is behind the layers."""

        def stored(lm: FrozenLM) -> int:
            sizes: list[int] = []
            embeds = torch.zeros(2, 64, lm.width).requires_grad_()
            weights = {weight.data_ptr() for weight in lm.model.parameters()}

            def note(value: Tensor) -> Tensor:
                sizes.append(value.nbytes * (value.data_ptr() not in weights))
                return value

            with torch.autograd.graph.saved_tensors_hooks(note, lambda value: value):
                lm.hidden(embeds)
            return sum(sizes)

        layers_hold = stored(tiny_lm) - stored(recomputing)
        assert layers_hold > 4 * 2 * 64 * tiny_lm.width * 4 * 10  # ten values of the width, at the least

    def test_memories_behind_prefixes(self, recomputing: FrozenLM, tiny_lm: FrozenLM) -> None:
        """Distilling trains through a cache that grows. It grows in the first run of a layer only."""

        def distilled(lm: FrozenLM) -> list[bytes]:
            engine = DistilEngine(lm, ContextSettings(steps=3, span=16), [(0,)])
            engine.add(DistilTask(n, tuple(prose(lm, 60 + n)), 8, f"{n}") for n in range(2))
            return [done.vectors.tobytes() for batch in engine.run() for done in batch]

        assert distilled(recomputing) == distilled(tiny_lm)

    def test_keys_and_values(self, recomputing: FrozenLM, tiny_lm: FrozenLM) -> None:
        """Refining trains what stands in the cache itself."""

        def refined(lm: FrozenLM) -> list[Tensor]:
            ids = prose(lm, 64)
            rows = tuple(Row(tuple(ids[n : n + 8]), 4) for n in range(0, 48, 8))
            task = RefineTask(tuple(ids), compact(lm, [ids], 8)[0], (rows,))
            (kept,) = Refiner(lm, [[5, 9]], [rows], Recipe(steps=3)).run([task])
            return [kept.keys, kept.values]

        trained = refined(recomputing)
        assert same(trained, refined(tiny_lm))
        assert not torch.equal(trained[0], compact(tiny_lm, [prose(tiny_lm, 64)], 8)[0].keys)
