"""Devices and dtypes are chosen by name, or by what the machine has."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from memvec.errors import UsageError
from memvec.lm import device
from memvec.lm.device import AUTO, fast_dtype, free_bytes, main_device, pick_device, pick_dtype, resident_bytes


class TestDevice:
    @pytest.mark.parametrize("there", [False, True])
    def test_default(self, there: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
        assert pick_device(None) == ("cuda" if there else "cpu")

    @pytest.mark.parametrize("there", [False, True])
    def test_auto(self, there: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        """It stays "auto" until a model is loaded, and computes on the default device."""
        monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
        assert pick_device("auto") == AUTO
        assert main_device(AUTO) == ("cuda" if there else "cpu") and main_device("cuda:1") == "cuda:1"
        assert pick_dtype(None, AUTO) is fast_dtype("cuda" if there else "cpu")

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


class TestFree:
    """Memory of the machine."""

    def test_machine(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setattr(device, "CGROUPS", tmp_path)  # no limits
        there = psutil.virtual_memory().available
        assert 0.8 * there < free_bytes(torch.device("cpu")) < 1.2 * there

    @pytest.mark.parametrize(
        ("listed", "folder", "files"),
        [
            ("0::/jobs/one", "jobs", ("memory.max", "memory.current", "inactive_file")),
            (
                "3:cpuset:/jobs\n4:cpu,memory:/jobs/one",
                "memory/jobs",
                ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
            ),
        ],
    )
    def test_containers(self, listed: str, folder: str, files: tuple[str, str, str], tmp_path: Path) -> None:
        """The least that the limits of a control group and of those around it leave. Cached files can be dropped."""

        def limited(group: Path, *values: int | str) -> None:
            group.mkdir(parents=True, exist_ok=True)
            for name, value in zip((files[0], files[1], "memory.stat"), values, strict=True):
                (group / name).write_text(f"{value}\n")

        (tmp_path / "listed").write_text(f"{listed}\n")
        limited(tmp_path / folder / "one", "max", 70, f"anon 40\n{files[2]} 30")
        assert device._left_in_cgroups(tmp_path / "listed", tmp_path) == []
        limited(tmp_path / folder, 100, 90, f"anon 60\n{files[2]} 30")
        assert device._left_in_cgroups(tmp_path / "listed", tmp_path) == [40]
        limited(tmp_path / folder / "one", 80, 70, f"anon 70\n{files[2]} 0")
        assert sorted(device._left_in_cgroups(tmp_path / "listed", tmp_path)) == [10, 40]

    def test_other_systems(self, tmp_path: Path) -> None:
        assert device._left_in_cgroups(tmp_path / "nothing", tmp_path) == []


def test_memory_of_the_process() -> None:
    """Pages of their own: the heap may hand out memory that another test has freed."""
    before, size = resident_bytes(), 200_000_000
    with mmap.mmap(-1, size) as held:
        held[:: mmap.PAGESIZE] = b"1" * len(held[:: mmap.PAGESIZE])
        assert 0.9 * size < resident_bytes() - before < 1.5 * size


def test_memory_where_the_system_does_not_say(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(path: Path) -> str:
        raise FileNotFoundError(path)

    monkeypatch.setattr(Path, "read_text", missing)
    assert resident_bytes() == 0
