"""TokenStore: every distinct text of a stage once, as memory-mapped token ids; training rows are integers into it.

On disk (a directory):
  tokens.bin    uint32, the ids of all texts one after the other
  offsets.npy   int64 [N+1], text i is tokens[offsets[i]:offsets[i+1]], at least one token (EOS)
  keys.npy      uint64 [N, 2], 16-byte digests of the texts, by which a growing store knows what it has
  rows/ID.npy   int32 [rows, 2+K]: query, positive, negatives; -1 where a row has fewer than K negatives
  languages/ID.npy  uint16 [rows, 2]: languages of query and document, indices into the list in meta.json
  meta.json     counts, digests of the tokenizer and of the files above, names of the languages; of each source the
                task type and the shares of its query languages
Opening costs the same whatever the number of texts and rows. `store_build` says how a store is built and what that
costs. A reader sees the counts of meta.json, also while a store grows.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from f2llm.core.errors import ConfigError, DataError
from f2llm.core.files import digest_file, explained, read_json
from f2llm.core.types import Example, TaskType
from f2llm.data.engine import Engine
from f2llm.data.store_build import (
    EMPTY,
    META,
    first_places,
    grow,
    keys_of,
    languages_file,
    offsets_of,
    rows_file,
    texts_digests,
    tokens_of,
)
from f2llm.data.store_parts import Rules, StageSource, StoredRows
from f2llm.text.tokenizer import Tokenizer

__all__ = ["StageSource", "StoredRows", "TokenStore", "append_store", "build_store", "union_ids"]
_CHECKED_AT_ONCE = 1 << 16


class TokenStore:
    """Read access to a built store."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.meta = read_json(directory / META)
        if not {"texts", "tokens", "rows", "digest", "languages", "language_shares"} <= self.meta.keys():
            raise DataError(f"{directory} is a store of an older version, without languages and digest; build again")
        self.tokens: NDArray[np.uint32] = tokens_of(directory).read(self.meta["tokens"])
        self.offsets: NDArray[np.int64] = offsets_of(directory).read(self.meta["texts"] + 1)
        if self.offsets[-1] != len(self.tokens):
            raise DataError(
                f"{directory}/offsets.npy ends at {self.offsets[-1]:,}, not at {len(self.tokens):,}; build again"
            )
        self.rows: dict[str, NDArray[np.int32]] = {
            source: _mapped(rows_file(directory, source)) for source in self.meta["sources"]
        }
        if sum(map(len, self.rows.values())) != self.meta["rows"]:
            raise DataError(f"{directory}/rows does not hold {self.meta['rows']:,} rows in all; build again")
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
        return _mapped(languages_file(self.directory, source))

    def language_shares(self, source: str) -> dict[str, float]:
        """Share of the rows by language of the query."""
        return dict(self.meta["language_shares"][source])

    def lengths(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Token counts of the texts `ids`."""
        return np.asarray(self.offsets[ids + 1] - self.offsets[ids])

    def text(self, index: int) -> NDArray[np.uint32]:
        """Token ids of one text, ending in EOS."""
        return self.tokens[self.offsets[index] : self.offsets[index + 1]]

    def verify(self) -> None:
        """Read everything; DataError names the file that is not as it was built, or breaks what a store promises.

        The digests are those of meta.json; each text ends in EOS and has no other one; ids are in the vocabulary, rows
        in the texts, languages in the list; no text is there twice.
        """
        if "files" not in self.meta:
            raise DataError(f"{self.directory} is a store of an older version, without digests of files; build again")
        found = texts_digests(self.directory, self.meta)
        for name, digest in self.meta["files"].items():
            if (found[name] if name in found else digest_file(self.directory / name)) != digest:
                raise DataError(f"{self.directory / name} has changed since it was built; build again")
        self._verify_texts()
        for source, rows in self.rows.items():
            self._verify_rows(source, rows)

    def _verify_texts(self) -> None:
        eos, size = self.meta["eos_id"], self.meta["vocab_size"]
        for start in range(0, len(self), _CHECKED_AT_ONCE):
            offsets = self.offsets[start : start + _CHECKED_AT_ONCE + 1]
            if (offsets[0] != 0 and not start) or (np.diff(offsets) < 1).any() or offsets[-1] > len(self.tokens):
                self._refuse("offsets.npy", f"the texts from {start:,} on do not follow each other")
            tokens = self.tokens[offsets[0] : offsets[-1]]
            if tokens.max() >= size:
                self._refuse("tokens.bin", f"id {tokens.max():,} is not in the vocabulary of {size:,}")
            ends = np.flatnonzero(tokens == eos) + 1 + offsets[0]
            if not np.array_equal(ends, offsets[1:]):
                self._refuse("tokens.bin", f"a text from {start:,} on does not end in its one EOS ({eos})")
        keys = np.array(keys_of(self.directory).read(len(self)))
        if (first_places(keys) != np.arange(len(keys))).any():
            self._refuse("keys.npy", "a text is there twice")

    def _verify_rows(self, source: str, rows: NDArray[np.int32]) -> None:
        """`rows` are checked a block at a time, for they may not fit into memory."""
        languages, name = self.languages(source), f"languages/{source}.npy"
        if len(languages) != len(rows):
            self._refuse(name, f"{len(languages):,} rows, {len(rows):,} expected")
        for start in range(0, len(rows), _CHECKED_AT_ONCE):
            some = rows[start : start + _CHECKED_AT_ONCE]
            if (some >= len(self)).any() or (some[:, :2] < 0).any() or (some < -1).any():
                self._refuse(f"rows/{source}.npy", f"a row from {start:,} on has a number that is no text")
            if (languages[start : start + _CHECKED_AT_ONCE] >= len(self.language_names)).any():
                self._refuse(name, f"a row from {start:,} on has a language that is not in the list")

    def _refuse(self, name: str, reason: str) -> None:
        raise DataError(f"{self.directory / name}: {reason}; build again")


def build_store(
    directory: Path,
    sources: Sequence[tuple[StageSource, Iterable[Example] | StoredRows]],
    tokenizer: Tokenizer,
    *,
    negatives: int,
    instruction_share: float,
    seed: int,
    engine: Engine | None = None,
) -> dict[str, int]:
    """Write a store into `directory`, in the place of one that is there; returns texts, tokens, truncated and rows.

    In a symmetric source a random `instruction_share` of the documents (positives and negatives alike) carries the
    query's instruction too (F2LLM-v2, section 2.2); the draw depends on (seed, row id, slot) only. Stored rows are
    tokenised by the engine, a task a shard; a build that was killed goes on with those that are left. Other rows are
    tokenised by this process.
    """
    _refuse_repeated(directory, [], sources)
    with explained(directory):
        (directory / META).unlink(missing_ok=True)
        for name in ("rows", "languages"):
            shutil.rmtree(directory / name, ignore_errors=True)
    return grow(directory, EMPTY, sources, tokenizer, Rules(negatives, instruction_share, seed), engine)


def append_store(
    directory: Path,
    sources: Sequence[tuple[StageSource, Iterable[Example] | StoredRows]],
    tokenizer: Tokenizer,
    *,
    negatives: int,
    instruction_share: float,
    seed: int,
    engine: Engine | None = None,
) -> dict[str, int]:
    """Add sources to a store; the bytes are those of a store that was built of all its sources at once.

    Texts keep their numbers, new ones come behind them. Killed at any moment, the old store is left. ConfigError where
    the tokenizer or an option is another one than the store was built with, or a source is there already.
    """
    before, rules = TokenStore(directory).meta, Rules(negatives, instruction_share, seed)
    if "settings" not in before:
        raise DataError(f"{directory} is a store of an older version, without digests of its texts; build again")
    if before["tokenizer"] != tokenizer.digest():
        raise ConfigError(f"{directory} was built with another tokenizer; give that one, or build a new store")
    for name, value in asdict(rules).items():
        if before["settings"][name] != value:
            old = before["settings"][name]
            raise ConfigError(f"{directory} was built with {name} = {old}, not {value}; give {old}, or build anew")
    _refuse_repeated(directory, before["sources"], sources)
    return grow(directory, before, sources, tokenizer, rules, engine)


def _refuse_repeated(directory: Path, known: Iterable[str], sources: Sequence[tuple[StageSource, Any]]) -> None:
    seen = set(known)
    for source, _ in sources:
        if source.id in seen:
            raise ConfigError(f"{directory} has the source {source.id!r} already; leave it out, or give it another id")
        seen.add(source.id)


def _mapped(path: Path) -> NDArray[Any]:
    """An array of a store, memory-mapped; DataError where it is missing or shorter than it says."""
    try:
        return np.asanyarray(np.load(path, mmap_mode="r"))
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path} is missing or damaged ({str(error).splitlines()[0]}); build again") from None


def union_ids(parts: Iterable[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Sorted distinct text indices of several arrays, without the -1 of absent negatives."""
    joined = np.unique(np.concatenate([part.ravel() for part in parts]))
    return np.asarray(joined[joined >= 0])
