"""The search of rows of a shard among the documents of a pool: exclude, rank, take, top up at random.

A block of rows is compared with the whole pool by one matrix product, at most 16 million scores (64 MB) at a time. Of
its scores those are looked at again that reach a bound: the `top_k`-th largest of the maxima of groups of documents,
which is at most the `top_k`-th largest score. So ranking costs little more than two passes over the scores, where a
partition of each row costs as much as the product.

What a row is given does not depend on its company, but the rounding of a product does. So scores that differ by less
than rounding may are computed again, pair by pair in double precision, and equal ones rank by the keys of their
documents.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from f2llm.data.mine_plan import ANY, Plan, PoolRange
from f2llm.data.mine_report import MineReport, histogram
from f2llm.data.mine_rules import Ints, Keys, MineRules, Vectors, matches, mix

BLOCK_SCORES = 16_000_000
_BLOCK_ROWS, _WINDOW_ROWS = 2048, 8192
_EXCLUDED, _NO_SCORE = np.float32(-np.inf), -2.0  # cosines lie above the second
_ROUNDING = np.float32(1e-6)  # a score that equals the limit is not below it, however it was rounded
_SLACK = 16  # documents beyond the window, one of which may belong into it by exact scores
_EXACT_PAIRS = 4096


@dataclass(frozen=True)
class Rows:
    """Rows of a shard that search the same pool.

    `number` in their shard, `place` in their source; keys of their texts and label; how many negatives each needs;
    pairs of a row (its index here, ascending) and the key of a negative that it brings along.
    """

    number: Ints
    place: Keys
    query: Keys
    positive: Keys
    label: Keys
    need: Ints
    given_row: Ints
    given: Keys

    def part(self, start: int, stop: int) -> Rows:
        cut = slice(start, stop)
        own = slice(*np.searchsorted(self.given_row, [start, stop]).tolist())
        columns = {name: getattr(self, name)[cut] for name in _PER_ROW}
        return replace(self, **columns, given_row=self.given_row[own] - start, given=self.given[own])


_PER_ROW = ("number", "place", "query", "positive", "label", "need")


@dataclass(frozen=True)
class Pool:
    """Documents by ascending key; pairs (tag, document), by tag: two texts that share a tag are no negatives.

    Tags are labels and the queries that have several positives. `first` is the member number of the first document.
    """

    first: int
    keys: Keys
    tags: Keys
    tagged: Ints

    @classmethod
    def of(cls, plan: Plan, pool: PoolRange) -> Pool:
        keys = plan.documents[plan.members[pool.start : pool.stop]]
        asked, query = matches(plan.asked_positive, keys)
        labelled, label = matches(plan.label_document, keys)
        tags = np.concatenate([plan.asked_query[query], plan.label[label]])
        order = np.argsort(tags, kind="stable")
        return cls(pool.start, keys, tags[order], np.concatenate([asked, labelled])[order])

    def excluded(self, plan: Plan, rows: Rows) -> tuple[Ints, Ints]:
        """Pairs (row, document) that are no negatives: known positives, the query itself, same label, given."""
        everyone = np.arange(len(rows.number))
        owner = np.concatenate([everyone, everyone, rows.given_row])
        wanted, found = matches(self.keys, np.concatenate([rows.positive, rows.query, rows.given]))
        positives, labels = np.unique(rows.positive), np.unique(rows.label[rows.label != 0])
        holder, asked = matches(plan.asked_positive, positives)
        by_query = self._tagged(positives[holder], plan.asked_query[asked], rows.positive)
        by_label = self._tagged(labels, labels, rows.label)
        row, document = map(np.concatenate, zip((owner[wanted], found), by_query, by_label, strict=True))
        return row, document

    def _tagged(self, holder: Keys, tags: Keys, holders: Keys) -> tuple[Ints, Ints]:
        """Pairs (row, document with a tag of its holder); `holder` is ascending, a tag has one of it."""
        index, entry = matches(self.tags, tags)
        row, found = matches(holder[index], holders)
        return row, self.tagged[entry[found]]


@dataclass
class Found:
    """What the rows of a shard were given: [R, K] member numbers (-1: none) and scores of the mined ones; [R] counts.

    The first `mined` of a row are mined, best first, the next `random` are drawn. `positive` [R] are the positives'
    scores, NaN for rows that were not searched for.
    """

    member: Ints
    score: Vectors
    positive: Vectors
    mined: Ints
    random: Ints

    @classmethod
    def empty(cls, rows: int, per_query: int) -> Found:
        return cls(
            np.full((rows, per_query), -1, np.int64), np.full((rows, per_query), np.nan, np.float32),
            np.full(rows, np.nan, np.float32), np.zeros(rows, np.int64), np.zeros(rows, np.int64),
        )  # fmt: skip

    def count(self, report: MineReport, need: Ints) -> None:
        """Put the counts and scores into a report; `need` [R] as of the rows, 0 for those not searched for."""
        searched = np.isfinite(self.positive)
        report.rows_searched += int(searched.sum())
        report.mined += int(self.mined.sum())
        report.topped_up += int(self.random.sum())
        report.rows_topped_up += int((self.random > 0).sum())
        report.rows_short += int((searched & (self.mined + self.random < need)).sum())
        report.positive_scores = report.positive_scores + histogram(self.positive[searched])
        report.negative_scores = report.negative_scores + histogram(self.score[np.isfinite(self.score)])


@dataclass
class Search:
    """Searches the pools of one shard; results go to `found`."""

    plan: Plan
    shard: int
    rules: MineRules
    found: Found
    _any: Pool = field(init=False)

    def __post_init__(self) -> None:
        self._any = Pool.of(self.plan, self.plan.pool_of(ANY, 0))

    def language(
        self, language: int, rows: Rows, vectors_of: Callable[[PoolRange], Vectors],
        anchors_of: Callable[[Rows], tuple[Vectors, Vectors]],
    ) -> None:  # fmt: skip
        """Search for all rows of a language; `anchors_of` gives the vectors of rows' anchors and of their positives."""
        place = self.plan.pool_of(language, self.shard)
        pool, V_ND = Pool.of(self.plan, place), vectors_of(place)
        had = np.isin(self._any.keys, pool.keys)
        step = max(16, min(_BLOCK_ROWS, BLOCK_SCORES // len(V_ND)))
        buffer = np.empty((step, len(V_ND)), np.float32)
        for start in range(0, len(rows.number), _WINDOW_ROWS):
            window = rows.part(start, start + _WINDOW_ROWS)
            A_BD, P_BD = anchors_of(window)
            positive_B = np.einsum("bd,bd->b", A_BD, P_BD)
            for first in range(0, len(A_BD), step):
                cut = slice(first, first + step)
                S_BN = np.matmul(A_BD[cut], V_ND.T, out=buffer[: len(A_BD[cut])])
                part = window.part(first, first + step)
                S_BN[pool.excluded(self.plan, part)] = _EXCLUDED
                ranked = settled(*best(S_BN, self.rules.top_k + _SLACK), A_BD[cut], V_ND, self.rules.top_k)
                self._block(pool, part, S_BN, ranked, positive_B[cut], had)

    def _block(
        self, pool: Pool, rows: Rows, S_BN: Vectors, ranked: tuple[Ints, Vectors], positive_B: Vectors,
        had: NDArray[np.bool_],
    ) -> None:  # fmt: skip
        rules, (best_BK, scores_BK) = self.rules, ranked
        limit_B = np.minimum(rules.max_score, positive_B - (1 - rules.relative_margin) * np.abs(positive_B))
        allowed_BK = (scores_BK > _NO_SCORE) & (scores_BK < limit_B[:, None] - _ROUNDING)
        allowed_BK[:, : rules.skip_top] = False
        rank_BK = np.cumsum(allowed_BK, axis=1)
        row, column = np.nonzero(allowed_BK & (rank_BK <= rows.need[:, None]))
        slot, number = rank_BK[row, column] - 1, rows.number[row]
        self.found.member[number, slot] = pool.first + best_BK[row, column]
        self.found.score[number, slot] = scores_BK[row, column]
        self.found.positive[rows.number] = positive_B
        self.found.mined[rows.number] = np.bincount(row, minlength=len(S_BN))
        nearest = scores_BK[:, : rules.skip_top] > _NO_SCORE  # too near the query to be drawn at random
        skipped, rank = np.nonzero(nearest)
        S_BN[skipped, best_BK[skipped, rank]] = _EXCLUDED
        S_BN[row, best_BK[row, column]] = _EXCLUDED
        self._top_up(pool, rows, S_BN, rules.max_score)
        self._top_up_from_any(rows, had)

    def _top_up_from_any(self, rows: Rows, had: NDArray[np.bool_]) -> None:
        """Documents of any language for rows that are still short; those of the own pool `had` their turn."""
        short = np.flatnonzero(self._short(rows) > 0)
        if not len(short) or had.all():
            return
        S_BN = np.where(had, _EXCLUDED, np.float32(0))[None].repeat(len(short), axis=0)
        row, document = self._any.excluded(self.plan, rows)
        index, found = matches(row[order := np.argsort(row, kind="stable")], short)
        S_BN[index, document[order[found]]] = _EXCLUDED
        columns = {name: getattr(rows, name)[short] for name in _PER_ROW}
        self._top_up(self._any, replace(rows, **columns), S_BN, np.inf)

    def _short(self, rows: Rows) -> Ints:
        return rows.need - self.found.mined[rows.number] - self.found.random[rows.number]

    def _top_up(self, pool: Pool, rows: Rows, S_BN: Vectors, ceiling: float) -> None:
        """Documents at random for rows that are short: those that follow a random place in the pool."""
        need = self._short(rows)
        short = np.flatnonzero(need > 0)
        start = (mix(rows.place[short], self.rules.seed) % np.uint64(len(pool.keys))).astype(np.int64)
        row, rank, document = draw(S_BN, short, start, need[short], ceiling)
        number = rows.number[row]
        slot = self.found.mined[number] + self.found.random[number] + rank
        self.found.member[number, slot] = pool.first + document
        self.found.random[rows.number] += np.bincount(row, minlength=len(rows.number))


def best(S_BN: Vectors, count: int) -> tuple[Ints, Vectors]:
    """The `count` (or N) best documents of each row [B, K], best first, and their scores: -inf where there are fewer.

    Excluded documents have a score of -inf.
    """
    rows, documents = S_BN.shape
    count = min(count, documents)
    width = max(1, min(32, documents // (3 * count)))
    groups = documents // width
    peaks = S_BN[:, : groups * width].reshape(rows, width, groups).max(axis=1)
    bound_B = np.maximum(np.partition(peaks, groups - count, axis=1)[:, groups - count], _NO_SCORE)
    flat = np.flatnonzero(bound_B[:, None] <= S_BN)
    row = flat // documents
    flat, row = _thinned(flat, row, S_BN.reshape(-1)[flat], count, rows)
    counts = np.bincount(row, minlength=rows)
    column = np.arange(len(flat)) - np.repeat(np.cumsum(counts) - counts, counts)
    table = np.full((rows, max(count, counts.max(initial=0))), -1, np.int64)
    table[row, column] = _order_keys(S_BN.reshape(-1)[flat], flat - row * documents)
    table.sort(axis=1)
    keys = table[:, : -count - 1 : -1]
    found = np.where(keys < 0, 0, 0xFFFFFFFF - (keys & 0xFFFFFFFF))
    return found, np.where(keys < 0, _EXCLUDED, np.take_along_axis(S_BN, found, 1))


def settled(best_BK: Ints, scores_BK: Vectors, A_BD: Vectors, V_ND: Vectors, count: int) -> tuple[Ints, Vectors]:
    """The `count` first of ranked documents [B, K] and their scores, those of nearly equal scores in their exact order.

    Scores of exactly 0 are those of vectors that share nothing, in whatever company.
    """
    present = scores_BK[:, 1:] > _NO_SCORE
    near = np.zeros(present.shape, np.bool_)
    near[present] = scores_BK[:, :-1][present] - scores_BK[:, 1:][present] <= _ROUNDING
    near &= (scores_BK[:, :-1] != 0) | (scores_BK[:, 1:] != 0)
    tied, first = np.zeros(best_BK.shape, np.bool_), np.zeros(best_BK.shape, np.bool_)
    tied[:, :-1] |= near
    tied[:, 1:] |= near
    first[:, 0] = True
    first[:, 1:] = ~near
    row, column = np.nonzero(tied)
    group, document, exact = np.cumsum(first[tied]), best_BK[tied], np.empty(len(row))
    for start in range(0, len(row), _EXACT_PAIRS):
        pairs = slice(start, start + _EXACT_PAIRS)
        left, right = A_BD[row[pairs]].astype(np.float64), V_ND[document[pairs]].astype(np.float64)
        exact[pairs] = np.einsum("nd,nd->n", left, right)
    order = np.lexsort((document, -exact, group))
    best_BK[row, column], scores_BK[row, column] = document[order], exact[order]
    return best_BK[:, :count], scores_BK[:, :count]


def _order_keys(scores: Vectors, places: Ints) -> Ints:
    """Integers from 0 that grow with the score and, where it is equal (to 2e-7), with smaller places."""
    bits: Ints = (scores + np.float32(2)).view(np.uint32).astype(np.int64)  # the bits of positive floats grow with them
    return (bits << 32) | (0xFFFFFFFF - places)


def _thinned(flat: Ints, row: Ints, scores: Vectors, count: int, rows: int) -> tuple[Ints, Ints]:
    """Of rows with many candidates (equal scores, mostly) only the best `count`: a table of all would be large."""
    counts = np.bincount(row, minlength=rows)
    ends, kept = np.cumsum(counts), np.ones(len(flat), np.bool_)
    for crowded in np.flatnonzero(counts > 4 * count):
        own = slice(ends[crowded] - counts[crowded], ends[crowded])
        last = np.partition(scores[own], -count)[-count]
        above = scores[own] > last
        above[np.flatnonzero(scores[own] == last)[: count - above.sum()]] = True
        kept[own] = above
    return flat[kept], row[kept]


def draw(S_BN: Vectors, rows: Ints, start: Ints, need: Ints, ceiling: float) -> tuple[Ints, Ints, Ints]:
    """The first `need` documents below the ceiling from a place on, round the pool once, for some rows of the scores.

    Returns row, rank from 0 and document of each.
    """
    documents, found = S_BN.shape[1], list[Any]()
    have, waiting, offset, width = np.zeros(len(rows), np.int64), np.arange(len(rows)), 0, 4 * int(max(need, default=0))
    while len(waiting) and offset < documents:
        columns = (start[waiting, None] + np.arange(offset, min(offset + width, documents))) % documents
        scores = S_BN[rows[waiting, None], columns]
        allowed = (scores > _NO_SCORE) & (scores < ceiling - _ROUNDING)
        rank = have[waiting, None] + np.cumsum(allowed, axis=1)
        index, column = np.nonzero(allowed & (rank <= need[waiting, None]))
        found.append((rows[waiting[index]], rank[index, column] - 1, columns[index, column]))
        have[waiting] = rank[:, -1]
        waiting = waiting[have[waiting] < need[waiting]]
        offset, width = offset + width, 4 * width
    empty = np.zeros(0, np.int64)
    row, rank, document = (
        (np.concatenate([empty, *parts]) for parts in zip(*found, strict=True)) if found else 3 * [empty]
    )
    return row, rank, document
