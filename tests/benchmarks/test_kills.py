"""A short run of benchmarks/kills.py, which kills every verb."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

KILLS = Path(__file__).parents[2] / "benchmarks" / "kills.py"


@pytest.mark.skipif(sys.platform != "linux", reason="forks a process that has loaded torch")
def test_short_run(tmp_path: Path) -> None:
    command = [sys.executable, KILLS, "--kills", "12", "--seed", "4", "--json", tmp_path / "kills.json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "kills.json").read_text())
    assert found["kills"] == sum(sum(counts.values()) for counts in found["by_verb_and_moment"].values()) == 12
    assert len(found["by_verb_and_moment"]) >= 4 and "12 kills, nothing lost" in done.stdout
