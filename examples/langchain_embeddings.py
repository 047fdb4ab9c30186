"""A model as LangChain's `Embeddings`, here in its store in memory. Needs: pip install langchain-core

Run it with: python examples/langchain_embeddings.py MODEL "what to look for"
"""

from __future__ import annotations

import sys

from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import InMemoryVectorStore

from f2llm import Embedder


class F2LLMEmbeddings(Embeddings):
    """Queries get the model's own instruction, or another one; documents get none."""

    def __init__(self, model: str, *, truncate_dim: int | None = None, instruction: str | None = None) -> None:
        self._embedder = Embedder.load(model, truncate_dim=truncate_dim)
        self._instruction = instruction

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return self._embedder.encode_document(texts).tolist()

    def embed_query(self, text: str) -> list[float]:
        return self._embedder.encode_query([text], instruction=self._instruction)[0].tolist()


def main(model: str, query: str) -> None:
    store = InMemoryVectorStore(F2LLMEmbeddings(model))
    store.add_texts(["The weather is fine today.", "Die Hauptstadt von Kenia ist Nairobi.", "早上好"])
    for document, score in store.similarity_search_with_score(query, k=2):
        print(f"{score:.3f}  {document.page_content}")


if __name__ == "__main__":
    main(*sys.argv[1:3])
