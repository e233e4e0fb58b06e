"""`memvec fingerprint` and `memvec diff` from the command line."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import memvec


class TestFingerprint:
    """`memvec fingerprint`."""

    def test_tensors(self, tiny: str, call: Any) -> None:
        """--tensors lists the digest of each tensor."""
        code, out, _ = call("fingerprint", tiny, "--tensors", "--json")
        tensors = json.loads(out)["tensors"]
        assert code == 0 and len(tensors["model.norm.weight"]) == 16
        code, out, _ = call("fingerprint", tiny, "--tensors")
        assert f"{tensors['model.norm.weight']} model.norm.weight" in out
        assert "model.norm.weight" not in call("fingerprint", tiny)[1]

    def test_light(self, tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The fingerprint of a known model loads no model library."""
        monkeypatch.setenv("MEMVEC_CACHE", str(tmp_path / "cache"))
        expected = memvec.fingerprint(tiny).id
        program = (
            "import sys; from memvec.cli.main import run; assert run(['fingerprint', sys.argv[1]]) == 0\n"
            "print('LOADED', [m for m in ('torch', 'transformers') if m in sys.modules])"
        )
        done = subprocess.run([sys.executable, "-c", program, tiny], capture_output=True, text=True, check=True)
        assert expected in done.stdout and done.stdout.splitlines()[-1] == "LOADED []"


class TestDiff:
    """`memvec diff`."""

    def test_same(self, packed: Path, tiny: str, call: Any) -> None:
        """The same model gives exit 0."""
        code, out, _ = call("diff", packed, tiny, "--json")
        value = json.loads(out)
        assert (code, value["verdict"], value["decodes"], value["differences"]) == (0, "identical", True, [])
        code, out, _ = call("diff", packed, tiny)
        assert code == 0 and "verdict  identical" in out

    def test_other(self, packed: Path, tiny: str, tmp_path: Path, call: Any) -> None:
        """Another model gives exit 4, and the tensors that differ are named."""
        from safetensors.torch import load_file, save_file

        folder = Path(shutil.copytree(tiny, tmp_path / "model"))
        state: dict[str, Any] = {
            name: tensor * 1.01 for name, tensor in load_file(folder / "model.safetensors").items()
        }
        save_file(state, folder / "model.safetensors", {"format": "pt"})
        code, out, _ = call("diff", packed, folder, "--no-probe", "--json")
        value = json.loads(out)
        assert (code, value["verdict"], value["distance"]) == (4, "untold", None)
        assert value["tensors"] == sorted(state)
        code, out, _ = call("diff", packed, folder)
        assert code == 4
        assert out.count("  tensor ") == 5 and f"and {len(state) - 5} more tensors" in out
        assert "positions of the probe" in out and "field    weights" in out
