"""The LangChain retriever, in a chain of LangChain's own."""

from __future__ import annotations

import asyncio
import copy
import multiprocessing
import shutil
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.runnables import RunnableLambda

from memvec.errors import NotFoundError, UsageError
from memvec.integrations.langchain_retriever import MemvecRetriever

QUERY = "a single man in want of a wife"


def test_records_come_as_documents_with_their_text_and_where_it_stands(
    packed: Path, documents: dict[str, bytes]
) -> None:
    found = MemvecRetriever(store=str(packed), k=3).invoke(QUERY)
    assert len(found) == 3 and all(isinstance(document, Document) for document in found)
    assert found[0].metadata["source"] == "prose.txt"
    for one in found:
        place = one.metadata
        data = documents[place["source"]][place["start"] : place["start"] + place["length"]]
        assert one.page_content == data.decode("utf-8", "replace")


def test_it_goes_into_a_chain_and_decodes_only_where_wanted(packed: Path) -> None:
    retriever = MemvecRetriever(store=str(packed), k=2, decode=False, documents=("prose.txt",))
    chain = retriever | RunnableLambda(lambda documents: [(d.metadata["source"], d.page_content) for d in documents])
    assert chain.invoke(QUERY) == [("prose.txt", "")] * 2
    assert MemvecRetriever(store=str(packed), min_score="auto").invoke("Suggest a healthy breakfast.") == []


def test_what_is_wrong_is_said_when_it_is_made(packed: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        MemvecRetriever(store=str(tmp_path / "none"))
    with pytest.raises(ValueError, match="expected lm, bm25"):
        MemvecRetriever(store=str(packed), embedder="glove")


@pytest.fixture
def retriever(packed: Path) -> MemvecRetriever:
    return MemvecRetriever(store=packed, k=3)


@pytest.fixture
def only_prose(store: Path) -> Path:
    """A copy of the store from which everything else was removed."""
    import memvec

    memvec.rm(store, [name for name in memvec.Store.open(store).documents() if name != "prose.txt"])
    return store


def sources(found: list[Document]) -> list[str]:
    return [document.metadata["source"] for document in found]


class TestOptions:
    def test_one_query_may_have_its_own(self, retriever: MemvecRetriever) -> None:
        whole = retriever.invoke(QUERY)
        assert retriever.invoke(QUERY, k=1) == whole[:1]
        assert retriever.invoke(QUERY, k=2, decode=False)[1].page_content == ""
        assert set(sources(retriever.invoke(QUERY, documents="crlf.txt"))) == {"crlf.txt"}
        assert set(sources(retriever.invoke(QUERY, documents=["crlf.txt"]))) == {"crlf.txt"}
        assert retriever.invoke(QUERY, min_score=1e6) == []
        assert retriever.invoke(QUERY, where={"author": "nobody"}) == []
        assert retriever.invoke(QUERY) == whole

    def test_they_come_through_bind_batch_and_asyncio(self, retriever: MemvecRetriever) -> None:
        first = retriever.invoke(QUERY)[:1]
        assert retriever.bind(k=1).invoke(QUERY) == first
        assert retriever.batch([QUERY, QUERY], k=1) == [first, first]
        assert asyncio.run(retriever.ainvoke(QUERY, k=1)) == first
        assert asyncio.run(retriever.abatch([QUERY], k=1)) == [first]
        assert list(retriever.stream(QUERY, k=1)) == [first]
        assert (retriever | RunnableLambda(sources)).invoke(QUERY, k=1) == sources(first)

    def test_search_kwargs_hold_them_by_name(self, packed: Path) -> None:
        made = MemvecRetriever(store=packed, search_kwargs={"k": 2, "documents": ["prose.txt"]})
        assert sources(made.invoke(QUERY)) == ["prose.txt"] * 2
        assert sources(made.invoke(QUERY, k=1)) == ["prose.txt"]

    def test_one_that_is_not_there_is_refused(self, retriever: MemvecRetriever, packed: Path) -> None:
        with pytest.raises(UsageError, match=r"no option 'top_k', expected k, documents"):
            retriever.invoke(QUERY, top_k=2)
        with pytest.raises(ValueError, match="no option 'fetch_k'"):
            MemvecRetriever(store=packed, search_kwargs={"fetch_k": 2})
        with pytest.raises(UsageError, match="k is 0"):
            retriever.invoke(QUERY, k=0)


def ask(retriever: MemvecRetriever) -> list[Document]:
    found: list[Document] = retriever.invoke(QUERY, k=1)
    return found


class TestCopies:
    def test_another_process_opens_the_store_again(self, retriever: MemvecRetriever) -> None:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            assert pool.submit(ask, retriever).result(timeout=300) == ask(retriever)

    def test_a_store_that_is_gone_is_said_at_the_first_query(self, packed: Path, tmp_path: Path) -> None:
        """An error while arguments arrive would break a pool of processes."""
        store = shutil.copytree(packed, tmp_path / "s.memvec")
        state = MemvecRetriever(store=store, k=1).__getstate__()
        shutil.rmtree(store)
        made = MemvecRetriever.__new__(MemvecRetriever)
        made.__setstate__(state)
        with pytest.raises(NotFoundError):
            made.invoke(QUERY)

    @pytest.mark.parametrize("how", [copy.copy, copy.deepcopy, lambda made: made.model_copy(deep=True)])
    def test_copies_find_the_same(self, how: Any, retriever: MemvecRetriever) -> None:
        assert ask(how(retriever)) == ask(retriever)

    def test_a_copy_with_other_fields_obeys_them(self, retriever: MemvecRetriever, only_prose: Path) -> None:
        assert len(retriever.model_copy(update={"k": 1}).invoke(QUERY)) == 1
        other = retriever.model_copy(update={"store": only_prose})
        assert set(sources(other.invoke(QUERY, k=9))) == {"prose.txt"}
        assert len(set(sources(retriever.invoke(QUERY, k=9)))) > 2


def test_the_model_is_loaded_once(retriever: MemvecRetriever, monkeypatch: pytest.MonkeyPatch) -> None:
    import memvec
    from memvec.lm import load

    loads: list[Path] = []
    read = load._read
    monkeypatch.setattr(load, "_read", lambda *given: (loads.append(given[0]), read(*given))[1])
    memvec.unload()
    for query in ("wife", "carriage", "letter"):
        retriever.invoke(query)
    assert len(loads) == 1
