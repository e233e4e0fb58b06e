"""A LangChain retriever over a store: records found by their keys, as LangChain documents.

from memvec.integrations.langchain_retriever import MemvecRetriever
retriever = MemvecRetriever(store="letters.memvec", k=4)
retriever.invoke("Where was the last letter written?")
"""

from __future__ import annotations

from typing import Any, Literal

from memvec.errors import MissingExtraError
from memvec.searching import Searcher, with_text
from memvec.store import Store

try:
    from langchain_core.callbacks import CallbackManagerForRetrieverRun
    from langchain_core.documents import Document
    from langchain_core.retrievers import BaseRetriever
    from pydantic import PrivateAttr
except ImportError as error:
    raise MissingExtraError(
        "the LangChain retriever needs langchain-core. Install it: pip install 'memvec[langchain]'."
    ) from error


class MemvecRetriever(BaseRetriever):  # type: ignore[misc]
    """Records of a store as documents: their decoded, verified text, and where they come from as metadata.

    Without `decode` the text is empty and no model has to run: enough where the memory is what goes into the prompt.
    The store is read when the retriever is made; make another to see what was packed since.
    """

    store: str
    k: int = 4
    documents: tuple[str, ...] = ()  # globs; none: all
    min_score: float | Literal["auto"] | None = None
    embedder: str | None = None
    model: str | None = None
    decode: bool = True
    _searcher: Searcher = PrivateAttr()

    def model_post_init(self, context: Any) -> None:
        """Open the store and read its keys. NotFoundError, UsageError, FingerprintError, StoreDamagedError."""
        self._searcher = Searcher(Store.open(self.store), self.embedder, self.model)

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun | None = None
    ) -> list[Document]:
        hits = self._searcher.search(query, self.k, self.documents, self.min_score)
        if self.decode and hits:
            hits = with_text(self._searcher.store, hits, self.model)
        return [
            Document(
                id=hit.record,
                page_content=hit.text or "",
                metadata={"source": hit.document, "score": hit.score, "start": hit.start, "length": hit.length},
            )
            for hit in hits
        ]
