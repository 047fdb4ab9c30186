"""What the training benchmarks train on: rows of a query, a positive and hard negatives, one source a batch.

With the real files (`docs/reference/real-data.md`): questions with their paragraphs in twelve languages (XQuAD),
English sentences with translations into 128 languages (NTREX) and problems with programs in nine languages (MBXP), by
Qwen3's tokenizer, at most 1,024 tokens. Without them: ids at random, lengths log-normal, queries with median 20 tokens,
documents with median 90 (sigma 0.8, at most 1,024), which is how the real ones are spread. Negatives are other
documents of the source, at random. Queries carry the source's instruction.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from f2llm.core.errors import ConfigError
from f2llm.core.types import Example
from f2llm.data.convert import CONVERTERS
from f2llm.data.store import StageSource, TokenStore, build_store
from f2llm.text.tokenizer import Tokenizer

MAX_TOKENS, NEGATIVES = 1024, 7
GENERATED = "generated lengths"


@dataclass(frozen=True)
class Source:
    """A folder of the real files and how it is read."""

    id: str
    converter: str
    folder: str
    instruction: str
    options: dict[str, Any]


SOURCES = (
    Source(
        "xquad", "squad", "xquad", "Given a question, find the passage that answers it.",
        {"files": "xquad.{code}.json", "negatives": 1,
         "languages": ["ar", "de", "el", "en", "es", "hi", "ro", "ru", "th", "tr", "vi", "zh"]},
    ),
    Source(
        "ntrex", "bitext_lines", "ntrex-128", "Given a sentence, find its translation.",
        {"files": [f"NTREX-128/newstest2019-{side}.{{code}}.txt" for side in ("ref", "src")],
         "documents": "DOCUMENT_IDS.tsv", "pairs": [["eng", "*"]]},
    ),
    Source(
        "mbxp", "mbxp", "mbxp", "Given a problem, find the program that solves it.",
        {"languages": ["cpp", "csharp", "java", "javascript", "kotlin", "php", "python", "ruby", "typescript"]},
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Workload:
    """Batches of `rows` rows, `tables[source]` [rows, 2+K] of indices into the store, and where they are from."""

    store: Any  # a TokenStore, or what stands for one: text(index)
    tables: dict[str, NDArray[np.int64]]
    description: str

    @property
    def tokens(self) -> int:
        """Tokens of all rows; a text that stands in two rows counts twice."""
        return sum(len(self.store.text(int(i))) for table in self.tables.values() for i in table.flat if i >= 0)


def data_folder(given: Path | None) -> Path | None:
    """`given`, or the folder that F2LLM_DATA names, or ../shared/data beside the working directory, if it is there."""
    if given is not None and not given.is_dir():
        raise ConfigError(f"--data {given} is no folder; give the folder of real files, or leave the option out")
    default = Path(os.environ.get("F2LLM_DATA") or Path.cwd().parent / "shared" / "data")
    return given or (default if default.is_dir() else None)


def make_workload(
    data: Path | None, rows: int, directory: Path, vocabulary: int, seed: int = 0, only: Sequence[str] = ()
) -> Workload:
    """One batch of each source, or of some; `directory` (empty) receives the token store."""
    generator = np.random.default_rng(seed)
    if data is None:
        return _generated(rows, vocabulary, generator)
    tokenizer = Tokenizer.load(data / "qwen3-tokenizer", MAX_TOKENS)
    pairs = [
        (_stage_source(source), _examples(data, source, rows, generator))
        for source in SOURCES
        if not only or source.id in only
    ]
    build_store(directory, pairs, tokenizer, negatives=NEGATIVES, instruction_share=0.0, seed=seed)
    store = TokenStore(directory)
    tables = {source: np.asarray(table, dtype=np.int64) for source, table in store.rows.items()}
    return Workload(store, tables, "real texts: " + ", ".join(tables))


def _stage_source(source: Source) -> StageSource:
    return StageSource(source.id, "retrieval", source.instruction, symmetric=False)


def _examples(data: Path, source: Source, rows: int, generator: np.random.Generator) -> Iterator[Example]:
    """Rows of a source at random, each with documents of others as negatives."""
    found = list(CONVERTERS[source.converter](data / source.folder, source.id, source.options, 0, Counter()))
    documents = list(dict.fromkeys(example.positive for example in found))
    for index in generator.choice(len(found), size=rows, replace=False):
        example = found[index]
        places = generator.choice(len(documents), size=NEGATIVES + 1, replace=False)
        others = [documents[place] for place in places if documents[place] != example.positive]
        yield replace(example, negatives=tuple(others[:NEGATIVES]))


class Texts:
    """Stands for a token store: texts by index."""

    def __init__(self, texts: list[NDArray[np.uint32]]) -> None:
        self.texts = texts

    def text(self, index: int) -> NDArray[np.uint32]:
        return self.texts[index]


def _generated(rows: int, vocabulary: int, generator: np.random.Generator) -> Workload:
    def ids(length: float) -> NDArray[np.uint32]:
        return generator.integers(0, vocabulary, size=round(length)).astype(np.uint32)

    def lengths(median: int, count: int) -> NDArray[np.float64]:
        return np.clip(np.exp(generator.normal(np.log(median), 0.8, count)), 4, MAX_TOKENS)

    instruction = ids(18)
    queries = [np.concatenate([instruction, ids(length)]) for length in lengths(20, rows)]
    documents = [ids(length) for length in lengths(90, rows * (1 + NEGATIVES))]
    table = np.arange(rows, rows * (2 + NEGATIVES)).reshape(rows, -1)
    table = np.concatenate([np.arange(rows)[:, None], table], axis=1)
    return Workload(Texts([*queries, *documents]), {GENERATED: table}, GENERATED)
