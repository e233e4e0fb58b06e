"""benchmarks/kv.py measures arms by ratio, goes on where it ended, and draws what it found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import kv
import pytest


@pytest.fixture
def small(tiny: str, tmp_path: Path) -> list[str]:
    """A command line with two documents."""
    return [str(tmp_path / "found.json"), "--model", tiny, "--documents", "2", "--forms", "text", "--ratios", "4"]


def read(small: list[str]) -> list[Any]:
    found: list[Any] = json.loads(Path(small[0]).read_text())["found"]
    return found


def test_goes_on(small: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A second call measures only what is new. Without results of another arm it would draw fewer lines."""
    kv.main([*small, "--arms", "head"])
    (first,) = read(small)
    assert (first["set"], first["arm"], first["ratio"], first["settings"]["budget"]) == ("report", "head", 4, "head")
    assert first["forms"]["text"]["kind"] == "kv" and first["cost"]["bytes"] > 0 and kv.readings(first) > 0
    picture = Path(small[0]).with_name("found-report.svg")
    before = picture.read_text()
    assert "kv head" in before and "kv even" not in before
    worked, run = [], kv.run

    def noting(work: Any, args: Any, lean: bool, known: Any) -> Any:
        worked.append(work.arm)
        return run(work, args, lean, known)

    monkeypatch.setattr(kv, "run", noting)
    kv.main([*small, "--arms", "head,even+1"])
    assert worked == ["even+1"] and [one["arm"] for one in read(small)] == ["head", "even+1"]
    assert read(small)[0] == first and read(small)[1]["settings"]["refine"] == 1
    assert "kv even, 1 step" in picture.read_text()
    picture.unlink()
    kv.main([small[0], "--draw"])
    assert picture.exists() and worked == ["even+1"]
    assert "report, head, 1/4: " in capsys.readouterr().out


def test_time(small: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Work that would probably end too late is left for the next call."""
    monkeypatch.setattr(
        kv,
        "run",
        lambda work, args, lean, known: (
            work.key | {"seconds": 100.0 if work.arm == "even" else 0.0, "forms": {"text": {}}}
        ),
    )
    monkeypatch.setattr(kv, "line", str)
    monkeypatch.setattr(kv, "draw", lambda found, target: None)
    kv.main([*small[:-1], "4,8,16", "--arms", "even,head", "--seconds", "60"])
    done = [(one["arm"], one["ratio"]) for one in read(small)]
    assert done == [("even", 4.0), ("head", 4.0), ("head", 8.0), ("head", 16.0)]
    assert "2 of 6 are left" in capsys.readouterr().out


def test_refused(small: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Unknown arms, and results of other settings."""
    Path(small[0]).write_text(json.dumps({"about": {"model": "other"}, "found": []}))
    for arm, why in (("head", "holds results of other options"), ("tail", "holds results")):
        with pytest.raises(SystemExit):
            kv.main([*small, "--arms", arm])
        assert why in capsys.readouterr().err
    Path(small[0]).unlink()
    with pytest.raises(SystemExit):
        kv.main([*small, "--arms", "tail"])
    assert "'tail' is no arm" in capsys.readouterr().err and not Path(small[0]).exists()


def test_lean(small: list[str], tmp_path: Path) -> None:
    """Behind the first arm others are judged without most controls, with the same figures."""
    kv.main([*small, "--arms", "head,even"])
    kv.main([str(tmp_path / "alone.json"), *small[1:], "--arms", "even"])
    full, lean = read(small)
    (alone,) = read([str(tmp_path / "alone.json")])
    assert [kv.lean(one) for one in (full, lean, alone)] == [False, True, False]
    assert [kv.lean({**one, "lean": None}) for one in (full, lean)] == [False, False]  # as in earlier files
    judged, expected = lean["forms"]["text"], alone["forms"]["text"]
    assert set(judged["answered"]) == {"none", "text", "memory"} and "2" in expected["answered"]
    assert set(judged["nll"]) == {"none", "text", "memory", "shuffled"} and "prefill_text" not in judged["costs"]
    for name in ("gain", "gain_low", "gain_high", "shuffled", "harm", "documents", "questions", "by_document"):
        assert judged[name] == pytest.approx(expected[name], abs=1e-4)
    for name in ("nll", "answered", "f1", "contained"):
        assert judged[name] == pytest.approx({arm: expected[name][arm] for arm in judged[name]}, abs=1e-4)
    same = ("positions_memory", "cache_memory", "stored_memory")
    assert [judged["costs"][name] for name in same] == [expected["costs"][name] for name in same]
    assert judged["of_text"] == {
        name: pytest.approx({arm: scores[arm] for arm in judged["answered"]})
        for name, scores in expected["of_text"].items()
    }
