"""A huge number is accepted or a usage error, never a bug."""

from __future__ import annotations

from pathlib import Path

from memvec.cli.main import run


def test_memory(tmp_path: Path, tiny: str) -> None:
    (tmp_path / "a").write_bytes(b"\0\xff")
    command = ["pack", str(tmp_path / "a"), "-o", str(tmp_path / "s"), "-m", tiny, "-q", "--memory"]
    assert run([*command, "1e300"]) == 0
    assert run([*command, "inf"]) == 2
