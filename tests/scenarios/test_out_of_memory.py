"""Every function raises the same error when memory runs out, whichever library reports it first."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import memvec
from memvec.causes import out_of_memory
from memvec.cli.main import run
from memvec.errors import OutOfMemoryError, UsageError
from memvec.evaluation.questions import Question

ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has 80 GiB of which 1 GiB is free."),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes."),
    RuntimeError("[enforce fail at alloc_cpu.cpp:75] data. DefaultCPUAllocator: not enough memory: you tried to allocate 4 bytes."),
    RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"),
    MemoryError(),
    OSError(12, "Cannot allocate memory"),
]  # fmt: skip
ASKED = [Question("prose.txt", "Who?", "He")]
FITS = "memvec.training.fit.FitEngine._step"
DECODES = "memvec.lm.frozen.FrozenLM.start"

# A verb, and where in it memory runs out.
VERBS: dict[str, tuple[str, Callable[[Path, Path, str], Any]]] = {
    "pack": (FITS, lambda s, new, m: memvec.pack([memvec.Source("a", b"The letter came too late.")], new, model=m)),
    "pack context": (
        "memvec.training.distill.DistilEngine.__init__",
        lambda s, new, m: memvec.pack([memvec.Source("a", b"The letter came too late.")], new, model=m, kind="context"),
    ),
    "estimate": (FITS, lambda s, new, m: memvec.estimate([memvec.Source("a", b"The letter came.")], new, model=m)),
    "capacity": (FITS, lambda s, new, m: memvec.capacity({}, random_words=True, count=1, model=m)),
    "calibrate": (FITS, lambda s, new, m: memvec.calibrate(m, {"a": "The letter came too late. " * 30}, segments=1)),
    "cat": (DECODES, lambda s, new, m: memvec.cat(s, "prose.txt")),
    "unpack": (DECODES, lambda s, new, m: memvec.unpack(s, new)),
    "unpack skip": (DECODES, lambda s, new, m: memvec.unpack(s, new, on_error="skip")),
    "read": (DECODES, lambda s, new, m: list(memvec.read(s))),
    "verify": (DECODES, lambda s, new, m: memvec.verify(s, decode=True)),
    "evaluate": ("memvec.evaluation.evaluate.embedded", lambda s, new, m: memvec.evaluate(s, ASKED)),
    "generate": ("memvec.memory.generate.embed", lambda s, new, m: memvec.generate(s, "Who?", "prose.txt")),
    "compare": ("memvec.memory.generate.embed", lambda s, new, m: memvec.compare(s, "Who?", "prose.txt")),
    "search": ("memvec.retrieval.lookup.VectorLookup.nearest", lambda s, new, m: memvec.search(s, "a wife")),
    "build index": ("memvec.retrieval.faiss_index.VectorIndex.build", lambda s, new, m: memvec.build_index(s)),
    "list documents": ("memvec.store.listing.answer", lambda s, new, m: memvec.documents(s)),
    "load": ("memvec.store.store.Store.record", lambda s, new, m: memvec.load_memory(s, "prose.txt")),
    "fingerprint": ("memvec.identity.fingerprint.identify", lambda s, new, m: memvec.fingerprint(m)),
}


CASES = [(verb, ERRORS[number % len(ERRORS)]) for number, verb in enumerate(VERBS)]
CASES += [("list documents", error) for error in ERRORS]


@pytest.mark.parametrize(("verb", "error"), CASES, ids=lambda value: str(value)[:32])
def test_every_verb_says_so(
    verb: str, error: Exception, remembering: Path, tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the verb that could not be done, what the system said, and what to make smaller."""

    def exhausted(*args: Any, **kwargs: Any) -> Any:
        raise error

    place, call = VERBS[verb]
    monkeypatch.setattr(place, exhausted)
    with pytest.raises(OutOfMemoryError, match=r"not enough memory to .*smaller batch") as caught:
        call(remembering, tmp_path / "new", tiny)
    assert caught.value.exit_code == 11 and isinstance(caught.value, MemoryError)
    assert caught.value.__cause__ is error
    assert "records at once" in caught.value.what if place == DECODES else caught.value.what in verb
    assert caught.value.reason == str(error).splitlines()[0][:200] if str(error) else not caught.value.reason


def test_a_real_allocation_that_fails() -> None:
    """What this version of torch says of a machine without enough memory is recognised."""
    with pytest.raises(RuntimeError) as caught:
        torch.empty(10**15)
    assert out_of_memory(caught.value)


@pytest.mark.parametrize(
    "error", [RuntimeError("mat1 and mat2 shapes"), ValueError("no"), OSError(28, "No space left")]
)
def test_other_errors_are_left_alone(error: Exception, packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*args: Any, **kwargs: Any) -> Any:
        raise error

    monkeypatch.setattr(DECODES, fails)
    with pytest.raises(type(error)) as caught:
        memvec.cat(packed, "prose.txt")
    assert caught.value is error


def test_the_program_ends_with_11(
    packed: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def exhausted(*args: Any, **kwargs: Any) -> Any:
        raise ERRORS[1]

    monkeypatch.setattr(DECODES, exhausted)
    assert run(["cat", str(packed), "prose.txt"]) == 11
    assert "not enough memory to decode" in (err := capsys.readouterr().err) and "unexpected" not in err


def test_a_device_whose_memory_is_full_is_not_a_wrong_device(monkeypatch: pytest.MonkeyPatch) -> None:
    from memvec.lm.device import pick_device

    def exhausted(*args: Any, **kwargs: Any) -> Any:
        raise ERRORS[0]

    with pytest.raises(UsageError, match="device 'nowhere' cannot be used"):
        pick_device("nowhere")
    monkeypatch.setattr(torch, "ones", exhausted)
    with pytest.raises(torch.OutOfMemoryError):
        pick_device("cuda")
