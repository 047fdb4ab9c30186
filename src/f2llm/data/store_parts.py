"""Parts of a token store: the rows of one shard, with the tokens of its distinct texts, made by an engine's tasks.

A part holds the distinct texts of some rows as token ids, in the order in which they occur, a 16-byte digest of each,
and the rows as numbers of these texts. Each part is made by itself, in any process; what is finished is not made again.
`store_build` joins them.

Cost: the tokenizer's time, on all cores where few tasks run at once. Memory: the digests of one shard, about 150 bytes
a text, beside its rows and 4,096 texts that are being tokenised.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from f2llm.core.errors import DataError
from f2llm.core.files import atomic_path, digest_json
from f2llm.core.types import Example, TaskType
from f2llm.data.engine import Engine, Task
from f2llm.data.examples import SHARD_ROWS, count_examples, read_batches, shards
from f2llm.text.prompts import query_prompt, with_prompt
from f2llm.text.tokenizer import Tokenizer

_BATCH = 4096
_READ = ("id", "query", "positive", "negatives", "query_lang", "doc_lang")


@dataclass(frozen=True)
class StageSource:
    """A source as one stage sees it: the instruction of its queries (None: no prefix at all) and its symmetry."""

    id: str
    task_type: TaskType
    instruction: str | None
    symmetric: bool


@dataclass(frozen=True)
class StoredRows:
    """Rows of a file of examples or of shards; `kept`: ascending numbers of rows over all shards (None: all)."""

    path: Path
    kept: NDArray[np.int64] | None = None


@dataclass(frozen=True)
class Rules:
    """What decides the texts of a row beside its source."""

    negatives: int
    instruction_share: float
    seed: int


@dataclass(frozen=True)
class Part:
    """What tokenising some rows gave, in files that begin with `stem`."""

    stem: Path
    texts: int
    rows: int
    languages: list[str]

    @property
    def tokens(self) -> NDArray[np.uint32]:
        """Ids of the texts one after the other, memory-mapped."""
        path = _tokens_file(self.stem)
        return np.memmap(path, "<u4", "r") if self.texts else np.zeros(0, np.uint32)

    def array(self, name: str) -> NDArray[Any]:
        """`keys` [texts, 2], `lengths` and `cut` [texts], `rows` [rows, 2+K], `languages` [rows, 2]."""
        with np.load(_arrays_file(self.stem)) as file:
            return np.asarray(file[name])


def _tokens_file(stem: Path) -> Path:
    return stem.with_name(f"{stem.name}.bin")


def _arrays_file(stem: Path) -> Path:
    return stem.with_name(f"{stem.name}.npz")


def make_parts(
    work: Path,
    sources: Sequence[tuple[StageSource, Iterable[Example] | StoredRows]],
    tokenizer: Tokenizer,
    rules: Rules,
    engine: Engine,
) -> dict[str, list[Part]]:
    """The parts of each source: stored rows by tasks, all sources at once; then those that are only handed over."""
    stored = [(f"{place:03}", source, rows) for place, (source, rows) in enumerate(sources)
              if isinstance(rows, StoredRows)]  # fmt: skip
    common = {"rules": asdict(rules)} | (_saved(work / "tokenizer", tokenizer) if stored else {})
    tasks = {source.id: _shard_tasks(work, name, source, rows, common) for name, source, rows in stored}
    results = iter(engine.map([task for group in tasks.values() for task in group], "tokenizing"))
    parts = {
        source: [Part(stem=task.arguments["stem"], **next(results)) for task in group]
        for source, group in tasks.items()
    }
    for place, (source, rows) in enumerate(sources):
        if not isinstance(rows, StoredRows):
            parts[source.id] = list(_streamed_parts(work, f"{place:03}", source, rows, tokenizer, rules))
    return parts


def _saved(path: Path, tokenizer: Tokenizer) -> dict[str, Any]:
    """Save the tokenizer for the tasks; returns the arguments by which they load it."""
    tokenizer.save(path)
    return {
        "tokenizer": path,
        "max_seq_length": tokenizer.max_seq_length,
        "tokenizer_digest": tokenizer.digest(),
    }


def _streamed_parts(
    work: Path, name: str, source: StageSource, rows: Iterable[Example], tokenizer: Tokenizer, rules: Rules
) -> Iterator[Part]:
    stream = iter(rows)
    for number, first in enumerate(stream):
        stem = work / f"{name}-{number:05}"
        some = chain([first], islice(stream, SHARD_ROWS - 1))
        yield Part(stem=stem, **_write_part(stem, some, source, rules, tokenizer))


def _shard_tasks(work: Path, name: str, source: StageSource, rows: StoredRows, common: Mapping[str, Any]) -> list[Task]:
    """A task for each shard that has rows to keep."""
    tasks, first = [], 0
    for number, shard in enumerate(shards(rows.path)):
        count, stem = count_examples(shard), work / f"{name}-{number:05}"
        kept = np.arange(count) if rows.kept is None else _within(rows.kept, first, first + count)
        if len(kept):
            choice = stem.with_name(f"{stem.name}.kept.npy") if len(kept) < count else None
            if choice is not None:
                np.save(choice, kept)
            own = {"stem": stem, "shard": shard, "kept": choice, "state": _state(shard, kept), "source": asdict(source)}
            tasks.append(Task(work / f"{stem.name}.json", tokenise_shard, {**common, **own}, rows=len(kept)))
        first += count
    if rows.kept is not None and len(rows.kept) and rows.kept[-1] >= first:
        raise DataError(f"{rows.path} has {first:,} rows, but row {rows.kept[-1]:,} is to be kept; choose rows again")
    return tasks


def _within(kept: NDArray[np.int64], first: int, end: int) -> NDArray[np.int64]:
    """Those of the ascending numbers `kept` in [first, end), counted from `first`."""
    return np.asarray(kept[slice(*np.searchsorted(kept, [first, end]))] - first)


def _state(shard: Path, kept: NDArray[np.int64]) -> str:
    """What tells the rows of a task from those of another time: size and time of the file, and the choice."""
    stat = shard.stat()
    return digest_json([stat.st_size, stat.st_mtime_ns, hashlib.sha256(kept.astype("<i8").tobytes()).hexdigest()])


def tokenise_shard(
    stem: Path,
    shard: Path,
    kept: Path | None,
    state: str,
    tokenizer: Path,
    max_seq_length: int,
    tokenizer_digest: str,
    source: Mapping[str, Any],
    rules: Mapping[str, Any],
) -> dict[str, Any]:
    """Make the part of one shard; `state` only tells apart what is finished from what has changed since."""
    chosen = None if kept is None else np.load(kept)
    stage_source = StageSource(**source)
    rows = _read_rows(shard, chosen, stage_source)
    return _write_part(stem, rows, stage_source, Rules(**rules), _load(tokenizer, max_seq_length, tokenizer_digest))


@lru_cache(maxsize=1)
def _load(path: Path, max_seq_length: int, digest: str) -> Tokenizer:
    """A worker reads a vocabulary once; `digest` tells apart what has lain at the same path."""
    return Tokenizer.load(path, max_seq_length)


def _read_rows(shard: Path, kept: NDArray[np.int64] | None, source: StageSource) -> Iterator[Example]:
    first = 0
    for batch in read_batches(shard, _READ):
        if kept is not None:
            chosen = _within(kept, first, first + len(batch))
            first += len(batch)
            batch = batch.take(chosen)
        for key, query, positive, negatives, *langs in zip(*(batch[name].to_pylist() for name in _READ), strict=True):
            yield Example(key, query, positive, tuple(negatives), source.task_type, source.id, *langs)


def _write_part(
    stem: Path, examples: Iterable[Example], source: StageSource, rules: Rules, tokenizer: Tokenizer
) -> dict[str, Any]:
    """Write the tokens and arrays of some rows; returns what `Part` has beside the stem."""
    table, languages, tags = array("i"), array("H"), dict[str, int]()
    with atomic_path(_tokens_file(stem)) as temporary, open(temporary, "wb") as handle:
        texts = _Texts(handle, tokenizer)
        for example in examples:
            ids = [texts.number(text) for text in _row_texts(source, example, rules)]
            table.extend([*ids, *[-1] * (2 + rules.negatives - len(ids))])
            languages.extend(tags.setdefault(tag, len(tags)) for tag in (example.query_lang, example.doc_lang))
        texts.flush()
    with atomic_path(_arrays_file(stem)) as temporary, open(temporary, "wb") as handle:
        np.savez(
            handle, allow_pickle=False, **texts.arrays(),
            rows=np.asarray(table, np.int32).reshape(-1, 2 + rules.negatives),
            languages=np.asarray(languages, np.uint16).reshape(-1, 2),
        )  # fmt: skip
    return {"texts": len(texts.known), "rows": len(languages) // 2, "languages": list(tags)}


class _Texts:
    """Gives each distinct text a number and writes its tokens once, in batches."""

    def __init__(self, handle: IO[bytes], tokenizer: Tokenizer) -> None:
        self.handle, self.tokenizer = handle, tokenizer
        self.known: dict[bytes, int] = {}
        self.pending: list[str] = []
        self.lengths: list[NDArray[np.int64]] = []
        self.cut: list[NDArray[np.bool_]] = []

    def number(self, text: str) -> int:
        key = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        number = self.known.get(key)
        if number is None:
            number = self.known[key] = len(self.known)
            self.pending.append(text)
            if len(self.pending) == _BATCH:
                self.flush()
        return number

    def flush(self) -> None:
        ids, lengths, cut = self.tokenizer.encode_arrays(self.pending)
        self.handle.write(ids.astype("<u4", copy=False).tobytes())
        self.lengths.append(lengths)
        self.cut.append(cut)
        self.pending.clear()

    def arrays(self) -> dict[str, NDArray[Any]]:
        return {
            "keys": np.frombuffer(b"".join(self.known), "<u8").reshape(-1, 2),
            "lengths": np.concatenate(self.lengths),
            "cut": np.concatenate(self.cut),
        }


def _row_texts(source: StageSource, example: Example, rules: Rules) -> list[str]:
    """Query, positive and negatives of a row with the prompts that this stage puts on them."""
    prompt = query_prompt(source.instruction)
    documents = [example.positive, *example.negatives[: rules.negatives]]
    if source.symmetric and prompt:
        documents = [
            with_prompt(text, prompt)
            if _uniform(rules.seed, source.id, example.id, slot) < rules.instruction_share
            else text
            for slot, text in enumerate(documents)
        ]
    return [with_prompt(example.query, prompt), *documents]


def _uniform(seed: int, *key: str | int) -> float:
    """A number in [0, 1) that depends on its arguments only."""
    digest = hashlib.blake2b(repr((seed, *key)).encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
