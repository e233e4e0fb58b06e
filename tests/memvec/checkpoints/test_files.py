"""Which files of a folder are the model: those that transformers loads, and no others."""

from __future__ import annotations

import builtins
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import memvec
from memvec.checkpoints.files import embedding_table, weight_files
from memvec.checkpoints.identify import identify_folder
from memvec.errors import NotFoundError, UnsupportedModelError
from memvec.lm.load import load


@pytest.fixture
def copy(tiny: str, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny, tmp_path / "model"))


@pytest.fixture
def sharded(tiny: str, tmp_path: Path) -> Path:
    """The tiny LM in three files and an index."""
    from transformers import AutoModelForCausalLM

    folder = Path(shutil.copytree(tiny, tmp_path / "sharded", ignore=shutil.ignore_patterns("*.safetensors")))
    AutoModelForCausalLM.from_pretrained(tiny, dtype="auto").save_pretrained(folder, max_shard_size="600KB")
    assert len(list(folder.glob("*.safetensors"))) > 1
    return folder


def change_index(folder: Path, **places: str) -> Path:
    """Name files in the index by the ending of a tensor's name."""
    file = folder / "model.safetensors.index.json"
    index = json.loads(file.read_text())
    for name in index["weight_map"]:
        index["weight_map"][name] = places.get(name.split(".")[-2], index["weight_map"][name])
    file.write_text(json.dumps(index))
    return folder


@pytest.mark.parametrize("name", ["adapter_model", "consolidated", "model copy", "a", "model.fp16"])
def test_files_beside_the_weights_do_not_count(name: str, copy: Path, tiny: str) -> None:
    from safetensors.torch import save_file

    stray = {"model.embed_tokens.weight": torch.ones(512, 128), "model.layers.0.lora_A.weight": torch.ones(2, 2)}
    save_file(stray, copy / f"{name}.safetensors")
    (copy / "pytorch_model.bin").write_bytes(b"not read")
    assert identify_folder(copy) == identify_folder(Path(tiny))
    assert (embedding_table(copy) == embedding_table(Path(tiny))).all()


def test_weights_in_several_files_are_the_same_model(sharded: Path, tiny: str) -> None:
    shutil.copy(Path(tiny) / "model.safetensors", sharded / "second-copy.safetensors")
    assert memvec.fingerprint(str(sharded)) == memvec.fingerprint(tiny)
    assert (embedding_table(sharded) == embedding_table(Path(tiny))).all()


def test_one_file_goes_before_an_index(sharded: Path, tiny: str) -> None:
    shutil.copy(Path(tiny) / "model.safetensors", sharded)
    assert weight_files(sharded) == [sharded / "model.safetensors"]  # as transformers chooses


def test_a_missing_file_is_named(sharded: Path) -> None:
    gone = weight_files(sharded)[1]
    gone.unlink()
    with pytest.raises(NotFoundError, match=f"{gone.name}.*missing.*Download the model again"):
        memvec.fingerprint(str(sharded))


@pytest.mark.parametrize(
    "place", ["../model.safetensors", "/tmp/x.safetensors", "sub/x.safetensors", "x.bin", "", ".."]
)
def test_an_index_names_files_beside_it(place: str, sharded: Path) -> None:
    change_index(sharded, embed_tokens=place)
    with pytest.raises(NotFoundError, match=r"expected \*\.safetensors beside it"):
        memvec.fingerprint(str(sharded))


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"weight_map": 3}', b'{"weight_map": {"a": 3}}', b"[" * 9999])
def test_an_index_that_is_none_is_one_sentence(content: bytes, sharded: Path) -> None:
    (sharded / "model.safetensors.index.json").write_bytes(content)
    with pytest.raises(NotFoundError, match=r"cannot be read as a model|expected"):
        memvec.fingerprint(str(sharded))


def test_a_tensor_in_two_files_is_refused(sharded: Path) -> None:
    first = weight_files(sharded)[0]
    shutil.copy(first, sharded / "again.safetensors")
    index = json.loads((sharded / "model.safetensors.index.json").read_text())
    index["weight_map"]["more"] = "again.safetensors"
    (sharded / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(NotFoundError, match="in two files"):
        memvec.fingerprint(str(sharded))


@pytest.mark.parametrize("gone", [["embed_tokens"], ["embed_tokens", "layers.0.mlp.up_proj"]])
def test_tied_embeddings_that_are_missing_are_not_made_up(gone: list[str], copy: Path) -> None:
    """transformers would fill embeddings and head with random numbers."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(copy / "model.safetensors")
    left = {name: value for name, value in tensors.items() if not any(part in name for part in gone)}
    save_file(left, copy / "model.safetensors", {"format": "pt"})
    with pytest.raises(NotFoundError, match=r"lacks the weights .*Download the model again"):
        load(copy)


@pytest.mark.parametrize("name", ["model.fp16", "consolidated", "adapter_model"])
def test_a_folder_without_the_names_that_are_loaded_is_no_checkpoint(name: str, copy: Path) -> None:
    (copy / "model.safetensors").rename(copy / f"{name}.safetensors")
    (copy / "pytorch_model.bin").write_bytes(b"what transformers would load instead")
    with pytest.raises(NotFoundError, match=r"no model\.safetensors and no model\.safetensors\.index\.json"):
        memvec.fingerprint(str(copy))
    with pytest.raises(NotFoundError):
        load(copy)


def test_the_configuration_may_name_the_weights(copy: Path, tiny: str) -> None:
    config = json.loads((copy / "config.json").read_text())
    (copy / "model.safetensors").rename(copy / "other.safetensors")
    for name, right in (("other.safetensors", True), ("../model/other.safetensors", False), ("other.bin", False)):
        (copy / "config.json").write_text(json.dumps(config | {"transformers_weights": name}))
        if right:
            assert memvec.fingerprint(str(copy)) == memvec.fingerprint(tiny)
        else:
            with pytest.raises(NotFoundError, match="as the weights"):
                memvec.fingerprint(str(copy))


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing")
def test_a_model_with_an_adapter_in_its_folder_is_refused(copy: Path) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    get_peft_model(AutoModelForCausalLM.from_pretrained(copy), LoraConfig(r=2)).save_pretrained(copy)
    with pytest.raises(UnsupportedModelError, match=r"adapter_config\.json.*Merge it"):
        memvec.fingerprint(str(copy))


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_code_in_a_checkpoint_is_not_run_and_not_asked_about(
    file: str, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = json.loads((copy / file).read_text())
    kind = {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Own", "AutoTokenizer": ["own.Own", None]}
    changes = {"auto_map": kind, "model_type": "unheard-of", "tokenizer_class": "Own"}
    (copy / file).write_text(json.dumps(config | changes))
    (copy / "own.py").write_text(f"open({str(copy / 'ran')!r}, 'w')\nclass Own: pass\n")

    def asked(*_: Any) -> str:
        pytest.fail("asked whether to run it")

    monkeypatch.setattr(builtins, "input", asked)
    for use in (identify_folder, load):
        with pytest.raises(UnsupportedModelError, match=r"needs code of its own \(own\.Own\)"):
            use(copy)
    assert not (copy / "ran").exists()


@pytest.mark.parametrize(
    "header", [b"[]", b"3", b'{"a": 3}', b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0]}}', b'{"a": {}}']
)
def test_a_header_that_says_too_little_is_one_sentence(tmp_path: Path, tiny: str, header: bytes) -> None:
    folder = Path(shutil.copytree(tiny, tmp_path / "model"))
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(NotFoundError, match="cannot be read as a model"):
        identify_folder(folder)
