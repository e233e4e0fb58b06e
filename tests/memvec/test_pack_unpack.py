"""pack and unpack: every kind of document comes back identical, and the report says how."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import memvec
from memvec.errors import (
    FingerprintError,
    InterruptedPackError,
    NotFoundError,
    PartialError,
    ReconstructionError,
    StoreLockedError,
    UsageError,
)
from memvec.sources import Source
from memvec.store import Store, writing
from memvec.types import Kind, RawReason

Settings = Callable[..., memvec.PackSettings]


def all_records(store: Path) -> list[Any]:
    opened = Store.open(store)
    return [opened.record(ref) for document in opened.versions() for ref in document.records]


def test_every_document_comes_back(packed: Path, documents: dict[str, bytes], tmp_path: Path) -> None:
    report = memvec.unpack(packed, tmp_path / "out")
    assert report.documents == len(documents)
    assert report.tokens > 0
    for name, data in documents.items():
        assert (tmp_path / "out" / name).read_bytes() == data, name
    on_disk = {p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*") if p.is_file()}
    assert on_disk == set(documents)


def test_text_is_fitted_and_what_is_no_text_says_so(packed: Path, documents: dict[str, bytes]) -> None:
    kinds = {name: memvec.show(packed, name)["parts"] for name in documents}
    reasons = {name: {part["reason"] for part in parts} for name, parts in kinds.items()}
    for name in ("lone-surrogate", "latin-1.txt", "image.png"):
        assert reasons[name] == {RawReason.NOT_TEXT.sentence}
    for name in ("empty", "one-byte"):
        assert reasons[name] == {RawReason.TOO_SHORT.sentence}
    fitted = [n for n in documents if n not in ("lone-surrogate", "latin-1.txt", "image.png", "empty", "one-byte")]
    for name in fitted:
        assert {part["kind"] for part in kinds[name]} == {"exact"}, name


def test_the_report_adds_up(packed: Path, documents: dict[str, bytes], tiny_lm: Any) -> None:
    report = memvec.info(packed)
    records = all_records(packed)
    exact = [r for r in records if r.kind == Kind.EXACT]
    assert report.documents == len(documents)
    assert report.records == len(records)
    assert report.raw_records == len(records) - len(exact) == 5
    assert report.source_bytes == sum(map(len, documents.values()))
    texts = [d.decode() for n, d in documents.items() if n not in ("lone-surrogate", "latin-1.txt", "image.png")]
    assert report.source_tokens == sum(len(tiny_lm.encode(text)) for text in texts)
    assert report.fitted_tokens == sum(r.tokens for r in exact)
    assert report.vectors == sum(len(r.vectors) for r in exact)
    assert report.tokens_per_vector == pytest.approx(report.fitted_tokens / report.vectors, abs=1e-3)
    assert report.vector_bytes == sum(r.vectors.nbytes for r in exact)
    assert report.corrected_tokens == sum(len(r.corrections) for r in exact)
    assert report.raw_text_bytes == 1
    assert report.token_steps == sum(r.report.token_steps for r in records) > 0
    assert report.store_bytes == sum(p.stat().st_size for p in packed.rglob("*") if p.name != "LOCK" and p.is_file())
    assert 0 < report.zstd_bytes < report.source_bytes
    assert report.exact


def test_every_record_reports_its_fit(packed: Path) -> None:
    for record in all_records(packed):
        if record.kind == Kind.RAW:
            assert len(record.vectors) == 0 and record.payload
            continue
        fit = record.report
        assert fit.corrected_wrong + fit.corrected_margin == len(record.corrections)
        assert len(record.corrections) <= memvec.PackSettings().allowed(record.tokens)
        assert fit.least_margin >= 0.1
        assert fit.steps >= 1 and fit.token_steps >= fit.steps * record.tokens
        assert fit.nats_after < fit.nats_before / 2
        assert fit.seconds > 0


def test_zero_vectors_do_not_decode(packed: Path, store: Path) -> None:
    """The bytes come out of the vectors: with others, decoding fails and nothing is given out."""
    opened = Store.open(store)
    records = [r for r in all_records(store) if r.document.name == "prose.txt"]
    opened.commit([dataclasses.replace(r, vectors=r.vectors * 0) for r in records])
    with pytest.raises(ReconstructionError) as caught:
        memvec.cat(store, "prose.txt")
    assert caught.value.document == "prose.txt"
    assert memvec.verify(store).ok  # nothing is damaged: the digests are those of what was written
    report = memvec.verify(store, decode=True)
    assert not report.ok
    assert {p.kind for p in report.problems} == {"wrong_text"}
    assert len(report.problems) == len(records)
    assert memvec.cat(packed, "prose.txt").startswith(b"It is a truth")


@given(data=st.binary(max_size=80) | st.text(max_size=60).map(lambda s: s.encode("utf-8", "surrogatepass")))
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_document_comes_back(
    data: bytes, tiny: str, tiny_settings: Settings, tmp_path_factory: pytest.TempPathFactory
) -> None:
    store = tmp_path_factory.mktemp("any") / "s.memvec"
    memvec.pack([Source("d", data)], store, model=tiny, settings=tiny_settings(max_steps=40), dtype="float32")
    assert memvec.cat(store, "d") == data


def test_appending_replacing_and_leaving_alone(store: Path, tree: Path, tiny: str, tiny_settings: Settings) -> None:
    before = all_records(store)
    again = memvec.pack([tree], store, model=tiny, settings=tiny_settings(), dtype="float32")
    assert again.unchanged == again.documents == 15
    assert len(all_records(store)) == len(before)
    changed = Source("crlf.txt", b"another text now stands under the same name\r\n")
    fresh = Source("fresh.txt", b"a document that was not there before, and is now")
    report = memvec.pack([changed, fresh], store, model=tiny, settings=tiny_settings(), dtype="float32")
    assert report.documents == 2 and report.unchanged == 0
    assert memvec.cat(store, "crlf.txt") == changed.data
    assert memvec.cat(store, "fresh.txt") == fresh.data
    assert memvec.cat(store, "emoji.txt") == (tree / "emoji.txt").read_bytes()
    assert [row.name for row in memvec.list(store)].count("crlf.txt") == 1


def test_corrections_over_the_cap_lead_to_a_refit_and_then_to_raw(
    tmp_path: Path, tiny: str, tiny_settings: Settings
) -> None:
    text = Source("hard.txt", b"Zqx vrblt 81723 kwxy plonk! 99817 jjq 5521 xxz")
    hopeless = tiny_settings(max_steps=2, refits=2)
    report = memvec.pack([text], tmp_path / "a.memvec", model=tiny, settings=hopeless, dtype="float32")
    records = all_records(tmp_path / "a.memvec")
    assert all(r.kind == Kind.RAW and r.reason == RawReason.NO_FIT for r in records)
    assert all(r.report.steps == 3 * 2 for r in records)  # the cost of failing is counted too
    assert report.token_steps == sum(r.report.token_steps for r in records) > 0
    assert report.raw_text_bytes == len(text.data)
    assert memvec.cat(tmp_path / "a.memvec", "hard.txt") == text.data
    few = tiny_settings(nats_per_vector=20.0, max_steps=120)
    memvec.pack([text], tmp_path / "b.memvec", model=tiny, settings=few, dtype="float32")
    records = all_records(tmp_path / "b.memvec")
    assert all(r.kind == Kind.EXACT for r in records)
    asked = sum(r.report.nats_before for r in records) / 20.0
    assert sum(len(r.vectors) for r in records) > asked + len(records)  # refits took more vectors than the budget
    assert memvec.cat(tmp_path / "b.memvec", "hard.txt") == text.data


def test_strict_stores_no_wrong_token(tmp_path: Path, tiny: str, tiny_settings: Settings) -> None:
    text = Source("t.txt", b"It is a truth universally acknowledged, that a single man in possession of a fortune")
    for strict in (False, True):
        store = tmp_path / f"{strict}.memvec"
        chosen = tiny_settings(strict=strict, max_corrections=0.25, margin=0.5)
        memvec.pack([text], store, model=tiny, settings=chosen, dtype="float32")
        wrong = sum(r.report.corrected_wrong for r in all_records(store))
        assert (wrong == 0) == strict
        assert memvec.cat(store, "t.txt") == text.data


@pytest.mark.parametrize("count", [1, 3])
def test_a_fixed_number_of_vectors(tmp_path: Path, tiny: str, tiny_settings: Settings, count: int) -> None:
    text = Source("t.txt", b"She was convinced that she could have been happy with him, when it was no longer likely.")
    memvec.pack([text], tmp_path / "s", model=tiny, settings=tiny_settings(vectors=count), dtype="float32")
    exact = [r for r in all_records(tmp_path / "s") if r.kind == Kind.EXACT]
    assert exact and all(len(r.vectors) == count for r in exact)
    assert memvec.cat(tmp_path / "s", "t.txt") == text.data


def test_the_same_seed_makes_the_same_vectors(tmp_path: Path, tiny: str, tiny_settings: Settings) -> None:
    text = Source("t.txt", b"She was convinced that she could have been happy with him, when it was no longer likely.")
    made = []
    for number, seed in enumerate((5, 5, 6)):
        store = tmp_path / f"{number}.memvec"
        memvec.pack([text], store, model=tiny, settings=tiny_settings(seed=seed), dtype="float32")
        made.append([r.vectors.tobytes() for r in all_records(store)])
    assert made[0] == made[1] != made[2]


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

    monkeypatch.setattr("memvec.packing.plan", fail)
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


def test_a_wrong_joined_digest_is_never_given_out(store: Path, packed: Path) -> None:
    """Every record right, the whole wrong: as if a record of another version had been taken."""
    opened = Store.open(store)
    records = [r for r in all_records(packed) if r.document.name in ("prose.txt", "image.png")]
    lie = {r.document: dataclasses.replace(r.document, sha256="ab" * 32) for r in records}
    opened.commit([dataclasses.replace(r, document=lie[r.document]) for r in records])
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


def test_what_cannot_be_read_is_skipped_and_said(tmp_path: Path, tiny: str) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "good").write_bytes(b"ok")
    os.mkfifo(tree / "pipe")
    (tree / "loop").symlink_to(tree)
    with pytest.raises(PartialError) as caught:
        memvec.pack([tree], tmp_path / "s.memvec", model=tiny)
    assert sorted(name for name, _ in caught.value.skipped) == ["loop", "pipe"]
    assert memvec.cat(tmp_path / "s.memvec", "good") == b"ok"


LONG = [
    Source(f"{i:02}.txt", (f"Letter {i}. She was not sorry to be recalled from so dull a walk. " * 2).encode())
    for i in range(9)
]


def test_an_interrupted_pack_keeps_what_was_finished_and_goes_on(
    tmp_path: Path, tiny: str, tiny_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("memvec.packing.CERTIFY_AT_ONCE", 1)
    monkeypatch.setattr("memvec.planning.SORTED_AT_ONCE", 1)
    store = tmp_path / "s.memvec"
    settings = tiny_settings(memory=4_000_000)  # a few slots, so that documents end one after the other

    def stop(progress: Any) -> None:
        if progress.segments and progress.documents_done >= 3 and progress.stage == "fitting":
            raise KeyboardInterrupt

    with pytest.raises(InterruptedPackError) as caught:
        memvec.pack(LONG, store, model=tiny, settings=settings, dtype="float32", watch=stop)
    assert memvec.verify(store, decode=True).ok
    kept = memvec.list(store)
    assert 3 <= len(kept) < len(LONG)
    assert caught.value.finished == len(all_records(store)) >= len(kept)
    first = {(r.document.name, r.start): r.vectors.tobytes() for r in all_records(store)}
    report = memvec.pack(LONG, store, model=tiny, settings=settings, dtype="float32")
    assert report.documents == len(LONG) and report.unchanged == len(kept)
    assert memvec.verify(store, decode=True).ok
    for source in LONG:
        assert memvec.cat(store, source.name) == source.data
    later = {(r.document.name, r.start): r.vectors.tobytes() for r in all_records(store)}
    assert first.items() <= later.items()  # nothing that was finished was fitted again
    assert len(all_records(store)) == report.records


def test_a_killed_pack_leaves_a_valid_store(tmp_path: Path, tiny: str) -> None:
    store = tmp_path / "s.memvec"
    program = (
        "import sys, memvec, memvec.packing; from memvec.sources import Source\n"
        "memvec.packing.COMMIT_SECONDS = 0.0; memvec.packing.CERTIFY_AT_ONCE = 1\n"
        "s = memvec.PackSettings(nats_per_vector=9.0, segment_tokens=32, memory=1_500_000)\n"
        "docs = [Source(f'{i}', (f'Letter {i}. She was not sorry to be recalled from it. ' * 2).encode()) for i in range(40)]\n"
        "memvec.pack(docs, sys.argv[1], model=sys.argv[2], settings=s, dtype='float32',\n"
        "            watch=lambda p: print(p.segments_done, flush=True))\n"
    )
    with subprocess.Popen([sys.executable, "-c", program, store, tiny], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) >= 5:
                process.send_signal(signal.SIGKILL)
                break
    assert process.returncode == -signal.SIGKILL
    report = memvec.verify(store, decode=True)
    assert report.ok and report.records >= 4
    for row in memvec.list(store):
        assert (
            memvec.cat(store, row.name)
            == (f"Letter {row.name}. She was not sorry to be recalled from it. " * 2).encode()
        )
