"""The LangChain retriever, in a chain of LangChain's own."""

from __future__ import annotations

from pathlib import Path

import pytest
from langchain_core.documents import Document
from langchain_core.runnables import RunnableLambda

from memvec.errors import NotFoundError
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
