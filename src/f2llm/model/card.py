"""The README of a model: what it is, how to call it, how good it is and where it is not, what it was made from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from f2llm.core.languages import language
from f2llm.model.sizes import Shape

_TAGS = "[sentence-transformers, feature-extraction, multilingual, matryoshka, f2llm]"
_TEACHER = "distilled_from"
_SHOWN = 5  # languages of the lowest score


@dataclass(frozen=True)
class SourceFacts:
    """A data source: rows that it trains with, its licence where known, its instruction if it has one."""

    name: str
    rows: int
    license: str | None
    instruction: str | None


@dataclass(frozen=True)
class Scores:
    """Held-out scores between 0 and 1: by task (measure, score), over all at each dimension, and by language."""

    tasks: Mapping[str, tuple[str, float]]
    macro: float
    by_dim: Mapping[int, float]
    by_language: Mapping[str, float]


@dataclass(frozen=True)
class Teacher:
    """What a model was distilled from: the name it had then, and `model.weights.weights_digest` of its directory."""

    name: str
    weights: str


@dataclass(frozen=True)
class CardFacts:
    """What the card tells.

    `history` are sentences on how the weights came about, in order; `languages` the rows for training by language of
    the query; `digests` name what must be the same for the same weights; `command` builds the model again.
    """

    name: str
    recipe: str
    description: str
    license: str | None
    command: str
    seed: int
    digests: Mapping[str, str]
    versions: Mapping[str, str]
    history: Sequence[str]
    sources: Sequence[SourceFacts]
    languages: Mapping[str, int]
    scores: Scores | None
    dims: Sequence[int]
    max_seq_length: int
    shape: Shape
    teacher: Teacher | None = None


def model_card(facts: CardFacts) -> str:
    """Markdown with the metadata header that model hubs read."""
    shape = facts.shape
    smaller = ", ".join(map(str, facts.dims[:-1]))
    cut = f"may be cut to {smaller} and normalised again" if smaller else "were not trained to be cut"
    history = "\n".join(f"{number}. {sentence}" for number, sentence in enumerate(facts.history, start=1))
    return f"""{_header(facts.license, facts.languages, facts.teacher)}
# {facts.name}

A text embedding model of {shape.parameters:,} parameters ({shape.embedding_parameters:,} of them the token table):
{shape.layers} layers, hidden size {shape.hidden}, MLP {shape.mlp}, {shape.heads} heads
({shape.kv_heads} for keys and values). Vectors have {shape.hidden} dimensions and {cut}.
The embedding is the last token's hidden state (EOS), L2-normalised. Texts are read up to {facts.max_seq_length} tokens.
Licence: {facts.license or "not stated by the recipe"}.

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

## How good it is

{_scores(facts.scores)}

## Limits

{_limits(facts)}

## How it was made

Recipe `{facts.recipe}`: {facts.description}

{history}

### Data

{_data(facts)}

### Make it again

```
{facts.command}
```

Seed {facts.seed}; {", ".join(f"{name} {version}" for name, version in facts.versions.items())}. On a CPU the same
recipe, data and versions give the same weights.

{_bullets(facts.digests)}

Check this directory at any time with `f2llm doctor path/to/{facts.name}`.
"""


def short_card(name: str, shape: Shape, text: str, license: str | None = None) -> str:
    """The README of a model that came about by one operation on other models."""
    return f"""{_header(license, {})}
# {name}

A text embedding model of {shape.parameters:,} parameters: {shape.layers} layers, hidden size {shape.hidden}, MLP
{shape.mlp}.

{text}

Check this directory at any time with `f2llm doctor`.
"""


def read_teacher(directory: Path) -> Teacher | None:
    """The teacher that the card of a model directory names; None where there is no card, or none in it."""
    from huggingface_hub import metadata_load

    try:
        stated: Any = (metadata_load(directory / "README.md") or {}).get(_TEACHER)
        return Teacher(str(stated["name"]), str(stated["weights_sha256"])) if stated else None
    except Exception:  # no file, no YAML (of a package that is not ours), another form: a card is free text
        return None


def _header(license: str | None, languages: Mapping[str, int], teacher: Teacher | None = None) -> str:
    codes = sorted({found for tag in languages if (found := language(tag).iso639_3)})
    lines = ["library_name: sentence-transformers", "pipeline_tag: sentence-similarity", f"tags: {_TAGS}"]
    lines += [f"license: {license}"] if license else []
    lines += [f"language: [{', '.join(f'{code!r}' for code in codes)}]"] if codes else []
    if teacher:  # not base_model, which on the hub means the weights that training began with
        lines.append(f"{_TEACHER}: {{name: {json.dumps(teacher.name)}, weights_sha256: {json.dumps(teacher.weights)}}}")
    return "\n".join(["---", *lines, "---", ""])


def _scores(scores: Scores | None) -> str:
    """Tasks, then the mean over languages at each dimension."""
    if scores is None:
        return "Not measured: its recipe held no texts out of training. Score it on a benchmark before you rely on it."
    rows = "\n".join(f"| {name} | {measure} | {score:.3f} |" for name, (measure, score) in scores.tasks.items())
    dims = "".join(f" {dim} |" for dim in scores.by_dim)
    values = "".join(f" {value:.3f} |" for value in scores.by_dim.values())
    return f"""On texts held out of training, means over {len(scores.by_language)} languages, each counting the same:

| task | measure | score |
|---|---|---|
{rows}
| all | mean over languages | {scores.macro:.3f} |

| dimensions |{dims}
|---|{"---|" * len(scores.by_dim)}
| score |{values}"""


def _limits(facts: CardFacts) -> str:
    few = sum(count < 100 for count in facts.languages.values())
    known = f"""- It knows the kinds of text and the languages of its recipe; nothing is known about others.
- {few} of {len(facts.languages)} languages had fewer than 100 training texts."""
    if facts.scores is None:
        return known
    ranked = sorted(facts.scores.by_language.items(), key=lambda item: item[1])
    weak = ", ".join(f"{language(tag).name} (`{tag}`, {score:.2f})" for tag, score in ranked[:_SHOWN])
    return f"""{known}
- The lowest scores: {weak}.
- The scores are of held-out texts of the same sources; other texts will do worse."""


def _data(facts: CardFacts) -> str:
    rows = "\n".join(
        f"| `{source.name}` | {source.rows:,} | {source.license or 'not stated'} | {source.instruction or ''} |"
        for source in facts.sources
    )
    ranked = sorted(facts.languages.items(), key=lambda item: (-item[1], item[0]))
    listed = ", ".join(f"{tag} {count:,}" for tag, count in ranked)
    return f"""| source | rows for training | licence | instruction |
|---|---|---|---|
{rows}

Prompts with these instructions are stored under the sources' names.

<details><summary>{len(ranked)} languages, with the rows whose query is in them</summary>

{listed}

</details>"""


def _bullets(digests: Mapping[str, str]) -> str:
    return "\n".join(f"- {name}: `{digest}`" for name, digest in digests.items())
