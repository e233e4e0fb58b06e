"""Devices and dtypes are chosen by name, or by what the machine has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from memvec.errors import UsageError
from memvec.lm.device import fast_dtype, free_bytes, pick_device, pick_dtype, resident_bytes


class TestDevice:
    @pytest.mark.parametrize("there", [False, True])
    def test_default(self, there: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
        assert pick_device(None) == ("cuda" if there else "cpu")

    def test_unknown(self) -> None:
        assert pick_device("cpu") == "cpu"
        with pytest.raises(UsageError, match="device 'nowhere' cannot be used"):
            pick_device("nowhere")

    def test_an_error_without_a_message(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The error names the class instead."""

        def failing(*_: Any, **__: Any) -> None:
            raise AssertionError

        monkeypatch.setattr(torch, "ones", failing)
        with pytest.raises(UsageError, match=r"cannot be used here \(AssertionError\)"):
            pick_device("xpu")

    def test_full(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A device without free memory is no unknown device."""

        def full(*_: Any, **__: Any) -> None:
            raise torch.OutOfMemoryError("CUDA out of memory.")

        monkeypatch.setattr(torch, "ones", full)
        with pytest.raises(torch.OutOfMemoryError):
            pick_device("cuda")


class TestDtype:
    def test_by_name(self) -> None:
        assert pick_dtype("bfloat16", "cpu") is torch.bfloat16 and pick_dtype("float32", "cpu") is torch.float32
        assert pick_dtype(None, "cpu") is fast_dtype("cpu")

    @pytest.mark.parametrize(
        ("flags", "dtype"), [("amx_bf16 sse", torch.bfloat16), ("avx512_bf16", torch.bfloat16), ("sse", torch.float32)]
    )
    def test_of_a_cpu(self, flags: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("os.path.exists", lambda _: True)
        monkeypatch.setattr(Path, "read_text", lambda _: flags)
        assert fast_dtype() is dtype

    @pytest.mark.parametrize("supported", [False, True])
    def test_of_a_gpu(self, supported: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: supported)
        assert fast_dtype("cuda:1") is (torch.bfloat16 if supported else torch.float32)


def test_free_memory_counts_the_reserve(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 50)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 30)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (1000, 2000))
    assert free_bytes(torch.device("cuda")) == 1020


def test_memory_of_the_process() -> None:
    before = resident_bytes()
    held = torch.ones(50_000_000)
    assert 0.9 * held.nbytes < resident_bytes() - before < 1.5 * held.nbytes


def test_memory_where_the_system_does_not_say(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(path: Path) -> str:
        raise FileNotFoundError(path)

    monkeypatch.setattr(Path, "read_text", missing)
    assert resident_bytes() == 0
