"""A model as LlamaIndex's `BaseEmbedding`, here in its index in memory. Needs: pip install llama-index-core

Run it with: python examples/llamaindex_embeddings.py MODEL "what to look for"
"""

from __future__ import annotations

import sys
from typing import Any

from llama_index.core import VectorStoreIndex
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.bridge.pydantic import PrivateAttr
from llama_index.core.schema import TextNode

from f2llm import Embedder


class F2LLMEmbedding(BaseEmbedding):
    """Queries get the model's own instruction, documents get none."""

    _embedder: Embedder = PrivateAttr()

    def __init__(self, model: str, *, truncate_dim: int | None = None, **options: Any) -> None:
        super().__init__(model_name=model, **options)
        self._embedder = Embedder.load(model, truncate_dim=truncate_dim)

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._get_text_embeddings([text])[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return self._embedder.encode_document(texts).tolist()

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._embedder.encode_query([query])[0].tolist()

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._get_query_embedding(query)


def main(model: str, query: str) -> None:
    texts = ["The weather is fine today.", "Die Hauptstadt von Kenia ist Nairobi.", "早上好"]
    index = VectorStoreIndex([TextNode(text=text) for text in texts], embed_model=F2LLMEmbedding(model))
    for hit in index.as_retriever(similarity_top_k=2).retrieve(query):
        print(f"{hit.score:.3f}  {hit.text}")


if __name__ == "__main__":
    main(*sys.argv[1:3])
