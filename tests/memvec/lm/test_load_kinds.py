"""Checkpoints as the hub has them: each kind works, or is refused before any work. The table is `checkpoint_kinds`."""

from __future__ import annotations

import importlib.util
import re
import runpy
import shutil
from pathlib import Path

import checkpoint_makers as of
import pytest
from checkpoint_kinds import PAGE, REFUSED, WORKS, Row, filled
from conftest import TINY, TINY_SETTINGS
from printed import steps

import memvec
from memvec.checkpoints.files import load_tokenizer
from memvec.cli.main import run
from memvec.errors import UnsupportedModelError, UsageError
from memvec.settings import KVSettings, PackSettings

TEXT = b"It is a truth"


def cases(rows: list[Row]) -> list[object]:
    """A parameter for each kind of the rows."""
    return [pytest.param(row, name, id=f"{name}, {row.checkpoint[:24]}") for row in rows for name in row.kinds]


def made(row: Row, name: str, place: Path) -> str:
    """The folder of a checkpoint of this kind."""
    if row.without and importlib.util.find_spec(row.without):
        pytest.skip(f"{row.without} is installed")
    folder = Path(shutil.copytree(TINY, place / "model"))
    row.kinds[name](folder)
    return str(folder)


@pytest.mark.parametrize(("row", "name"), cases(WORKS))
def test_works(row: Row, name: str, tmp_path: Path) -> None:
    """A text goes into a store and comes back. Equal tensors have an equal fingerprint. A memory answers."""
    folder, store = made(row, name, tmp_path), tmp_path / "s.memvec"
    source = memvec.Source("a.txt", TEXT)
    report = memvec.pack(source, store, model=folder, settings=PackSettings(**TINY_SETTINGS), dtype="float32")
    assert report.raw_records == row.raw
    memvec.unpack(store, tmp_path / "out")
    assert (tmp_path / "out" / "a.txt").read_bytes() == TEXT
    if name in row.same:
        assert memvec.fingerprint(folder) == memvec.fingerprint(str(TINY))
    assert not (tmp_path / "model" / "ran").exists()
    if row.memories_say:
        with pytest.raises(UsageError, match=re.escape(row.memories_say)):
            memvec.pack(source, tmp_path / "kv.memvec", model=folder, kind="kv")
    if row.chats:
        memvec.pack(source, store, model=folder, kind="kv", kv=KVSettings(ratio=2), dtype="float32")
        answer = memvec.generate(store, "Who?", "a.txt", max_new_tokens=3)
        assert answer.kind == "kv" and 1 <= answer.tokens <= 3


@pytest.mark.parametrize(("row", "name"), cases(REFUSED))
def test_refused(row: Row, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The error has the row's advice. Nothing is written, no code is run, and the program ends with the error's code."""
    folder, store = made(row, name, tmp_path), tmp_path / "s.memvec"
    assert row.error is not None
    if row.loading:
        memvec.fingerprint(folder)
    else:
        with pytest.raises(row.error, match=re.escape(row.says)) as found:
            memvec.fingerprint(folder)
        assert folder in str(found.value)
    (tmp_path / "a.txt").write_bytes(TEXT)
    assert run(["pack", str(tmp_path / "a.txt"), "-o", str(store), "-m", folder, "-q"]) == row.error.exit_code
    said = capsys.readouterr().err
    assert row.says in said and "Traceback" not in said
    assert not store.exists() and not (tmp_path / "model" / "ran").exists()


def test_a_special_token_without_an_embedding(tmp_path: Path) -> None:
    """A text that holds its word is packed as any text. In a prompt it is refused, and a template that writes it is too."""
    folder, store = Path(shutil.copytree(TINY, tmp_path / "model")), tmp_path / "s.memvec"
    of.token_of_pictures(folder)
    text, settings = TEXT + b"<picture>", PackSettings(**TINY_SETTINGS)
    memvec.pack(memvec.Source("a.txt", text), store, model=str(folder), settings=settings, dtype="float32")
    assert memvec.cat(store, "a.txt") == text
    memvec.pack(memvec.Source("a.txt", text), store, model=str(folder), kind="kv", kv=KVSettings(ratio=2))
    with pytest.raises(UsageError, match="the prompt holds a token with the id 512"):
        memvec.generate(store, "Who is in the <picture>?", "a.txt")
    of.tokenizer(chat_template="<picture>" + of.CHATML)(folder)
    with pytest.raises(UnsupportedModelError, match="the tokenizer's token '<picture>' has the id 512"):
        memvec.pack(memvec.Source("a.txt", text), tmp_path / "t.memvec", model=str(folder))


def test_the_page_has_the_table() -> None:
    """`python tests/checkpoint_kinds.py` writes it."""
    page = PAGE.read_text("utf-8")
    assert filled(page) == page and page.count(WORKS[0].checkpoint) == 1


def test_the_ends_of_the_checkpoint_end_an_answer(tmp_path: Path) -> None:
    """A list of ends in `generation_config.json` holds, also where the tokenizer names one end."""
    folder, store = Path(shutil.copytree(TINY, tmp_path / "model")), tmp_path / "s.memvec"
    memvec.pack(memvec.Source("a.txt", TEXT), store, model=str(folder), kind="kv", kv=KVSettings(ratio=2))
    long = memvec.generate(store, "Who?", "a.txt", max_new_tokens=6)
    vocabulary = load_tokenizer(folder).get_vocab().values()
    of.generation(eos_token_id=sorted(vocabulary))(folder)
    assert long.tokens == 6
    assert memvec.generate(store, "Who?", "a.txt", max_new_tokens=6).tokens == 1


@pytest.mark.parametrize("kind", ["wrapper", "quantised"])
def test_the_ways_out_on_the_page_work(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The programs of the page make a folder that memvec takes."""
    maker = of.wrapper("gemma3") if kind == "wrapper" else of.small_float8
    folder = Path(shutil.copytree(TINY, tmp_path / "downloaded"))
    maker(folder)
    monkeypatch.chdir(tmp_path)
    programs = [step.source for step in steps(PAGE.read_text("utf-8")) if step.language == "python"]
    (tmp_path / "program.py").write_text(next(source for source in programs if kind in source))
    runpy.run_path("program.py")
    report = memvec.pack(memvec.Source("a.txt", b"x"), tmp_path / "s.memvec", model=str(tmp_path / "own"))
    assert report.documents == 1
