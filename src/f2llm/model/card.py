"""The README of an exported model: what it is, how to call it, what it was made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from f2llm.model.sizes import Shape


@dataclass(frozen=True)
class CardFacts:
    """What the card tells; `history` are sentences on how the weights came about, in order."""

    name: str
    recipe: str
    description: str
    history: Sequence[str]
    sources: Mapping[str, str]
    dims: Sequence[int]
    max_seq_length: int
    shape: Shape


def model_card(facts: CardFacts) -> str:
    """Markdown with the metadata header that model hubs read."""
    shape = facts.shape
    smaller = ", ".join(map(str, facts.dims[:-1])) or "no smaller size"
    history = "\n".join(f"{number}. {sentence}" for number, sentence in enumerate(facts.history, start=1))
    instructions = "\n".join(f"| `{source}` | {text} |" for source, text in facts.sources.items())
    return f"""---
library_name: sentence-transformers
pipeline_tag: sentence-similarity
tags: [sentence-transformers, feature-extraction, multilingual, matryoshka, f2llm]
---

# {facts.name}

A text embedding model of {shape.parameters:,} parameters ({shape.embedding_parameters:,} of them the token table):
{shape.layers} layers, hidden size {shape.hidden}, MLP {shape.mlp}, {shape.heads} heads
({shape.kv_heads} for keys and values). Vectors have {shape.hidden} dimensions and may be cut to {smaller} and
normalised again. The embedding is the last token's hidden state (EOS), L2-normalised.
Texts are read up to {facts.max_seq_length} tokens.

## Use

```python
from f2llm import Embedder

model = Embedder.load("path/to/{facts.name}")
queries = model.encode_query(["..."], instruction="Given a question, retrieve passages that answer it.")
documents = model.encode_document(["..."])
scores = model.similarity(queries, documents)
```

The directory also loads in sentence-transformers: `SentenceTransformer("path/to/{facts.name}")`.
A query carries the prompt `Instruct: {{instruction}}\\nQuery: `; documents carry none.

## How it was made

Recipe `{facts.recipe}`: {facts.description}

{history}

Instructions seen in training, by source (their prompts are stored under these names):

| source | instruction |
|---|---|
{instructions}

## Limits

It knows the kinds of text and the languages of its recipe; the recipe's report has the score of each language,
worst first.

Check this directory at any time with `f2llm doctor path/to/{facts.name}`.
"""
