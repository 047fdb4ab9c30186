"""What mining knows of a whole source before it compares anything: keys of texts, known positives, pools.

Texts are 64-bit hashes of their folded form here: among ten million, two different ones fall together with a
probability of 3 in a million. The *documents* of a source are its distinct positives, in the order of their keys, which
is as good as a random one. The documents of a language make up one *pool*, or several of equal size where they are more
than `MineRules.pool`; a document belongs to each language in which it is a positive. One more pool holds up to 5,000
documents of any language. Only pools that some shard searches are listed.

Memory: 45 bytes a row while a plan is made, 60 where queries have several positives, 160 for clustering with labels;
20 to 35 in its files, of which a worker maps and reads what it needs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from f2llm.core.files import atomic_path, read_json, write_json
from f2llm.data.mine_rules import Ints, Keys, MineRules, label_key, matches, text_key

ROW = np.dtype([("query", "u8"), ("positive", "u8"), ("label", "u8"), ("language", "i4"), ("needs", "?")])
RowKeys = NDArray[np.void]
ANY = -1
"""The language of the pool of documents of any language."""
_ANY_DOCUMENTS = 5_000
_BIN = 65_536  # documents of small pools that lie in a file together


@dataclass(frozen=True)
class PoolRange:
    """A pool: `plan.members[start:stop]`, number `number` of the `of` pools of a language; `file` holds its texts."""

    language: int
    number: int
    of: int
    start: int
    stop: int
    file: int


@dataclass(frozen=True)
class Plan:
    """Arrays over a source; see the module.

    `documents` [N] ascending keys, `shard` [N] where each occurs first, `place` [N] its vector's place among those of
    that shard (-1: none is needed); `members` [M] the documents of all pools. `asked_positive`, `asked_query`: pairs,
    for queries with several positives only. `label_document`, `label`: documents and the labels that their text has.
    """

    languages: list[str]
    starts: list[int]
    pools: list[PoolRange]
    documents: Keys
    shard: NDArray[np.int32]
    place: NDArray[np.int32]
    members: NDArray[np.uint32]
    asked_positive: Keys
    asked_query: Keys
    label_document: Keys
    label: Keys

    def save(self, folder: Path) -> None:
        for name in _ARRAYS:
            with atomic_path(folder / f"plan-{name}.npy") as temporary, temporary.open("wb") as file:
                np.save(file, getattr(self, name))
        pools = [asdict(pool) for pool in self.pools]
        write_json(folder / "plan.json", {"languages": self.languages, "starts": self.starts, "pools": pools})

    @classmethod
    def load(cls, folder: Path) -> Plan:
        lists = read_json(folder / "plan.json")
        lists["pools"] = [PoolRange(**pool) for pool in lists["pools"]]
        return cls(**lists, **{name: np.load(folder / f"plan-{name}.npy", mmap_mode="r") for name in _ARRAYS})

    def pool_of(self, language: int, shard: int) -> PoolRange:
        """The pool of a language that a shard searches, or the one of any language."""
        return next(p for p in self.pools if p.language == language and p.number == shard % p.of)

    def files(self) -> int:
        """Files that the pools fill; each holds the members of pools that follow each other."""
        return self.pools[-1].file + 1 if self.pools else 0

    def file_range(self, file: int) -> tuple[int, int]:
        """First and last member (exclusive) of a file."""
        own = [pool for pool in self.pools if pool.file == file]
        return own[0].start, own[-1].stop

    def encoded_in(self, shard: int, positives: Keys) -> tuple[Keys, Ints]:
        """Documents that occur first in a shard and need a vector, ascending, and their rows; by its positives."""
        distinct, rows = np.unique(positives, return_index=True)
        _, found = matches(self.documents, distinct)
        kept = np.isin(distinct, self.documents[found[(self.shard[found] == shard) & (self.place[found] >= 0)]])
        return distinct[kept], rows[kept]

    def share_query(self, positive: int, other: int) -> bool:
        """Whether some query has both documents as positives."""
        keys = np.array([positive, other], np.uint64)
        ends = zip(*(np.searchsorted(self.asked_positive, keys, side) for side in ("left", "right")), strict=True)
        (a, b), (c, d) = ends
        return b > a and d > c and bool(np.isin(self.asked_query[a:b], self.asked_query[c:d]).any())


_ARRAYS = [field.name for field in fields(Plan) if field.name not in ("languages", "starts", "pools")]


def states(counts: Ints, kinds: Sequence[str], labels: Sequence[str | None], per_query: int) -> tuple[Any, Any]:
    """Which rows take part (classification and unlabelled clustering do not), and which of them need negatives.

    A row that brings `per_query` negatives along needs none; its documents take part all the same.
    """
    part = np.array(
        [
            kind == "retrieval" or (kind == "clustering" and label is not None)
            for kind, label in zip(kinds, labels, strict=True)
        ],
        np.bool_,
    )
    return part, part & (counts < per_query)


class KeyReader:
    """Turns columns of a shard into `ROW` records; `languages` numbers the languages as they come."""

    def __init__(self, rules: MineRules) -> None:
        self.rules = rules
        self.languages: dict[str, int] = {}

    def read(self, columns: Mapping[str, Sequence[Any]], counts: Ints) -> RowKeys:
        """`columns` by field of `Example`; `counts` are the numbers of negatives that the rows bring along."""
        rows = np.zeros(len(counts), ROW)
        part, rows["needs"] = states(counts, columns["task_type"], columns["label"], self.rules.per_query)
        rows["language"] = np.where(part, self._languages(columns["doc_lang"]), -1)
        for name in ("query", "positive"):
            rows[name][part] = [text_key(text) for text, own in zip(columns[name], part, strict=True) if own]
        clustering = (
            label if kind == "clustering" else None
            for label, kind in zip(columns["label"], columns["task_type"], strict=True)
        )
        rows["label"] = [label_key(label) for label in clustering]
        return rows

    def _languages(self, tags: Iterable[str]) -> list[int]:
        same = self.rules.same_language
        return [self.languages.setdefault(tag if same else "", len(self.languages)) for tag in tags]


def make_plan(shards: Sequence[RowKeys], languages: Sequence[Sequence[str]], rules: MineRules) -> Plan:
    """The plan of a source from the keys of its shards, which are read several times, and the languages of each."""
    names = sorted({tag for own in languages for tag in own})
    codes = [np.array([names.index(tag) for tag in own], np.int32) for own in languages]
    counts, asked = [len(keys) for keys in shards], _asked(shards)
    documents, shard, document = _documents(shards)
    encoded = np.zeros(len(documents), np.bool_)
    encoded[document[_column(shards, "needs")]] = True
    searched = {
        (int(code), number)
        for number, (own, keys) in enumerate(zip(codes, shards, strict=True))
        for code in own[np.unique(keys["language"][keys["needs"]])]
    }
    members, pools = _pools(_language(shards, codes), document, len(documents), searched, rules.pool)
    del document
    encoded[members] = True
    return Plan(
        names, [0, *np.cumsum(counts).tolist()][: len(counts)], pools, documents, shard,
        _places(shard, encoded), members, *asked, *_labels(shards, documents),
    )  # fmt: skip


def _documents(shards: Sequence[RowKeys]) -> tuple[Keys, NDArray[np.int32], NDArray[np.int32]]:
    """Distinct positives, ascending; the shard in which each occurs first; the number of each row's among them."""
    keys = _column(shards, "positive")
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    new = _changes(keys)
    keys = keys[new]
    number = np.empty(len(order), np.int32)
    number[order] = np.cumsum(new, dtype=np.int32) - 1
    ends = np.cumsum([np.count_nonzero(rows["language"] >= 0) for rows in shards])
    return keys, np.searchsorted(ends, order[new], "right").astype(np.int32), number


def _changes(ascending: Keys | Ints) -> NDArray[np.bool_]:
    """Which values of a sorted array are not as the one before."""
    new = np.ones(len(ascending), np.bool_)
    new[1:] = ascending[1:] != ascending[:-1]
    return new


def _column(shards: Sequence[RowKeys], name: str, labelled: bool = False) -> Any:
    """A field of the rows that take part, or of those with a label."""
    column, rows = np.empty(sum(len(keys) for keys in shards), ROW[name]), 0
    for keys in shards:
        own = keys[name][keys["label"] != 0 if labelled else keys["language"] >= 0]
        column[rows : rows + len(own)] = own
        rows += len(own)
    return column[:rows]


def _language(shards: Sequence[RowKeys], codes: Sequence[NDArray[np.int32]]) -> NDArray[np.int32]:
    """The language of each row that takes part, numbered as in the plan."""
    parts = zip(codes, shards, strict=True)
    return np.concatenate([own[keys["language"][keys["language"] >= 0]] for own, keys in parts])


def _pools(
    language: NDArray[np.int32], document: NDArray[np.int32], documents: int, searched: set[tuple[int, int]], size: int
) -> tuple[NDArray[np.uint32], list[PoolRange]]:
    """Members and ranges of the pools that are searched, by language, and of the pool of any language."""
    if not searched:
        return np.zeros(0, np.uint32), []
    pairs = language * np.int64(documents)
    pairs += document
    pairs.sort()  # by language, and then in the order of the keys
    pairs = pairs[_changes(pairs)]
    parts, ranges = list[Any](), list[tuple[int, int, int, int]]()
    for code in sorted({code for code, _ in searched}):
        low, high = np.searchsorted(pairs, [code * documents, (code + 1) * documents])
        of = -(-(high - low) // size)
        bounds = np.linspace(low, high, of + 1).astype(np.int64)
        for number in sorted({shard % of for own, shard in searched if own == code}):
            own = pairs[bounds[number] : bounds[number + 1]] - code * documents
            parts.append(own.astype(np.uint32))
            ranges.append((code, int(number), int(of), len(parts[-1])))
    parts.append(np.arange(min(documents, _ANY_DOCUMENTS), dtype=np.uint32))
    ranges.append((ANY, 0, 1, len(parts[-1])))
    return np.concatenate(parts), _in_files(ranges)


def _in_files(ranges: list[tuple[int, int, int, int]]) -> list[PoolRange]:
    """Pools one after the other; a file takes them until it is full."""
    pools, file, room, start = list[PoolRange](), -1, 0, 0
    for language, number, of, count in ranges:
        if count > room:
            file, room = file + 1, _BIN
        pools.append(PoolRange(language, number, of, start, start + count, file))
        start, room = start + count, room - count
    return pools


def _places(shard: NDArray[np.int32], encoded: NDArray[np.bool_]) -> NDArray[np.int32]:
    """The place of each encoded document among those of its shard, in the order of the keys; -1 for the others."""
    chosen = np.flatnonzero(encoded).astype(np.uint32)
    chosen = chosen[np.argsort(shard[chosen], kind="stable")]
    counts = np.bincount(shard[chosen])
    places = np.full(len(shard), -1, np.int32)
    places[chosen] = np.arange(len(chosen), dtype=np.int32)
    places[chosen] -= np.repeat((np.cumsum(counts) - counts).astype(np.int32), counts)
    return places


def _asked(shards: Sequence[RowKeys]) -> tuple[Keys, Keys]:
    """Pairs (positive, query), by positive, of the queries that have several positives."""
    query = _column(shards, "query")
    order = np.argsort(query, kind="stable")
    query = query[order]
    positive = _column(shards, "positive")[order]
    del order
    new = _changes(query)
    group = np.cumsum(new, dtype=np.int32) - 1
    several = np.zeros(group[-1] + 1 if len(group) else 0, np.bool_)
    several[group[_changes(positive) & ~new]] = True
    kept = several[group]
    query, positive = query[kept], positive[kept]
    order = np.argsort(positive, kind="stable")
    return positive[order], query[order]


def _labels(shards: Sequence[RowKeys], documents: Keys) -> tuple[Keys, Keys]:
    """Distinct pairs (document, label): a label is of all texts of its rows, and some queries are documents too."""
    if not any(keys["label"].any() for keys in shards):
        return np.zeros(0, np.uint64), np.zeros(0, np.uint64)
    label, positive, query = (_column(shards, name, labelled=True) for name in ("label", "positive", "query"))
    also = np.isin(query, documents)
    return _distinct(np.concatenate([positive, query[also]]), np.concatenate([label, label[also]]))


def _distinct(first: Keys, second: Keys) -> tuple[Keys, Keys]:
    """Distinct pairs, sorted by the first and then by the second."""
    order = np.lexsort((second, first))
    first, second = first[order], second[order]
    new = _changes(first) | _changes(second)
    return first[new], second[new]
