"""Identities of real checkpoints and what a store says of its own: the tiny LM, changed in one thing at a time."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import memvec
from memvec.checkpoints import cache as identity_cache
from memvec.checkpoints import files as checkpoint
from memvec.checkpoints.identify import identify_folder
from memvec.checkpoints.resolve import silent
from memvec.errors import FingerprintError
from memvec.formats import manifest
from memvec.identity.match import find_model, load_lm
from memvec.identity.verdict import Verdict, stored_identity
from memvec.store.store import Store

NORM, EMBEDDING = "model.layers.2.input_layernorm.weight", "model.embed_tokens.weight"


@pytest.fixture
def copy(tiny: str, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny, tmp_path / "model"))


@pytest.fixture
def change(copy: Path) -> Callable[[Callable[[dict[str, Any]], None]], Path]:
    """The copy with its tensors changed."""
    from safetensors.torch import load_file, save_file

    def changed(how: Callable[[dict[str, Any]], None]) -> Path:
        state = load_file(copy / "model.safetensors")
        how(state)
        save_file(state, copy / "model.safetensors", {"format": "pt"})
        return copy

    return changed


def nudge(name: str, by: float) -> Callable[[dict[str, Any]], None]:
    def how(state: dict[str, Any]) -> None:
        state[name].view(-1)[5] += by

    return how


def cast(kind: str) -> Callable[[dict[str, Any]], None]:
    import torch

    def how(state: dict[str, Any]) -> None:
        state |= {name: tensor.to(getattr(torch, kind)) for name, tensor in state.items()}

    return how


def test_a_store_explains_its_model(packed: Path, tiny: str) -> None:
    state = Store.open(packed).manifest
    found = identify_folder(Path(tiny))
    assert state.tensors == found.tensors and len(state.tensors[NORM]) == 16
    assert found.probe.items() <= dict(state.probe).items()
    assert [len(state.probe[part]["tokens"]) for part in ("text", "noise")] == [16, 16]
    assert len(json.dumps(state.probe)) < 4096
    assert state.generation > 0  # it came with a commit


def test_the_same_model_is_identical_and_is_not_loaded(
    packed: Path, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("memvec.lm.load.load", None)
    made = memvec.diff(packed, str(copy))
    assert made.verdict is Verdict.IDENTICAL and not made.differences and not made.tensors


def test_one_weight_is_seen_and_its_tensor_named(packed: Path, change: Any) -> None:
    folder = change(nudge(NORM, 0.1))
    made = memvec.diff(packed, str(folder))
    assert made.verdict is Verdict.RELATIVE and made.tensors == (NORM,)
    assert made.distance is not None and made.distance.positions == 32
    with pytest.raises(FingerprintError, match=f"relative.*weights.*tensors that differ: {NORM}") as caught:
        memvec.unpack(packed, folder / "out", model=str(folder))
    assert caught.value.exit_code == 4 and caught.value.tensors == (NORM,)
    assert not (folder / "out").exists()
    with pytest.raises(FingerprintError, match=NORM):
        memvec.pack([Path(__file__)], packed, model=str(folder))


@pytest.mark.parametrize("kind", ["float32", "bfloat16"])
def test_another_precision_is_told_by_the_probe(packed: Path, change: Any, kind: str) -> None:
    folder = change(cast(kind))
    made = memvec.diff(packed, str(folder))
    assert made.verdict is Verdict.PRECISION and made.verdict.decodes, made
    assert len(made.tensors) == len(Store.open(packed).manifest.tensors)
    assert memvec.diff(packed, str(folder), probe=False).verdict is Verdict.UNTOLD


def test_another_embedding_alone_is_a_relative(packed: Path, change: Any) -> None:
    made = memvec.diff(packed, str(change(nudge(EMBEDDING, 0.1))), probe=False)
    assert [field for field, _, _ in made.differences] == ["weights", "embedding"]
    assert made.verdict is Verdict.RELATIVE and made.tensors == (EMBEDDING,)


def test_weights_that_say_something_else_are_another_model(packed: Path, change: Any) -> None:
    import torch

    def shuffle(state: dict[str, Any]) -> None:
        for tensor in state.values():
            tensor.copy_(tensor.view(-1)[torch.randperm(tensor.numel())].view_as(tensor))

    torch.manual_seed(0)
    made = memvec.diff(packed, str(change(shuffle)))
    assert made.verdict is Verdict.DIFFERENT and made.distance is not None and made.distance.agreeing < 16


def test_another_architecture_is_another_model(packed: Path, copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("memvec.lm.load.load", None)  # what is settled needs no model
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 1e-5}))
    made = memvec.diff(packed, str(copy))
    assert made.verdict is Verdict.DIFFERENT and made.differences[0][0] == "architecture.rms_norm_eps"


def test_one_token_more_is_named(packed: Path, copy: Path) -> None:
    tokenizer = json.loads((copy / "tokenizer.json").read_text())
    token = {"id": 512, "content": "<new>", "special": True}
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    tokenizer["added_tokens"].append(token | flags)
    (copy / "tokenizer.json").write_text(json.dumps(tokenizer))
    made = memvec.diff(packed, str(copy))
    assert made.verdict is Verdict.DIFFERENT
    assert "1 token more: '<new>' (512)" in made.hints[0]
    with pytest.raises(FingerprintError, match="<new>"):
        find_model(stored_identity(Store.open(packed).manifest), str(copy))


def test_a_store_of_an_early_writer_gets_a_verdict_and_is_explained_by_the_next_commit(
    store: Path, tiny: str, change: Any, tiny_settings: Callable[..., Any]
) -> None:
    state = Store.open(store).manifest
    early = dataclasses.replace(state, tensors={}, probe={})
    (store / manifest.FILE_NAME).write_bytes(manifest.encode(early))
    assert memvec.diff(store, tiny).verdict is Verdict.IDENTICAL
    text = memvec.Source("more.txt", b"It was a fine evening, and the ladies walked in the garden.")
    memvec.pack([text], store, model=tiny, settings=tiny_settings(), dtype="float32")
    after = Store.open(store).manifest
    assert (after.tensors, after.probe) == (state.tensors, state.probe)
    (store / manifest.FILE_NAME).write_bytes(manifest.encode(early))
    made = memvec.diff(store, str(change(nudge(NORM, 0.1))))
    assert made.verdict is Verdict.UNTOLD and "no probe" in made.why


def test_another_precision_decodes_when_asked_for(
    packed: Path, change: Any, tmp_path: Path, documents: dict[str, bytes]
) -> None:
    folder = str(change(cast("bfloat16")))
    with pytest.raises(FingerprintError, match="other weights"):
        memvec.unpack(packed, tmp_path / "out", documents=["prose.txt"], model=folder)
    memvec.unpack(packed, tmp_path / "out", documents=["prose.txt"], model=folder, allow="precision")
    assert (tmp_path / "out" / "prose.txt").read_bytes() == documents["prose.txt"]


def test_no_more_is_allowed_than_was_asked_for(packed: Path, change: Any) -> None:
    known, folder = stored_identity(Store.open(packed).manifest), str(change(nudge(NORM, 0.1)))
    with pytest.raises(FingerprintError, match="relative"):
        load_lm(known, folder, None, silent, Verdict.PRECISION)
    assert load_lm(known, folder, None, silent, Verdict.RELATIVE).vocabulary == 512


def test_a_known_model_is_not_read_again(copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMVEC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(identity_cache, "RECENT_NS", 0)
    first = identify_folder(copy)
    with monkeypatch.context() as patched:
        patched.setattr(checkpoint, "digests", lambda data: pytest.fail("read again"))
        patched.setattr("memvec.identity.fingerprint.load_tokenizer", None)
        assert identify_folder(copy, source="x") == first
    (copy / "model.safetensors").touch()
    read = []
    real = checkpoint.digests
    monkeypatch.setattr(checkpoint, "digests", lambda data: read.append(1) or real(data))
    assert identify_folder(copy) == first and read == [1]


def test_a_file_that_is_no_checkpoint_is_one_sentence(copy: Path) -> None:
    (copy / "model.safetensors").write_bytes(b"short")
    with pytest.raises(memvec.MemvecError, match=r"cannot be read as a model.*under 8 bytes"):
        identify_folder(copy)
