"""A LangChain retriever for a store. It finds records by their keys and returns them as LangChain documents.

from memvec.integrations.langchain_retriever import MemvecRetriever
retriever = MemvecRetriever(store="letters.memvec", k=4)
retriever.invoke("Where was the last letter written?")
retriever.invoke("Who wrote it?", k=1, documents=["1813/*"])
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from memvec.errors import MissingExtraError, UsageError
from memvec.guard import loading_alone
from memvec.identity.runtime import Runtime, open_runtime
from memvec.retrieval.search import Searcher, with_text

try:
    from langchain_core.callbacks import AsyncCallbackManagerForRetrieverRun, CallbackManagerForRetrieverRun
    from langchain_core.documents import Document
    from langchain_core.retrievers import BaseRetriever
    from langchain_core.runnables.config import run_in_executor
    from pydantic import Field, PrivateAttr
except ImportError as error:
    raise MissingExtraError(
        "the LangChain retriever needs langchain-core. Install it: pip install 'memvec[langchain]'."
    ) from error

OPTIONS = ("k", "documents", "min_score", "where", "decode")


class MemvecRetriever(BaseRetriever):  # type: ignore[misc]
    """Finds records of a store. A document has the decoded, verified text of a record, and its source as metadata.

    `invoke` also takes the fields `k`, `documents`, `min_score`, `where` and `decode` for one query. `search_kwargs` may hold
    them for all queries, as in other retrievers of LangChain. Threads may share a retriever. Without `decode` the text is empty
    and no model runs, which is enough if the prompt gets the memory. The store is read when the retriever is made. Make
    another one to search documents that were packed later.
    """

    store: str | Path
    k: int = 4
    documents: tuple[str, ...] | str = ()  # names or patterns; by default all
    min_score: float | Literal["auto"] | None = None
    where: dict[str, str] = Field(default_factory=dict)  # metadata that a document must have
    embedder: str | None = None
    model: str | None = None
    decode: bool = True
    search_kwargs: dict[str, Any] = Field(default_factory=dict)
    _opened: tuple[tuple[str, str | None, str | None], Runtime, Searcher] | None = PrivateAttr(default=None)

    def model_post_init(self, context: Any) -> None:
        """Open the store and read its keys. NotFoundError, UsageError, FingerprintError, StoreDamagedError."""
        self._options({})
        self._read()

    def __getstate__(self) -> dict[Any, Any]:
        """The fields. A copy opens the store again at its first query."""
        return {**super().__getstate__(), "__pydantic_private__": {"_opened": None}}

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> MemvecRetriever:
        made = type(self).__new__(type(self))
        made.__setstate__(copy.deepcopy(self.__getstate__(), memo))
        return made

    def _read(self) -> tuple[Runtime, Searcher]:
        """The opened store and its keys, read again if a copy has another store."""
        key = str(self.store), self.embedder, self.model
        with loading_alone():  # threads that come first wait for one of them
            if self._opened is None or self._opened[0] != key:
                runtime = open_runtime(self.store, model=self.model)
                self._opened = key, runtime, Searcher(runtime, self.embedder)
            return self._opened[1:]

    def _options(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The options of one query: from `given`, else from `search_kwargs`, else from the fields. UsageError."""
        named = {**self.search_kwargs, **given}
        if unknown := sorted(set(named) - {*OPTIONS, "verbose"}):
            raise UsageError(f"a query has no option {unknown[0]!r}, expected {', '.join(OPTIONS)}.")
        return {name: named.get(name, getattr(self, name)) for name in OPTIONS}

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun | None = None, **given: Any
    ) -> list[Document]:
        asked, (runtime, searcher) = self._options(given), self._read()
        hits = searcher.search(query, asked["k"], asked["documents"], asked["min_score"], asked["where"])
        if asked["decode"] and hits:
            hits = with_text(runtime, hits)
        return [
            Document(
                id=hit.record,
                page_content=hit.text or "",
                metadata={"source": hit.document, "score": hit.score, "start": hit.start, "length": hit.length},
            )
            for hit in hits
        ]

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun | None = None, **given: Any
    ) -> list[Document]:
        # LangChain's own method drops the options.
        found: list[Document] = await run_in_executor(None, self._get_relevant_documents, query, **given)
        return found
