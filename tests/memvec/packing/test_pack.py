"""What pack and unpack refuse, and that nothing is lost or left behind by it."""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import memvec
from memvec.errors import (
    FingerprintError,
    NotFoundError,
    ReconstructionError,
    StoreLockedError,
    UsageError,
)
from memvec.filesystem.sources import Source
from memvec.store.lock import writing
from memvec.store.store import Store
from memvec.store.transaction import Transaction

Settings = Callable[..., memvec.PackSettings]
Records = Callable[[Path], list[Any]]


def other_model(tiny: str, folder: Path) -> Path:
    """The tiny LM with one weight changed by a little."""
    import torch
    from safetensors.torch import load_file, save_file

    shutil.copytree(tiny, folder)
    state = load_file(folder / "model.safetensors")
    state["model.layers.1.mlp.up_proj.weight"][0, 0] += torch.tensor(0.25, dtype=torch.float16)
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    return folder


def test_another_model_is_refused(store: Path, tree: Path, tiny: str, tmp_path: Path, tiny_settings: Settings) -> None:
    model = str(other_model(tiny, tmp_path / "other"))
    calls: list[Callable[[], object]] = [
        lambda: memvec.unpack(store, tmp_path / "out", model=model),
        lambda: memvec.cat(store, "prose.txt", model=model),
        lambda: memvec.verify(store, decode=True, model=model),
        lambda: memvec.pack([tree], store, model=model, settings=tiny_settings()),
    ]
    for call in calls:
        with pytest.raises(FingerprintError, match="weights") as caught:
            call()
        assert [field for field, _, _ in caught.value.differences] == ["weights"]
    assert not (tmp_path / "out").exists()


def test_unpack_keeps_what_is_there(packed: Path, tmp_path: Path, documents: dict[str, bytes]) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "crlf.txt").write_bytes(b"mine")
    with pytest.raises(UsageError, match="crlf"):
        memvec.unpack(packed, out)
    assert [p.name for p in out.iterdir()] == ["crlf.txt"]
    assert (out / "crlf.txt").read_bytes() == b"mine"
    memvec.unpack(packed, out, documents=["crlf*", "one-byte"], overwrite=True)
    assert {p.name: p.read_bytes() for p in out.iterdir()} == {n: documents[n] for n in ("crlf.txt", "one-byte")}
    with pytest.raises(NotFoundError, match="no-such"):
        memvec.unpack(packed, tmp_path / "more", documents=["no-such*"])


def test_unpack_finds_collisions_before_it_decodes(
    packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("memvec.decoding.unpack.Reader", None)  # nothing may be decoded
    (tmp_path / "a" / "prose.txt").mkdir(parents=True)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "deep").write_bytes(b"a file")
    for out in ("a", "b"):
        with pytest.raises(UsageError, match=r"a folder of that name|is a file"):
            memvec.unpack(packed, tmp_path / out, overwrite=True)


def test_documents_are_found_by_name_by_last_part_and_by_glob(packed: Path) -> None:
    for globs, names in (
        (["unseen.txt"], ["deep/er/unseen.txt"]),
        (["deep/*"], ["deep/er/unseen.txt"]),
        (["c*.txt"], ["cjk.txt", "crlf.txt"]),
    ):
        assert [row.name for row in memvec.list(packed, globs)] == names


def test_unpack_never_leaves_its_folder(packed: Path, tmp_path: Path) -> None:
    outside, out = tmp_path / "outside", tmp_path / "out"
    outside.mkdir()
    out.mkdir()
    (out / "deep").symlink_to(outside)
    with pytest.raises(UsageError, match="outside"):
        memvec.unpack(packed, out, documents=["deep/*"])
    assert list(outside.iterdir()) == []


def test_two_writers_do_not_meet(store: Path, tree: Path, tiny: str) -> None:
    with writing(store), pytest.raises(StoreLockedError, match="writing"):
        memvec.pack([tree], store, model=tiny)
    assert memvec.verify(store).ok


def test_a_failed_pack_leaves_no_trace(tmp_path: Path, tree: Path, tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    prose = tree / "prose.txt"
    with pytest.raises(UsageError, match="no memvec store"):
        memvec.pack([prose], tree, model=tiny)
    with pytest.raises(UsageError, match="the store itself"):
        memvec.pack([tree], tree, model=tiny)
    assert not (tree / "LOCK").exists()
    for wrong in ({"model": "./nowhere"}, {"device": "nonsense"}, {"dtype": "int4"}, {"include": ["*.nothing"]}):
        with pytest.raises((NotFoundError, UsageError)):
            memvec.pack([tree], tmp_path / "s.memvec", **{"model": tiny, **wrong})  # type: ignore[arg-type]

    def fail(*_: object) -> None:
        raise RuntimeError("in the middle")

    monkeypatch.setattr("memvec.packing.exact.plan", fail)
    with pytest.raises(RuntimeError, match="middle"):
        memvec.pack([prose], tmp_path / "s.memvec", model=tiny)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["../up", "/abs", "a//b", "\udcff", ""])
def test_names_no_store_can_hold_are_refused_before_any_work(store: Path, tiny: str, name: str) -> None:
    with pytest.raises(UsageError):
        memvec.pack([Source(name, b"x")], store, model=tiny)
    assert memvec.verify(store).ok


def test_a_file_and_a_folder_cannot_share_a_name(store: Path, tiny: str) -> None:
    with pytest.raises(UsageError, match="one-byte"):
        memvec.pack([Source("one-byte/below", b"x")], store, model=tiny)
    with pytest.raises(UsageError, match="deep"):
        memvec.pack([Source("deep", b"x")], store, model=tiny)


def test_a_wrong_joined_digest_is_never_given_out(store: Path, packed: Path, records_of: Records) -> None:
    """Every record right, the whole wrong: as if a record of another version had been taken."""
    opened = Store.open(store)
    records = [r for r in records_of(packed) if r.document.name in ("prose.txt", "image.png")]
    lie = {r.document: dataclasses.replace(r.document, sha256="ab" * 32) for r in records}
    Transaction(opened).commit([dataclasses.replace(r, document=lie[r.document]) for r in records])
    for name in ("prose.txt", "image.png"):
        with pytest.raises(ReconstructionError, match="joined"):
            memvec.cat(store, name)
    (raw,) = memvec.verify(store).problems  # what needs no model is joined without it, too
    assert raw.location == "image.png" and raw.kind == "wrong_text"
    assert sorted(p.location for p in memvec.verify(store, decode=True).problems) == ["image.png", "prose.txt"]


def test_what_a_newer_memvec_wrote_is_read_but_not_rewritten(store: Path, tree: Path, tiny: str) -> None:
    from memvec.errors import FormatTooNewError
    from memvec.formats import canonical

    file = store / "manifest.json"
    body = canonical.loads(file.read_bytes()[:-1])["manifest"] | {"version": [1, 9]}
    digest = hashlib.sha256(canonical.dumps(body)).hexdigest()
    file.write_bytes(canonical.dumps({"manifest": body, "sha256": digest}) + b"\n")
    before = file.read_bytes()
    assert memvec.cat(store, "one-byte") == b"x"
    with pytest.raises(FormatTooNewError, match=r"1\.9"):
        memvec.pack([Source("more", b"y")], store, model=tiny)
    assert file.read_bytes() == before
