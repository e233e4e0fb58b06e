"""`capacity`, `calibrate` and `pack --dry-run`: one JSON object each, a table, and no file that was not asked for."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from memvec.checkpoints.resolve import DEFAULT_MODEL
from memvec.cli.render_capacity import draw, table
from memvec.evaluation.capacity import _Filling
from memvec.evaluation.capacity_report import Capacity, Held, summaries


@pytest.fixture
def text(tmp_path: Path) -> Path:
    file = tmp_path / "t.txt"
    file.write_text("It is a truth universally acknowledged, that a single man\nmust be in want of a wife.\n" * 8)
    return file


class TestCapacity:
    """`memvec capacity`."""

    def test_figures(self, tiny: str, text: Path, call: Any) -> None:
        arguments = ("capacity", "-m", tiny, "--text", text, "--vectors", "2,1", "--passages", 1, "--steps", 60)
        code, out, _ = call(*arguments, "--learning-rate", 1, "--json", "-q")
        value = json.loads(out)
        assert code == 0
        assert [row["vectors"] for row in value["summary"]] == [1, 2]
        assert value["summary"][0]["tokens"] == value["held"][0]["tokens"] > 0

    def test_refusals(self, tiny: str, text: Path, tmp_path: Path, call: Any) -> None:
        latin = tmp_path / "latin.txt"
        latin.write_bytes("déjà vu".encode("latin-1"))
        for options, code, word in (
            (("--vectors", "one"), 2, "1,2,4"),
            (("--text", latin), 2, "is not UTF-8"),
            (("--text", tmp_path / "none.txt"), 6, "no file"),
            (("--text", text, "--plot", tmp_path / "p.doc"), 2, ".png"),
            (("--text", text, "--plot", tmp_path / "no" / "p.png"), 2, "no folder"),
            (("--text", text, "--text", tmp_path / "no" / text.name), 2, "two texts are named 't.txt'"),
        ):
            found, _, err = call("capacity", "-m", tiny, *options)
            assert (found, word in err) == (code, True), err

    def test_interrupt(self, tiny: str, text: Path, call: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """Ctrl-C prints the figures measured so far."""
        once, stop = _Filling.run, iter([False, True])

        def interrupted(self: _Filling, *rest: Any) -> list[Held]:
            if next(stop):
                raise KeyboardInterrupt
            return once(self, *rest)

        monkeypatch.setattr(_Filling, "run", interrupted)
        arguments = ("capacity", "-m", tiny, "--text", text, "--vectors", "1,2,3", "--passages", 1, "--steps", 5)
        code, out, err = call(*arguments, "--json", "-q")
        value = json.loads(out)  # one object
        assert (code, value["finished"]) == (130, False) and "interrupted" in err
        assert [row["vectors"] for row in value["held"]] == [1]


class TestPlot:
    """--plot."""

    def test_drawn(self, tiny: str, text: Path, tmp_path: Path, call: Any) -> None:
        arguments = (
            "capacity",
            "-m",
            tiny,
            "--text",
            text,
            "--passages",
            1,
            "--steps",
            5,
            "--no-anchor",
            "-q",
            "--json",
        )
        code, out, _ = call(*arguments, "--plot", tmp_path / "p.svg")
        assert code == 0 and not json.loads(out)["anchored"]
        assert "t.txt" in (tmp_path / "p.svg").read_text()
        assert json.loads(call(*arguments[:-3], "-q", "--json")[1])["anchored"]

    def test_no_matplotlib(self, text: Path, tmp_path: Path, call: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without matplotlib it fails before the work."""
        monkeypatch.setitem(sys.modules, "matplotlib", None)  # what an import finds where it is not installed
        code, _, err = call("capacity", "--text", text, "--plot", tmp_path / "p.png")
        assert code == 9 and "memvec[plot]" in err

    def test_no_folder(self, tiny: str, text: Path, tmp_path: Path, call: Any) -> None:
        """A picture that cannot be written costs no figures."""
        (tmp_path / "p.svg").mkdir()
        arguments = (
            "capacity",
            "-m",
            tiny,
            "--text",
            text,
            "--passages",
            1,
            "--steps",
            1,
            "--json",
            "--plot",
            tmp_path / "p.svg",
        )
        code, out, err = call(*arguments)
        assert code == 10 and "p.svg" in err
        assert len(json.loads(out)["held"]) == 1  # one object, not the error's as well

    def test_held_whole(self, tmp_path: Path) -> None:
        """A text that was held whole has a plus sign."""
        one = Held("a\x1b", 1, 10, 0, 10, 12, 8, 40.0, 30.0, 2.0, 5, 50, 0.1, exhausted=False)
        whole = Held("a\x1b", 2, 18, 0, 18, 18, 16, 80.0, 60.0, 4.0, 5, 50, 0.1, exhausted=True)
        found = Capacity(DEFAULT_MODEL, True, 576, 49152, 591.4, (one, whole))
        draw(found, summaries(found), tmp_path / "p.svg")
        drawn = (tmp_path / "p.svg").read_text()
        assert drawn.startswith("<?xml") and len(drawn) > 5_000
        said = table(found, summaries(found))
        assert "18.0+ ± 0.0" in said and "90%" in said and "63.1" in said
        assert "\x1b" not in said
        assert "63.1" not in table(replace(found, model="another"), summaries(found))


class TestCalibrate:
    """`memvec calibrate`."""

    def test_profile(self, tiny: str, text: Path, tmp_path: Path, call: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """It stores a curve that `pack --dry-run` uses."""
        monkeypatch.setenv("MEMVEC_CACHE", str(tmp_path / "cache"))
        pack = ("pack", text, "-o", tmp_path / "s", "-m", tiny, "--preset", "fast", "--segment-tokens", 16)
        code, _, err = call(*pack)
        assert code == 6 and "Run memvec" in err and "calibrate" in err
        monkeypatch.setattr("memvec.packing.calibrate.RATES", (0.3,))
        monkeypatch.setattr("memvec.packing.calibrate.POINTS", 1)
        code, out, _ = call("calibrate", "-m", tiny, "--text", text, "--segments", 1, "-q")
        assert code == 0 and "fast, balanced, dense" in out
        code, out, _ = call(*pack, "--dry-run", "--json")
        value = json.loads(out)
        assert (code, value["dry_run"], value["profiled"]) == (0, True, True)
        assert value["records"] > 1 and value["vectors"] > 0
        code, out, _ = call(*pack, "--dry-run")
        assert "nothing was written" in out and "the model's profile" in out
        assert not (tmp_path / "s").exists()

    def test_refusals(self, tiny: str, tmp_path: Path, text: Path, call: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """A sample without segments is refused."""
        monkeypatch.setenv("MEMVEC_CACHE", str(tmp_path / "cache"))
        short = tmp_path / "short.txt"
        short.write_text("in want ")  # fewer tokens than a segment has
        for options in (("--text", text, "--segments", 0), ("--text", short, "--segments", 1)):
            code, _, err = call("calibrate", "-m", tiny, *options)
            assert code == 2 and "segment" in err
        assert not (tmp_path / "cache").exists()


class TestDryRun:
    """`memvec pack --dry-run`."""

    def test_refusals(self, tiny: str, text: Path, tmp_path: Path, call: Any) -> None:
        pack = ("pack", text, "-o", tmp_path / "s", "-m", tiny, "--dry-run")
        assert call(*pack, "--kind", "both")[0] == 2
        for options, word in (
            (("--preset", "fast", "--nats-per-vector", 5), "--nats-per-vector"),
            (("--preset", "fast", "--learning-rate", 5), "--learning-rate"),
            (("--keys", "bogus"), "bogus"),
            (("--meta", "nonsense"), "KEY=VALUE"),
            (("--memory", 0), "0 GiB"),
            (("--memory", "nan"), "nan GiB"),
        ):
            code, _, err = call(*pack, *options)
            assert (code, word in err) == (2, True), err
        assert call(*pack, "--questions", tmp_path / "none.jsonl")[0] == 6
        assert not (tmp_path / "s").exists()

    def test_no_keys(self, tiny: str, text: Path, tmp_path: Path, call: Any) -> None:
        """--keys none takes the bytes of the keys out of the estimate."""
        pack = ("pack", text, "-o", tmp_path / "s", "-m", tiny, "--segment-tokens", 16, "--dry-run", "--json")
        some, none = (json.loads(call(*pack, "--keys", keys)[1]) for keys in ("lm", "none"))
        width = json.loads((Path(tiny) / "config.json").read_text())["hidden_size"]
        assert some["store_bytes"] - none["store_bytes"] == some["records"] * width * 2  # float16
