"""benchmarks/untuned.py packs with each kind of settings, hides the profiles of this machine, and goes on where it ended."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import untuned

import memvec
from memvec.packing import calibrate as calibration
from memvec.packing.calibrate import Point, profile_of
from memvec.settings import NATS_PER_DIMENSION


@pytest.fixture
def found(tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A run on a short text. The profile of this machine would ask for one vector."""
    cache = tmp_path / "cache"
    monkeypatch.setenv("MEMVEC_CACHE", str(cache))
    (cache / "profiles").mkdir(parents=True)
    id = memvec.fingerprint(tiny).id
    absurd = calibration.Profile(id, "tiny", 1.0, 64, (Point(1e5, 64, 40, 0, 0, 40, 60),), "none")
    calibration._store(absurd)
    monkeypatch.setattr(untuned, "keep_memory", lambda: None)  # it would be for the whole process
    monkeypatch.setattr(untuned, "texts", lambda: {"a.txt": "It is a truth universally acknowledged."})
    tried = list[float]()

    def fitted(fast: Any, exact: Any, sources: Any, settings: Any, segments: int, tick: Any) -> Point:
        tried.append(settings.nats_per_vector)
        return Point(settings.nats_per_vector, 2, 40, 0, 0, 40, 60)

    monkeypatch.setattr(calibration, "fitted_once", fitted)
    file = tmp_path / "found.json"
    untuned.main([str(file), tiny, "--arms", "untuned", "--segments", "1"])
    untuned.main([str(file), tiny, "--arms", "untuned,calibrated", "--segments", "1"])
    assert os.environ["MEMVEC_CACHE"] == str(cache) and profile_of(id) == absurd and len(tried) > 3
    return json.loads(file.read_text())["found"]


def test_settings(found: Any) -> None:
    first, second = found
    assert [one["arm"] for one in found] == ["untuned", "calibrated"]
    assert first["result"]["nats_per_vector"] == NATS_PER_DIMENSION * 128 and first["result"]["learning_rate"] is None
    assert second["result"]["nats_per_vector"] < 1e5 and second["result"]["learning_rate"] > 0
    for one in found:
        result = one["result"]
        assert result["tokens"] > 5 and 1 <= result["tokens_per_vector"] < result["tokens"] and result["raw"] == 0
        assert result["token_steps_per_token"] > 5
        assert untuned.line(one).startswith(f"model, {one['arm']}: {result['token_steps_per_token']:.1f} token-steps")


def test_texts() -> None:
    """None of them is among the texts that settings were chosen on."""
    for text in untuned.texts().values():
        assert len(text) > 1_000 and not any(text[:200] in other for other in untuned.development().values())
