"""Choose the device and the dtype that a model runs in, and measure memory: what is free, and what the process takes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import psutil
import torch

from memvec.causes import first_line, out_of_memory
from memvec.errors import UsageError

AUTO = "auto"  # in place of a device: cuda if there is one, else cpu, and layers that do not fit there are offloaded
CGROUPS = Path("/sys/fs/cgroup")
CGROUP_FILES = {  # by the version of control groups: the limit, what is used, and the row of it that is cached files
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    2: ("memory.max", "memory.current", "inactive_file"),
}
KINDS = {"bfloat16": torch.bfloat16, "float32": torch.float32}


def pick_device(name: str | None) -> str:
    """Return `name` if the device works here, or AUTO; without a name, cuda if there is one, else cpu. UsageError."""
    if name == AUTO:
        return AUTO
    if name is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.ones(1, device=name).sum().item()  # a device that cannot compute raises here
    except (RuntimeError, AssertionError) as error:
        if out_of_memory(error):
            raise
        raise UsageError(f"device {name!r} cannot be used here ({first_line(error, 100)}).") from error
    return name


def main_device(name: str) -> str:
    """The device that computes, of one that `pick_device` returned."""
    return pick_device(None) if name == AUTO else name


def pick_dtype(name: str | None, device: str) -> torch.dtype:
    """Return the dtype to fit in. Public functions have checked `name`; without one it is the fast dtype."""
    return fast_dtype(device) if name is None else KINDS[name]


def fast_dtype(device: str = "cpu") -> torch.dtype:
    """Return bfloat16 if the processor multiplies it in hardware, else float32."""
    if main_device(device).startswith("cuda"):
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    flags = Path("/proc/cpuinfo").read_text() if os.path.exists("/proc/cpuinfo") else ""
    return torch.bfloat16 if "avx512_bf16" in flags or "amx_bf16" in flags else torch.float32


def free_bytes(device: torch.device) -> int:
    """Return how much memory of a device this process can still use [bytes], including what torch holds in reserve."""
    if device.type != "cuda":
        return min([int(psutil.virtual_memory().available), *_left_in_cgroups(Path("/proc/self/cgroup"), CGROUPS)])
    reserve = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(torch.cuda.mem_get_info(device)[0]) + reserve


def _left_in_cgroups(listed: Path, root: Path) -> list[int]:
    """What the limits of this process's control groups leave, as containers have them [bytes]. Cached files count as free."""
    try:
        lines = [line.split(":", 2) for line in listed.read_text().splitlines()]
    except OSError:  # not on Linux
        return []
    found = []
    for _, controllers, path in lines:
        version = 2 if not controllers else 1 if "memory" in controllers.split(",") else 0
        if not version:
            continue
        mounted, (limit, used, cached) = root / "memory" if version == 1 else root, CGROUP_FILES[version]
        group = mounted / path.lstrip("/")
        for inner in (group, *group.parents[: len(group.parts) - len(mounted.parts)]):
            try:
                most, now = int((inner / limit).read_text()), int((inner / used).read_text())
                stat = dict(line.split() for line in (inner / "memory.stat").read_text().splitlines())
            except (OSError, ValueError):  # there is no limit, or the group is not shown in this container
                continue
            found.append(max(0, most - now + int(stat.get(cached, 0))))
    return found


def resident_bytes() -> int:
    """Return how much memory this process takes now, mapped files included [bytes]. 0 where the system does not say."""
    try:
        pages = Path("/proc/self/statm").read_text().split()[1]
    except OSError:
        return 0
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def device_of(module: Any) -> torch.device:
    """The device of a module's input, also if accelerate offloads the module. UsageError if it has no weights."""
    device: torch.device = module.weight.device
    if device.type != "meta":
        return device
    execution = getattr(getattr(module, "_hf_hook", None), "execution_device", None)  # accelerate's, loads it when run
    if execution is None:
        raise UsageError(
            "the model's input embeddings are on the meta device, so it holds no weights. Load the checkpoint first."
        )
    return torch.device(execution)
