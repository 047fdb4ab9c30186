"""Exact semantic search over a text file or a folder: no index, every passage is compared with every query.

Passages are the lines of a file, or the paragraphs of a Markdown file. Each distinct text is encoded once and is one
result, at the first place where it stands. Cost: encoding all passages at each call, then one product in blocks of 4
million similarities. Limits: UTF-8 text only; all vectors are held in memory (1 GB per million at 256 dimensions).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from f2llm.core.errors import ConfigError, DataError
from f2llm.core.log import warn

if TYPE_CHECKING:
    from f2llm.model.embedder import Embedder
    from f2llm.model.vectors import Vectors

MARKDOWN = frozenset({".md", ".markdown"})
BLOCK_VALUES = 4_000_000
MANY = 2_000  # passages from which on encoding shows a progress bar


@dataclass(frozen=True, slots=True)
class Passage:
    """A piece of text and where it starts; lines count from 1."""

    text: str
    path: Path
    line: int


@dataclass(frozen=True, slots=True)
class Hit:
    """A found passage with its cosine similarity to the query."""

    score: float
    text: str
    path: Path
    line: int


def read_passages(path: Path | str) -> list[Passage]:
    """The passages of a file, or of all files below a folder (hidden ones left out), in the order of their names.

    A file that is not UTF-8 text is skipped and counted in a warning; DataError where nothing is left to search.
    """
    root = Path(path)
    if not root.exists():
        raise DataError(f"{root} does not exist; give a text file or a folder of text files")
    passages, skipped = [], []
    for file in text_files(root):
        text = read_text(file)
        if text is None:
            skipped.append(file)
        else:
            passages += [
                Passage(part, file, line) for line, part in split(_numbered(text), file.suffix.lower() in MARKDOWN)
            ]
    if skipped:
        warn(f"{len(skipped)} files are not readable UTF-8 text and were skipped, the first is {skipped[0]}")
    if not passages:
        raise DataError(f"{root} holds no text to search; give a UTF-8 text file or a folder of such files")
    return passages


def text_files(root: Path) -> list[Path]:
    """`root` itself, or the files below it in the order of their names, without hidden files and folders."""
    if root.is_file():
        return [root]
    found = (file for file in root.rglob("*") if not any(p.startswith(".") for p in file.relative_to(root).parts))
    return sorted(file for file in found if file.is_file())


def read_text(file: Path) -> str | None:
    """The content of a file, None when it is binary, not UTF-8 or not readable."""
    try:
        with file.open("rb") as handle:
            head = handle.read(8192)
            return None if b"\0" in head else (head + handle.read()).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError):
        return None


def _numbered(text: str) -> Iterator[tuple[int, str]]:
    return enumerate(text.split("\n"), start=1)


def split(lines: Iterable[tuple[int, str]], paragraphs: bool) -> Iterator[tuple[int, str]]:
    """Line number and text of each numbered line that is not blank, or of each paragraph (lines joined by a space)."""
    gathered: list[str] = []
    start = 0
    for number, raw in chain(lines, [(0, "")]):
        line = raw.strip()
        if line:
            start = start if gathered else number
            gathered.append(line)
        if gathered and not (line and paragraphs):
            yield start, " ".join(gathered)
            gathered = []


def search(
    embedder: Embedder,
    passages: Sequence[Passage],
    queries: Sequence[str],
    top_k: int = 5,
    instruction: str | None = None,
) -> list[list[Hit]]:
    """The `top_k` most similar distinct passages for each query, best first.

    `instruction` replaces the model's own query prompt ("" leaves the queries bare).
    """
    if top_k < 1:
        raise ConfigError(f"top_k is {top_k}; give 1 or more")
    if not passages:
        raise DataError("there is no passage to search in")
    if any(not query.strip() for query in queries):
        raise DataError("a query is empty; write what to look for")
    if not queries:
        return []
    distinct: dict[str, Passage] = {}
    for passage in passages:
        distinct.setdefault(passage.text, passage)
    found = list(distinct.values())
    documents = embedder.encode_document(list(distinct), progress=len(found) >= MANY)
    wanted = embedder.encode_query(list(queries), instruction=instruction)
    scores, places = top(wanted, documents, top_k)
    return [
        [Hit(score, found[n].text, found[n].path, found[n].line) for score, n in zip(*row, strict=True)]
        for row in zip(scores.tolist(), places.tolist(), strict=True)
    ]


def top(queries_BD: Vectors, documents_ND: Vectors, k: int) -> tuple[Vectors, NDArray[np.intp]]:
    """The `k` highest inner products of each query [B, k], descending, and their document numbers [B, k]."""
    scores = np.empty((len(queries_BD), 0), dtype=np.float32)
    places = np.empty((len(queries_BD), 0), dtype=np.intp)
    rows = max(1, BLOCK_VALUES // len(queries_BD))
    for start in range(0, len(documents_ND), rows):
        block = queries_BD @ documents_ND[start : start + rows].T
        numbers = np.broadcast_to(np.arange(start, start + block.shape[1]), block.shape)
        scores, places = np.hstack([scores, block]), np.hstack([places, numbers])
        if scores.shape[1] > k:
            kept = np.argpartition(-scores, k - 1, axis=1)[:, :k]
            scores, places = np.take_along_axis(scores, kept, 1), np.take_along_axis(places, kept, 1)
    order = np.lexsort((places, -scores), axis=1)
    return np.take_along_axis(scores, order, 1), np.take_along_axis(places, order, 1)
