"""The wheel and the sdist hold every module of `memvec` and nothing else."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from tree import ROOT, modules, packages


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    # A copy with the links, without what git ignores: the working tree may hold builds of its own.
    copy = tmp_path_factory.mktemp("copy") / "memvec"
    ignored = shutil.ignore_patterns(
        ".git", ".venv", "__pycache__", "build", "dist", "*.egg-info", ".*_cache", "demo-out"
    )
    shutil.copytree(ROOT, copy, symlinks=True, ignore=ignored)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(copy)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


def test_wheel(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"memvec"}
    assert len(names) == len(set(names))
    installed = {file.relative_to(ROOT).as_posix() for file in modules()}
    wanted = {name if name.startswith("memvec/") else f"memvec/{name}" for name in installed}
    assert wanted == {name for name in names if name.endswith(".py")}
    assert {"memvec/py.typed", "memvec/formats/SPEC.md", "memvec/formats/schemas/manifest.json"} <= set(names)
    assert {f"memvec/cli/schemas/{f.name}" for f in (ROOT / "cli" / "schemas").glob("*.json")} <= set(names)


def test_sdist(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    assert {file.relative_to(ROOT).as_posix() for file in modules()} <= names
    assert not any(name.startswith(("memvec/cli", "memvec/formats", "memvec/integrations")) for name in names)
    assert {"tests/conftest.py", "examples/quickstart.py", "LICENSE"} <= names


def test_packages() -> None:
    tomllib = pytest.importorskip("tomllib")  # Python 3.11
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    assert set(listed) == set(packages())


@pytest.mark.parametrize("folder", ["cli", "formats", "integrations"])
def test_links(folder: str) -> None:
    link = ROOT / "memvec" / folder
    assert link.is_symlink() and link.resolve() == ROOT / folder
