"""Which rows of a source stay where each unit, the source or every file in it, is cut to so many rows.

Rows are drawn at random. With `alpha` below 1 the draw is fair to small languages: each query language of a unit that
is cut gets rows in proportion to size**alpha, but no more than it has; what it leaves goes to the others in the same
proportion (the smoothing of multilingual pre-training, arXiv:1911.02116, section 3.1, with a budget in rows).

The choice depends on the seed, the stage, and the unit's own rows only. Cost: one pass over one or two columns (none
where the source is the unit and `alpha` is 1). Memory: about 16 bytes a row.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from f2llm.core.errors import ConfigError
from f2llm.data.examples import count_examples, read_batches

Per = Literal["source", "file"]
# `paq/7` and `paq_part2/7` are rows of one unit: parts are cuts of one file.
_UNIT = r"^(?P<unit>[^/]*?)(?:_part\d+)?/"
_Group = tuple[str, str]


def choose_rows(
    path: Path, cap: int, *, per: Per, seed: int, stage: int, alpha: float = 1.0
) -> NDArray[np.int64] | None:
    """The ascending row numbers, over all shards, that stay when each unit keeps `cap` rows; None where all do.

    `per="file"`: the unit is what `Example.id` has before its first "/", without `_partN` at the end.
    """
    if per == "source":
        count = count_examples(path)
        if count <= cap:
            return None
        if alpha == 1.0:
            return np.sort(np.random.default_rng([seed, stage]).permutation(count)[:cap])
    groups, codes = _groups(path, per, by_language=alpha < 1.0)
    counts = np.bincount(codes, minlength=len(groups))
    quotas = _group_quotas(groups, counts, cap, alpha)
    return None if (quotas == counts).all() else _draw(groups, codes, counts, quotas, seed, stage)


def language_quotas(counts_L: NDArray[np.int64], cap: int, alpha: float) -> NDArray[np.int64]:
    """How many of the rows of each language to take, [L]: in proportion to rows**alpha, at most all, `cap` together.

    A level rises over all languages, each as wide as rows**alpha, until the cap is reached; who has no more rows is
    full. Fractions go to the largest remainders. All rows where they are no more than `cap`.
    """
    if counts_L.sum() <= cap:
        return counts_L
    weights = counts_L.astype(np.float64) ** alpha
    order = np.argsort(counts_L, kind="stable")  # in the order in which they become full
    counts, widths = counts_L[order], weights[order]
    below = np.cumsum(counts) - counts  # rows of those that are full before
    levels = (cap - below) / np.cumsum(widths[::-1])[::-1]
    level = levels[np.argmax(levels <= counts / widths)]
    exact = np.minimum(counts_L, level * weights)
    quotas: NDArray[np.int64] = np.floor(exact).astype(np.int64)
    open_L = np.flatnonzero(quotas < counts_L)
    by_remainder = open_L[np.argsort((quotas - exact)[open_L], kind="stable")]
    quotas[by_remainder[: cap - int(quotas.sum())]] += 1
    return quotas


def _groups(path: Path, per: Per, *, by_language: bool) -> tuple[list[_Group], NDArray[np.int32]]:
    """The (unit, query language) that occur, and which of them each row is of; "" for what is not told apart."""
    numbers: dict[_Group, int] = {}
    parts = [np.zeros(0, np.int32)]
    columns = ["id"] * (per == "file") + ["query_lang"] * by_language
    for batch in read_batches(path, columns):
        units = _units(path, batch.column("id")) if per == "file" else None
        langs = batch.column("query_lang") if by_language else None
        parts.append(_codes(units, langs, numbers))
    return list(numbers), np.concatenate(parts)


def _units(path: Path, ids: pc.StringArray) -> pc.StringArray:
    units = pc.struct_field(pc.extract_regex(ids, _UNIT), "unit")
    if units.null_count:
        first = ids[pc.index(pc.is_null(units), True).as_py()].as_py()
        raise ConfigError(f'{path}: the id {first!r} names no file; count rows by source (max_rows_per = "source")')
    return units


def _codes(units: pc.StringArray | None, langs: pc.StringArray | None, numbers: dict[_Group, int]) -> NDArray[np.int32]:
    """The numbers of the rows' groups, new ones added to `numbers`."""
    columns = [None if column is None else column.dictionary_encode() for column in (units, langs)]
    names = [[""] if column is None else column.dictionary.to_pylist() for column in columns]
    rows = next(len(column) for column in columns if column is not None)
    places = [np.zeros(rows, np.int64) if c is None else c.indices.to_numpy().astype(np.int64) for c in columns]
    pairs, inverse = np.unique(places[0] * len(names[1]) + places[1], return_inverse=True)
    found = [(names[0][pair // len(names[1])], names[1][pair % len(names[1])]) for pair in pairs.tolist()]
    return np.array([numbers.setdefault(group, len(numbers)) for group in found], np.int32)[inverse]


def _group_quotas(groups: list[_Group], counts: NDArray[np.int64], cap: int, alpha: float) -> NDArray[np.int64]:
    """How many rows of each group stay; languages of a unit in the order of their names, whatever the rows' order."""
    members: dict[str, list[int]] = {}
    for number in sorted(range(len(groups)), key=groups.__getitem__):
        members.setdefault(groups[number][0], []).append(number)
    quotas = counts.copy()
    for own in members.values():
        quotas[own] = language_quotas(counts[own], cap, alpha)
    return quotas


def _draw(
    groups: list[_Group],
    codes: NDArray[np.int32],
    counts: NDArray[np.int64],
    quotas: NDArray[np.int64],
    seed: int,
    stage: int,
) -> NDArray[np.int64]:
    order, ends = np.argsort(codes, kind="stable"), np.cumsum(counts)
    kept = np.zeros(len(codes), bool)
    for group, rows, quota in zip(groups, np.split(order, ends[:-1]), quotas, strict=True):
        if quota < len(rows):
            np.random.default_rng([seed, stage, _hash(group)]).shuffle(rows)
        kept[rows[:quota]] = True
    del order
    return np.flatnonzero(kept)


def _hash(group: _Group) -> int:
    return int.from_bytes(hashlib.blake2b(repr(group).encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")
