"""A Runtime: what is loaded once, what is read again, and what its verbs refuse."""

from __future__ import annotations

import inspect
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import memvec
from memvec.checkpoints import files
from memvec.cli.main import run
from memvec.errors import NotFoundError, UsageError
from memvec.identity import runtime
from memvec.lm import load as lm_load
from memvec.retrieval.build import index_info
from memvec.retrieval.search import retrieve
from memvec.store.store import Store

VERBS = ["build_index", "cat", "compare", "evaluate", "generate", "read", "search", "unpack", "verify"]


@pytest.fixture
def copied(remembering: Path, tmp_path: Path) -> Path:
    """A copy of the store with memories, to be changed."""
    return Path(shutil.copytree(remembering, tmp_path / "copy.memvec"))


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """How often stores were opened, models found and loaded, tokenizers and embedding tables read."""
    from transformers import AutoTokenizer

    counts: Counter[str] = Counter()

    def counted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            counts[name] += 1
            return function(*args, **options)

        return call

    memvec.unload()
    monkeypatch.setattr(Store, "open", counted("store", Store.open))
    monkeypatch.setattr(runtime, "find_model", counted("found", runtime.find_model))
    monkeypatch.setattr(lm_load, "_read", counted("model", lm_load._read))
    monkeypatch.setattr(AutoTokenizer, "from_pretrained", counted("tokenizer", AutoTokenizer.from_pretrained))
    monkeypatch.setattr(files, "embedding_table", counted("table", files.embedding_table))
    yield counts
    memvec.unload()


class TestOnce:
    def test_everything_is_loaded_once(self, remembering: Path, tiny: str, loads: Counter[str]) -> None:
        opened = memvec.open(remembering, model=tiny)
        assert memvec.cat(opened, "prose.txt") == memvec.cat(opened, "prose.txt")
        first = memvec.generate(opened, "The carriage", "prose.txt", max_new_tokens=2)
        assert first == memvec.generate(opened, "The carriage", "prose.txt", max_new_tokens=2)
        assert memvec.search(opened, "wife", 2) == memvec.search(opened, "wife", 2)
        assert dict(memvec.read(opened, ["crlf.txt"]))["crlf.txt"].startswith(b"first line")
        assert loads == {"store": 1, "found": 1, "model": 1, "tokenizer": 1}

    def test_search_reads_tokenizer_and_table_once(self, remembering: Path, tiny: str, loads: Counter[str]) -> None:
        opened = memvec.open(remembering, model=tiny)
        for query in ("wife", "carriage", "line"):
            memvec.search(opened, query)
        assert loads == {"store": 1, "found": 1, "tokenizer": 1, "table": 1}

    def test_search_gives_the_same_before_and_after_the_model_is_loaded(self, remembering: Path, tiny: str) -> None:
        cold, warm = memvec.open(remembering, model=tiny), memvec.open(remembering, model=tiny)
        assert warm.lm is warm.loaded and cold.loaded is None
        for query in ("a single man in want of a wife", "  the <|end|> of a line", ""):
            if query:
                assert memvec.search(cold, query, 9) == memvec.search(warm, query, 9)

    def test_generate_by_retrieval(
        self, remembering: Path, tiny: str, loads: Counter[str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        """`memvec generate --retrieve` opens, finds and loads once."""
        words = ["generate", str(remembering), "a single man in want of a wife", "--retrieve", "1", "-m", tiny]
        assert run([*words, "--max-new-tokens", "2"]) == 0
        assert "from prose.txt" in capsys.readouterr().out
        assert loads == {"store": 1, "found": 1, "model": 1, "tokenizer": 1}

    def test_threads_load_one_model(self, remembering: Path, tiny: str, loads: Counter[str]) -> None:
        opened = memvec.open(remembering, model=tiny)
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda _: memvec.cat(opened, "crlf.txt"), range(8)))
        assert len({*found}) == 1
        assert loads["model"] == loads["found"] == 1

    def test_a_model_that_is_kept_outlives_unload(self, few: Path, tiny: str) -> None:
        opened = memvec.open(few, model=tiny)
        lm = opened.lm
        memvec.unload()
        assert opened.lm is lm


class TestRefused:
    @pytest.mark.parametrize("keyword", [{"model": "x"}, {"device": "cpu"}, {"batch": 3}, {"watch": print}])
    @pytest.mark.parametrize("verb", VERBS)
    def test_keywords_beside_a_runtime(self, few: Path, tmp_path: Path, verb: str, keyword: dict[str, Any]) -> None:
        function = getattr(memvec, verb)
        values = {"output": tmp_path / "out", "query": "words", "document": "a", "prompt": "words", "documents": ["a"],
                  "questions": []}  # fmt: skip
        needed = [p.name for p in inspect.signature(function).parameters.values() if p.default is p.empty][1:]
        arguments = {name: values[name] for name in needed if name != "opening"}
        with pytest.raises(UsageError, match=rf"{next(iter(keyword))} cannot be changed for an opened store"):
            made = function(memvec.open(few), **arguments, **keyword)
            list(made if inspect.isgenerator(made) else ())

    def test_none_is_no_keyword(self, few: Path) -> None:
        assert memvec.cat(memvec.open(few), "image.png", model=None, batch=None) == memvec.cat(few, "image.png")

    def test_a_store_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(NotFoundError, match="no store at"):
            memvec.open(tmp_path / "none")


class TestStore:
    def test_it_stands_for_the_path(self, few: Path) -> None:
        opened = memvec.open(few, model="a model", batch=3)
        assert memvec.info(opened).documents == memvec.info(few).documents  # type: ignore[arg-type]
        assert repr(opened) == f"memvec.open({str(few)!r}, model='a model', batch=3)"

    def test_verbs_take_an_opened_store(self, few: Path, tiny: str) -> None:
        opened = Store.open(few)
        assert memvec.cat(opened, "crlf.txt", model=tiny) == memvec.cat(few, "crlf.txt")
        assert memvec.verify(opened).ok

    def test_verify_reads_the_files_again(self, few_copy: Path, tiny: str) -> None:
        """An opened store may hide damage that came later: verify reads the files again."""
        opened = memvec.open(few_copy, model=tiny)
        assert memvec.verify(opened, decode=True).ok and memvec.cat(opened, "crlf.txt")
        file = few_copy / opened.store.manifest.shards[0].path
        data = bytearray(file.read_bytes())
        data[-1] ^= 1
        file.write_bytes(data)
        assert not memvec.verify(opened).ok

    def test_damage_is_skipped(self, few_copy: Path, tiny: str, tmp_path: Path) -> None:
        opened = memvec.open(few_copy, model=tiny)
        assert memvec.unpack(opened, tmp_path / "a", on_error="skip").documents == 3
        assert memvec.unpack(opened, tmp_path / "b", on_error="partial", allow="relative").documents == 3

    def test_build_index_reads_the_store_again(self, copied: Path, tiny: str) -> None:
        opened = memvec.open(copied, model=tiny)
        before = memvec.search(opened, "wife", 3, embedder="lm")
        assert index_info(opened)[0].factory is None
        made = memvec.build_index(opened, factory="Flat")
        assert [report.factory for report in made] == ["Flat", None] and index_info(opened) == made
        assert [hit.record for hit in memvec.search(opened, "wife", 3, embedder="lm")] == [hit.record for hit in before]

    def test_refresh_sees_what_was_removed(self, copied: Path, tiny: str) -> None:
        opened = memvec.open(copied, model=tiny)
        assert "prose.txt" in retrieve(opened, "a single man in want of a wife", 3, min_score=None)
        memvec.rm(copied, ["prose.txt"])
        assert memvec.search(opened, "a single man in want of a wife", 1)[0].document == "prose.txt"
        opened.refresh()
        assert "prose.txt" not in {hit.document for hit in memvec.search(opened, "a single man", 9)}
