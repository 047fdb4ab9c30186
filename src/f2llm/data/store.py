"""TokenStore: every distinct text of a stage once, as memory-mapped token ids; training rows are integers into it.

On disk (a directory):
  tokens.bin    uint32, the ids of all texts one after the other
  offsets.npy   int64 [N+1], text i is tokens[offsets[i]:offsets[i+1]], at least one token (EOS)
  rows/ID.npy   int32 [rows, 2+K]: query, positive, negatives; -1 where a row has fewer than K negatives
  meta.json     counts, tokenizer digest, task type of each source
Opening costs the same whatever the number of texts. Building keeps one 16-byte digest per distinct text in memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from f2llm.core.errors import DataError
from f2llm.core.files import explained, read_json, sync, write_json
from f2llm.core.types import Example, TaskType
from f2llm.text.prompts import query_prompt, with_prompt
from f2llm.text.tokenizer import Tokenizer

_BATCH = 4096


@dataclass(frozen=True)
class StageSource:
    """A source as one stage sees it: the instruction of its queries (None: no prefix at all) and its symmetry."""

    id: str
    task_type: TaskType
    instruction: str | None
    symmetric: bool


class TokenStore:
    """Read access to a built store."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.meta = read_json(directory / "meta.json")
        self.offsets: NDArray[np.int64] = np.load(directory / "offsets.npy", mmap_mode="r")
        size = (directory / "tokens.bin").stat().st_size
        if size != 4 * int(self.offsets[-1]):
            raise DataError(
                f"{directory}/tokens.bin has {size} bytes, {4 * int(self.offsets[-1])} expected; build again"
            )
        self.tokens: NDArray[np.uint32] = np.memmap(directory / "tokens.bin", dtype=np.uint32, mode="r")
        self.rows: dict[str, NDArray[np.int32]] = {
            source: np.load(directory / "rows" / f"{source}.npy", mmap_mode="r") for source in self.meta["sources"]
        }
        self.task_types: dict[str, TaskType] = dict(self.meta["sources"])

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def lengths(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Token counts of the texts `ids`."""
        return np.asarray(self.offsets[ids + 1] - self.offsets[ids])

    def text(self, index: int) -> NDArray[np.uint32]:
        """Token ids of one text, ending in EOS."""
        return self.tokens[self.offsets[index] : self.offsets[index + 1]]


def build_store(
    directory: Path,
    sources: Sequence[tuple[StageSource, Iterable[Example]]],
    tokenizer: Tokenizer,
    *,
    negatives: int,
    instruction_share: float,
    seed: int,
) -> dict[str, int]:
    """Write a store into the empty `directory`; returns counts (texts, tokens, truncated, rows).

    In a symmetric source a random `instruction_share` of the documents (positives and negatives alike) carries the
    query's instruction too (F2LLM-v2, section 2.2); the draw depends on (seed, row id, slot) only.
    """
    (directory / "rows").mkdir(parents=True, exist_ok=True)
    kinds: dict[str, TaskType] = {}
    rows = 0
    with explained(directory), open(directory / "tokens.bin", "wb") as handle:
        writer = _TextWriter(handle, tokenizer)
        for source, examples in sources:
            table = [
                [writer.add(text) for text in texts]
                for texts in _row_texts(source, examples, negatives, instruction_share, seed)
            ]
            np.save(directory / "rows" / f"{source.id}.npy", _rectangle(table, 2 + negatives))
            kinds[source.id] = source.task_type
            rows += len(table)
        writer.flush()
    np.save(directory / "offsets.npy", writer.offsets())
    counts = {"texts": len(writer.known), "tokens": writer.total, "truncated": writer.truncated, "rows": rows}
    write_json(directory / "meta.json", {**counts, "tokenizer": tokenizer.digest(), "sources": kinds})
    for path in directory.rglob("*.*"):
        sync(path)
    return counts


class _TextWriter:
    """Gives each distinct text an index and writes its tokens once, in batches."""

    def __init__(self, handle: IO[bytes], tokenizer: Tokenizer) -> None:
        self.handle, self.tokenizer = handle, tokenizer
        self.known: dict[bytes, int] = {}
        self.pending: list[str] = []
        self.lengths: list[NDArray[np.int64]] = []
        self.total = self.truncated = 0

    def add(self, text: str) -> int:
        key = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        if key not in self.known:
            self.known[key] = len(self.known)
            self.pending.append(text)
            if len(self.pending) == _BATCH:
                self.flush()
        return self.known[key]

    def flush(self) -> None:
        encoded, truncated = self.tokenizer.encode_counted(self.pending)
        self.truncated += truncated
        lengths = np.fromiter((len(ids) for ids in encoded), dtype=np.int64, count=len(encoded))
        self.lengths.append(lengths)
        self.total += int(lengths.sum())
        self.handle.write(np.fromiter((i for ids in encoded for i in ids), dtype=np.uint32).tobytes())
        self.pending.clear()

    def offsets(self) -> NDArray[np.int64]:
        return np.concatenate([[0], np.cumsum(np.concatenate([*self.lengths, np.zeros(0, np.int64)]))]).astype(np.int64)


def _row_texts(
    source: StageSource, examples: Iterable[Example], negatives: int, share: float, seed: int
) -> Iterator[list[str]]:
    """Query, positive and negatives of each row with the prompts that this stage puts on them."""
    prompt = query_prompt(source.instruction)
    for example in examples:
        documents = [example.positive, *example.negatives[:negatives]]
        if source.symmetric and prompt:
            documents = [
                with_prompt(text, prompt) if _uniform(seed, source.id, example.id, slot) < share else text
                for slot, text in enumerate(documents)
            ]
        yield [with_prompt(example.query, prompt), *documents]


def _uniform(seed: int, *key: str | int) -> float:
    """A number in [0, 1) that depends on its arguments only."""
    digest = hashlib.blake2b(repr((seed, *key)).encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def _rectangle(table: list[list[int]], width: int) -> NDArray[np.int32]:
    """Rows of unequal length as an int32 matrix, padded with -1."""
    matrix = np.full((len(table), width), -1, dtype=np.int32)
    for row, values in zip(matrix, table, strict=True):
        row[: len(values)] = values
    return matrix


def union_ids(parts: Iterable[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Sorted distinct text indices of several arrays, without the -1 of absent negatives."""
    joined = np.unique(np.concatenate([part.ravel() for part in parts]))
    return np.asarray(joined[joined >= 0])
