"""What the rows of a shard ask of the search, wherever vectors lie: in memory or in the files of a run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from f2llm.data.mine_plan import Plan, PoolRange, RowKeys
from f2llm.data.mine_rules import Ints, Keys, MineRules, Vectors, matches, text_key
from f2llm.data.mine_search import Found, Rows, Search


class VectorStore(Protocol):
    """Where the vectors of documents lie."""

    def pool(self, pool: PoolRange) -> Vectors:
        """Vectors [N, D] of a pool, in the order of its members."""
        ...

    def documents(self, documents: Ints) -> Vectors:
        """Vectors [N, D] of documents, by their numbers in the plan."""
        ...


@dataclass(frozen=True)
class Given:
    """Negatives that rows bring along and keep: their row in the shard (ascending), place in its list, and key."""

    row: Ints
    slot: Ints
    key: Keys


def given_negatives(plan: Plan, keys: RowKeys, lists: Iterable[tuple[int, Sequence[str]]]) -> Given:
    """Of (row, negatives that it brings along) those that are neither known positives, the query, nor repeated."""
    found = list[tuple[int, int, int]]()
    for row, texts in lists:
        positive, query = int(keys["positive"][row]), int(keys["query"][row])
        distinct = dict[int, int]()
        for slot, text in enumerate(texts):
            distinct.setdefault(text_key(text), slot)
        found += [
            (row, slot, key)
            for key, slot in distinct.items()
            if key not in (positive, query) and not plan.share_query(positive, key)
        ]
    table = np.array(found, [("row", np.int64), ("slot", np.int64), ("key", np.uint64)])
    return Given(table["row"], table["slot"], table["key"])


def search_rows(
    plan: Plan, shard: int, keys: RowKeys, languages: Sequence[str], given: Given, store: VectorStore,
    queries: tuple[Vectors, Ints] | None, rules: MineRules,
) -> Found:  # fmt: skip
    """Search for all rows of a shard that need negatives; `languages` are those that its keys number.

    `queries`: vectors of distinct queries, and the index of each row's; None where positives are the anchors.
    """
    found = Found.empty(len(keys), rules.per_query)
    search = Search(plan, shard, rules, found)

    def anchors(rows: Rows) -> tuple[Vectors, Vectors]:
        P_ND = store.documents(np.searchsorted(plan.documents, rows.positive))
        return (P_ND if queries is None else queries[0][queries[1][rows.number]]), P_ND

    need = rules.per_query - np.bincount(given.row, minlength=len(keys))
    for language in np.unique(keys["language"][keys["needs"]]).tolist():
        number = np.flatnonzero(keys["needs"] & (keys["language"] == language))
        index, entry = matches(given.row, number)
        rows = Rows(
            number, (plan.starts[shard] + number).astype(np.uint64), keys["query"][number], keys["positive"][number],
            keys["label"][number], need[number], index, given.key[entry],
        )  # fmt: skip
        search.language(plan.languages.index(languages[language]), rows, store.pool, anchors)
    return found


def exact_scores(
    plan: Plan, keys: RowKeys, store: VectorStore, queries: tuple[Vectors, Ints] | None, row: int, members: Ints
) -> Vectors:
    """Scores of a row's anchor with some members of pools, in double precision, so that none depends on its company."""
    if not len(members):
        return np.zeros(0, np.float32)
    V_ND = store.documents(plan.members[members].astype(np.int64)).astype(np.float64)
    if queries is None:
        A_1D = store.documents(np.searchsorted(plan.documents, keys["positive"][[row]]))
    else:
        A_1D = queries[0][queries[1][[row]]]
    scores: Vectors = np.einsum("nd,d->n", V_ND, A_1D[0].astype(np.float64)).astype(np.float32)
    return scores
