"""Models kept loaded: one for each checkpoint, as long as its files stay, shared by every caller and dropped on demand."""

from __future__ import annotations

import gc
import os
import random
import shutil
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

import memvec
from memvec.errors import OutOfMemoryError, UsageError
from memvec.identity import match as loading
from memvec.identity.match import load_lm
from memvec.lm import load as lm_load
from memvec.lm.load import check_model, load
from memvec.lm.numerics import declared_numerics, sampling

CPU = torch.device("cpu")


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Path]]:
    """The folders that models are loaded from, none of which is kept at first."""
    memvec.unload()
    seen: list[Path] = []
    original = lm_load._read

    def read(folder: Path, dtype: torch.dtype) -> tuple[Any, Any]:
        seen.append(folder)
        return original(folder, dtype)

    monkeypatch.setattr(lm_load, "_read", read)
    yield seen
    memvec.unload()


@pytest.fixture
def copies(tiny: str, tmp_path: Path) -> list[str]:
    return [shutil.copytree(tiny, tmp_path / name) for name in "abc"]


class TestShared:
    def test_every_verb_reads_with_one(self, loads: list[Path], remembering: Path, tiny: str) -> None:
        memvec.cat(remembering, "prose.txt", model=tiny)
        memvec.generate(remembering, "The carriage", "prose.txt", max_new_tokens=2, model=tiny)
        memvec.search(remembering, "wife", decode=True, model=tiny)
        memvec.verify(remembering, decode=True, sample=1, model=tiny)
        memvec.cat(remembering, "crlf.txt", model=tiny)
        assert len(loads) == 1

    def test_threads_that_ask_at_once_wait_for_one(self, loads: list[Path], tiny: str) -> None:
        known = memvec.fingerprint(tiny)
        with ThreadPoolExecutor(6) as threads:
            found = list(threads.map(lambda _: load_lm(known, tiny), range(12)))
        assert len(loads) == 1 and len(set(map(id, found))) == 1

    def test_a_pack_has_its_own(self, loads: list[Path], tiny: str, tmp_path: Path) -> None:
        """A fit changes what it runs on."""
        load_lm(memvec.fingerprint(tiny), tiny)
        memvec.pack([memvec.Source("d", b"x" * 3)], tmp_path / "s.memvec", model=tiny, dtype="float32")
        assert len(loads) == 2

    def test_a_changed_checkpoint_is_loaded_anew(self, loads: list[Path], copies: list[str]) -> None:
        folder = Path(copies[0])
        first = load_lm(memvec.fingerprint(copies[0]), copies[0])
        assert load_lm(memvec.fingerprint(copies[0]), copies[0]) is first
        data = bytearray((folder / "model.safetensors").read_bytes())
        data[-1] ^= 1  # a number's last byte
        (folder / "model.safetensors").write_bytes(data)
        second = load_lm(memvec.fingerprint(copies[0]), copies[0])
        assert second is not first and len(loading._models) == 1  # nobody asks for the old one again
        assert any(not a.equal(b) for a, b in zip(first.model.parameters(), second.model.parameters(), strict=True))

    def test_dtypes_are_apart(self, loads: list[Path], tiny: str) -> None:
        known = memvec.fingerprint(tiny).id
        kinds = [loading.shared(Path(tiny), kind, "cpu", known).dtype for kind in (torch.float32, torch.bfloat16)]
        assert kinds == [torch.float32, torch.bfloat16] and len(loads) == 2

    def test_only_so_many_are_kept(self, loads: list[Path], copies: list[str]) -> None:
        known = memvec.fingerprint(copies[0])
        assert loading.MOST_MODELS == 2
        a, b, _ = copies
        for name in (a, b, a, copies[2], a, b):  # b is the one that was not asked for longest
            load_lm(known, name)
        assert [folder.name for folder in loads] == ["a", "b", "c", "b"]


class TestUnload:
    def test_memory_is_free_again(self, loads: list[Path], tiny: str) -> None:
        gone = weakref.ref(load_lm(memvec.fingerprint(tiny), tiny).model)
        assert memvec.unload() == 1
        gc.collect()
        assert gone() is None
        assert memvec.unload() == 0
        load_lm(memvec.fingerprint(tiny), tiny)
        assert len(loads) == 2

    def test_the_newest_may_stay(self, loads: list[Path], copies: list[str]) -> None:
        known = memvec.fingerprint(copies[0])
        for name in copies[:2]:
            load_lm(known, name)
        assert memvec.unload(keep=1) == 1
        load_lm(known, copies[1])
        assert len(loads) == 2

    def test_fewer_than_none_are_refused(self) -> None:
        with pytest.raises(UsageError, match="keep is -1"):
            memvec.unload(-1)

    def test_nothing_loaded_needs_no_torch(self, tmp_path: Path) -> None:
        import subprocess
        import sys

        program = "import sys, memvec; print(memvec.unload(), 'torch' in sys.modules)"
        assert subprocess.check_output([sys.executable, "-c", program], text=True).split() == ["0", "False"]


class TestNumerics:
    def test_the_last_holder_restores_the_precision(self) -> None:
        torch.set_float32_matmul_precision("medium")
        try:
            inside, done = threading.Event(), threading.Event()

            def other() -> None:
                with declared_numerics(CPU):
                    inside.set()
                    assert done.wait(60)

            thread = threading.Thread(target=other)
            with declared_numerics(CPU):
                thread.start()
                assert inside.wait(60)
            assert torch.get_float32_matmul_precision() == "highest"  # the other thread is still at it
            done.set()
            thread.join()
            assert torch.get_float32_matmul_precision() == "medium"
        finally:
            torch.set_float32_matmul_precision("highest")

    def test_a_setting_made_meanwhile_stays(self) -> None:
        try:
            with declared_numerics(CPU):
                torch.set_float32_matmul_precision("high")
            assert torch.get_float32_matmul_precision() == "high"
        finally:
            torch.set_float32_matmul_precision("highest")

    def test_a_seed_means_the_same_beside_others(self) -> None:
        def draw(seed: int) -> list[float]:
            with sampling(CPU, seed):
                return [float(torch.rand(1)) for _ in range(50)]

        alone = [draw(seed) for seed in range(8)]
        with ThreadPoolExecutor(8) as threads:
            assert list(threads.map(draw, range(8))) == alone

    def test_the_random_numbers_of_the_host_program_go_on(self, remembering: Path, tiny: str) -> None:
        for sample in (False, True):
            torch.manual_seed(3)
            wanted = [float(torch.rand(1)) for _ in range(2)]
            torch.manual_seed(3)
            found = [float(torch.rand(1))]
            memvec.generate(remembering, "The", "prose.txt", max_new_tokens=2, model=tiny, sample=sample)
            assert [*found, float(torch.rand(1))] == wanted


class TestReading:
    def test_tokenizers_keep_their_settings(self, tiny_lm: Any) -> None:
        """Fast tokenizers hold some arguments of a call as state, which another thread's call would then obey."""
        from memvec.templates.template import frame

        text = "<|end|> is text, and so are words"
        ids = tiny_lm.encode(text), frame(tiny_lm.tokenizer, text).after
        assert tuple(ids[0]) != ids[1][-len(ids[0]) :]  # the two ways differ here
        told = threading.Event()

        def other() -> None:
            while not told.is_set():
                frame(tiny_lm.tokenizer, text)

        thread = threading.Thread(target=other)
        thread.start()
        try:
            assert all(tiny_lm.encode(text) == ids[0] for _ in range(300))
        finally:
            told.set()
            thread.join()

    @pytest.mark.parametrize("kind", ["dynamic", "longrope"])
    def test_rotary_positions_do_not_depend_on_what_else_is_read(self, kind: str) -> None:
        from transformers import LlamaConfig, LlamaForCausalLM

        from memvec.lm.compat import isolate

        rope: dict[str, Any] = {"rope_type": kind, "rope_theta": 10_000.0, "factor": 4.0}
        if kind == "longrope":
            rope |= {"short_factor": [1.0] * 8, "long_factor": [3.0] * 8, "original_max_position_embeddings": 16}
        config = LlamaConfig(
            vocab_size=64, hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
            max_position_embeddings=64 if kind == "longrope" else 16, rope_parameters=rope,
        )  # fmt: skip
        torch.manual_seed(0)
        model = LlamaForCausalLM(config).eval()
        isolate(model)

        def read(length: int) -> torch.Tensor:
            with torch.inference_mode():
                said: torch.Tensor = model(torch.arange(length)[None] % 64).logits
            return said

        lengths = [10, 60, 20, 40]
        fresh = []
        for length in lengths:
            torch.manual_seed(0)
            model = LlamaForCausalLM(config).eval()
            fresh.append(read(length))
        isolate(model)
        order = lengths * 20
        random.Random(0).shuffle(order)
        with ThreadPoolExecutor(4) as threads:
            for length, said in zip(order, threads.map(read, order), strict=True):
                assert torch.equal(said, fresh[lengths.index(length)]), length

    def test_a_kept_index_is_mapped_once(self) -> None:
        import numpy as np

        from memvec.retrieval.faiss_index import VectorIndex

        values = np.random.default_rng(0).standard_normal((400, 8)).astype(np.float32)
        for _ in range(5):
            index = VectorIndex.build(values, "IVF4,Flat")
            numbers = np.arange(400)
            with ThreadPoolExecutor(8) as threads:
                found = list(threads.map(lambda _, i=index, n=numbers: i.vectors(n), range(16)))
            assert all(np.array_equal(part, found[0]) for part in found)

    def test_word_scores_are_those_of_the_query(self) -> None:
        import numpy as np

        from memvec.retrieval.lookup import TermLookup

        lookup = TermLookup.__new__(TermLookup)
        lookup._last = None

        class Slow:
            def scores(self, terms: list[int]) -> Any:
                threading.Event().wait(0.001)
                return np.array(terms, np.float32)

        lookup._inverted = Slow()  # type: ignore[assignment]

        def ask(number: int) -> bool:
            query: Any = type("Query", (), {"terms": np.array([number], np.uint64)})()
            return all(lookup.scores(query, np.zeros(1, np.int64))[0] == number for _ in range(50))

        with ThreadPoolExecutor(4) as threads:
            assert all(threads.map(ask, range(4)))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_is_not_locked_out() -> None:
    from memvec.guard import loading_alone

    held, done = threading.Event(), threading.Event()

    def other() -> None:
        with loading_alone():
            held.set()
            done.wait(60)

    thread = threading.Thread(target=other)
    thread.start()
    held.wait(60)
    child = os.fork()
    if not child:
        worked = threading.Event()

        def load() -> None:
            with loading_alone():
                worked.set()

        threading.Thread(target=load, daemon=True).start()
        os._exit(0 if worked.wait(10) else 1)
    try:
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    finally:
        done.set()
        thread.join()


class TestOutOfMemory:
    @pytest.mark.parametrize(
        "error",
        [
            MemoryError(),
            RuntimeError("[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory"),
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
            OSError(12, "Cannot allocate memory"),
        ],
    )
    def test_loading_says_so(self, error: Exception, tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: Any, **__: Any) -> None:
            raise error

        monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", refuse)
        with pytest.raises(OutOfMemoryError, match=r"not enough memory to load .*memvec\.unload") as caught:
            load(Path(tiny))
        assert isinstance(caught.value, MemoryError) and caught.value.exit_code == 11
        assert caught.value.__cause__ is error

    def test_a_model_is_not_refused_for_it(self, tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
        lm = load(Path(tiny))

        def refuse(*_: Any) -> None:
            raise RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes.")

        monkeypatch.setattr(lm, "embed", refuse)
        with pytest.raises(RuntimeError, match="DefaultCPUAllocator"):
            check_model(lm)

    def test_a_mistake_of_memvec_is_not_the_models(self, tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("memvec.lm.load.TOKENS", "eight")
        with pytest.raises(TypeError):
            load(Path(tiny))

    def test_decoding_says_so(self, packed: Path, tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: Any) -> None:
            raise torch.OutOfMemoryError("CUDA out of memory.")

        monkeypatch.setattr("memvec.decoding.greedy.decode", refuse)
        with pytest.raises(OutOfMemoryError, match="not enough memory to decode 2 records at once"):
            memvec.cat(packed, "crlf.txt", model=tiny, batch=2)
