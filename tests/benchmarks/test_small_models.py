"""benchmarks/small_models.py trains models that memvec can pack with."""

from __future__ import annotations

from pathlib import Path

import pytest
import small_models

import memvec
from memvec.filesystem.sources import Source


@pytest.mark.parametrize("family", small_models.FAMILIES)
def test_family(family: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small_models.main([str(tmp_path), "--families", family, "--steps", "2"])
    said = capsys.readouterr().out
    assert f"{family}: step 0 of 2, loss " in said and " nats a token of text that it did not read" in said
    settings = memvec.PackSettings(max_steps=1, refits=0)
    report = memvec.pack(
        Source("a.txt", b"It is a truth"), tmp_path / "s", model=str(tmp_path / family), settings=settings, trial=False
    )
    assert report.exact and report.source_bytes == 13


def test_training_helps() -> None:
    """After forty steps a simple text surprises the model less than after one."""
    import torch

    ids = torch.arange(512).repeat(30)
    few, many = (small_models.train("llama", ids, steps) for steps in (1, 40))
    assert small_models.surprisal(many, ids[:960]) < small_models.surprisal(few, ids[:960]) - 1
