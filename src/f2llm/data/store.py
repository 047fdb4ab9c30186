"""TokenStore: every distinct text of a stage once, as memory-mapped token ids; training rows are integers into it.

On disk (a directory):
  tokens.bin    uint32, the ids of all texts one after the other
  offsets.npy   int64 [N+1], text i is tokens[offsets[i]:offsets[i+1]], at least one token (EOS)
  rows/ID.npy   int32 [rows, 2+K]: query, positive, negatives; -1 where a row has fewer than K negatives
  languages/ID.npy  uint16 [rows, 2]: languages of query and document, indices into the list in meta.json
  meta.json     counts, digests of the tokenizer and of the files above, names of the languages; of each source the
                task type and the shares of its query languages
Opening costs the same whatever the number of texts and rows. Building keeps one 16-byte digest per distinct text and
the rows of one source in memory.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from f2llm.core.errors import DataError
from f2llm.core.files import digest_file, digest_json, explained, read_json, sync, write_json
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
        if not {"digest", "languages", "language_shares"} <= self.meta.keys():
            raise DataError(f"{directory} is a store of an older version, without languages and digest; build again")
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
        self.language_names: list[str] = self.meta["languages"]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def digest(self) -> str:
        """SHA-256 of all that the store holds, as computed when it was built."""
        return str(self.meta["digest"])

    def languages(self, source: str) -> NDArray[np.uint16]:
        """Indices into `language_names` of each row's query and document, [rows, 2] (mapped anew at each call)."""
        return np.asanyarray(np.load(_languages_file(self.directory, source), mmap_mode="r"))

    def language_shares(self, source: str) -> dict[str, float]:
        """Share of the rows by language of the query."""
        return dict(self.meta["language_shares"][source])

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
    for name in ("rows", "languages"):
        (directory / name).mkdir(parents=True, exist_ok=True)
    tags: dict[str, int] = {}
    rows: dict[str, int] = {}
    shares: dict[str, dict[str, float]] = {}
    with explained(directory):
        with open(directory / "tokens.bin", "wb") as handle:
            writer = _TextWriter(handle, tokenizer)
            for source, examples in sources:
                pairs = ((e, _row_texts(source, e, negatives, instruction_share, seed)) for e in examples)
                rows[source.id], shares[source.id] = _write_rows(directory, source.id, pairs, writer, negatives, tags)
            writer.flush()
        np.save(directory / "offsets.npy", writer.offsets())
    texts, total = len(writer.known), sum(rows.values())
    counts = {"texts": texts, "tokens": writer.total, "truncated": writer.truncated, "rows": total}
    meta = {
        **counts,
        "tokenizer": tokenizer.digest(),
        "digest": _digest(directory, rows, list(tags)),
        "sources": {source.id: source.task_type for source, _ in sources},
        "languages": list(tags),
        "language_shares": shares,
    }
    write_json(directory / "meta.json", meta)
    for path in directory.rglob("*.*"):
        sync(path)
    return counts


def _write_rows(
    directory: Path,
    source: str,
    examples: Iterable[tuple[Example, list[str]]],
    writer: _TextWriter,
    negatives: int,
    tags: dict[str, int],
) -> tuple[int, dict[str, float]]:
    """Write the rows and languages of a source; returns their number and the shares of the query languages."""
    table, languages = array("i"), array("H")
    for example, texts in examples:
        ids = [writer.add(text) for text in texts]
        table.extend([*ids, *[-1] * (2 + negatives - len(ids))])
        languages.extend(tags.setdefault(tag, len(tags)) for tag in (example.query_lang, example.doc_lang))
    np.save(directory / "rows" / f"{source}.npy", np.asarray(table, dtype=np.int32).reshape(-1, 2 + negatives))
    indices = np.asarray(languages, dtype=np.uint16).reshape(-1, 2)
    np.save(_languages_file(directory, source), indices)
    counts = np.bincount(indices[:, 0], minlength=len(tags))
    return len(indices), {tag: int(counts[i]) / len(indices) for tag, i in tags.items() if counts[i]}


def _languages_file(directory: Path, source: str) -> Path:
    return directory / "languages" / f"{source}.npy"


def _digest(directory: Path, sources: Iterable[str], languages: list[str]) -> str:
    """SHA-256 of the texts, of the rows of `sources` and of their languages."""
    files = [directory / "tokens.bin", directory / "offsets.npy"]
    for source in sources:
        files += [directory / "rows" / f"{source}.npy", _languages_file(directory, source)]
    return digest_json([languages, {path.relative_to(directory).as_posix(): digest_file(path) for path in files}])


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


def _row_texts(source: StageSource, example: Example, negatives: int, share: float, seed: int) -> list[str]:
    """Query, positive and negatives of a row with the prompts that this stage puts on them."""
    prompt = query_prompt(source.instruction)
    documents = [example.positive, *example.negatives[:negatives]]
    if source.symmetric and prompt:
        documents = [
            with_prompt(text, prompt) if _uniform(seed, source.id, example.id, slot) < share else text
            for slot, text in enumerate(documents)
        ]
    return [with_prompt(example.query, prompt), *documents]


def _uniform(seed: int, *key: str | int) -> float:
    """A number in [0, 1) that depends on its arguments only."""
    digest = hashlib.blake2b(repr((seed, *key)).encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def union_ids(parts: Iterable[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Sorted distinct text indices of several arrays, without the -1 of absent negatives."""
    joined = np.unique(np.concatenate([part.ravel() for part in parts]))
    return np.asarray(joined[joined >= 0])
