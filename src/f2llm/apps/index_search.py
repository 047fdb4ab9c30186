"""Search in the table of an index: filters, the funnel, text search, their fusion, and how long each stage took.

vector: the shortlist's candidates by exact cosine. text: BM25 over words. hybrid: both lists, with exact cosines for
the candidates of either, fused by reciprocal ranks. Filters come first: the best of what they leave is found.
Cost and limits: `apps.funnel`; the first search of a process reads the short vectors of all passages.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import pyarrow as pa
from numpy.typing import NDArray

from f2llm.apps import index_table as tables
from f2llm.apps.funnel import Shortlist, cosines, fused
from f2llm.apps.reading import unit_of
from f2llm.core.errors import ConfigError
from f2llm.model.vectors import Vectors

Mode = Literal["vector", "text", "hybrid"]
MODES: tuple[Mode, ...] = ("vector", "text", "hybrid")
T = TypeVar("T")


def mode_of(given: str) -> Mode:
    """A mode by its name; ConfigError for another word."""
    for mode in MODES:
        if mode == given:
            return mode
    raise ConfigError(f"--mode {given}: give one of {', '.join(MODES)}")


@dataclass(frozen=True, slots=True)
class IndexHit:
    """A found passage. `score` is what ranks: cosine, BM25, or the sum of reciprocal ranks; `words`: those searched."""

    score: float
    text: str
    path: str
    position: int
    unit: str
    title: str
    language: str
    values: dict[str, Any]
    cosine: float | None
    words: list[str]


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage of a search: what it did, how many passages came out, in how many milliseconds."""

    name: str
    passages: int
    milliseconds: float
    note: str = ""


class Searcher:
    """Searches one table; keeps the short vectors in memory until the table has another version."""

    def __init__(self, table: Any, memory: tables.Memory) -> None:
        self.stages: list[Stage] = []
        self._table, self._memory = table, memory
        self._shortlist: tuple[int, Shortlist] | None = None

    def search(
        self, query: str, query_D: Callable[[], Vectors], k: int, sql: str | None, mode: Mode, wanted: int
    ) -> list[IndexHit]:
        """The `k` best of `wanted` candidates, no text twice; `query_D` gives the vector where the mode needs it."""
        self.stages = []
        words = [token.text for token in self._table.tokenize(query, index_name=tables.TEXT_INDEX)]
        by_text = self._by_text(query, sql, wanted) if mode != "vector" else {}
        if mode == "text":
            rows, cosine = self._read(list(by_text), None), dict[int, float]()
        else:
            vector = self._timed("encode", query_D, f"{self._memory.dims} dims", lambda _: 1)
            near = self._shortlisted(vector, sql, wanted)
            rows = self._read(sorted({*near, *by_text}), vector)
            cosine = {row: values.pop("cosine") for row, values in rows.items()}
        by_vector = dict(sorted(cosine.items(), key=lambda entry: -entry[1])[:wanted])
        scores = {"vector": by_vector, "text": by_text, "hybrid": fused([list(by_vector), list(by_text)])}[mode]
        hits: dict[str, IndexHit] = {}
        for row, score in scores.items():
            hits.setdefault(rows[row]["text"], self._hit(rows[row], score, cosine.get(row), words))
        return list(hits.values())[:k]

    def _by_text(self, query: str, sql: str | None, wanted: int) -> dict[int, float]:
        """BM25 by row id, best first."""

        def run() -> pa.Table:
            found = self._table.search(query, query_type="fts").limit(wanted).select(["_rowid", "_score"])
            return (found.where(sql) if sql else found).to_arrow()

        found = self._timed("text", run, "BM25")
        return dict(zip(found["_rowid"].to_pylist(), found["_score"].to_pylist(), strict=True))

    def _shortlisted(self, query_D: Vectors, sql: str | None, wanted: int) -> list[int]:
        note = f"{self._memory.short_dims} dims, {self._memory.short_precision}"
        allowed = None
        if sql:
            ids = self._timed("filter", lambda: tables.scan(self._table, ["_rowid"], sql), sql)
            allowed = ids["_rowid"].to_numpy()
        shortlist = self._timed("load", self._loaded, note, lambda loaded: len(loaded.ids))
        return [int(row) for row in self._timed("shortlist", lambda: shortlist.best(query_D, wanted, allowed), note)]

    def _loaded(self) -> Shortlist:
        version = self._table.version
        if self._shortlist is None or self._shortlist[0] != version:
            found = tables.scan(self._table, ["_rowid", "short"])
            self._shortlist = version, Shortlist.of(found["_rowid"].to_numpy(), _matrix(found["short"]))
        return self._shortlist[1]

    def _read(self, ids: list[int], query_D: Vectors | None) -> dict[int, dict[str, Any]]:
        """The rows of these ids by id, with their exact "cosine" where there is a query."""
        names = ["_rowid", *tables.BASE, *(name for name in self._memory.own if name in self._table.schema.names)]

        def run() -> dict[int, dict[str, Any]]:
            if not ids:
                return {}
            found = self._table.take_row_ids(ids).select(names if query_D is None else [*names, "vector"]).to_arrow()
            rows = found.select(names).to_pylist()
            if query_D is not None:
                for row, cosine in zip(rows, cosines(query_D, _matrix(found["vector"])).tolist(), strict=True):
                    row["cosine"] = cosine
            return {row["_rowid"]: row for row in rows}

        if query_D is None:
            return self._timed("read", run)
        return self._timed("rerank", run, f"{self._memory.dims} dims, {self._memory.precision}, exact")

    def _hit(self, row: Mapping[str, Any], score: float, cosine: float | None, words: list[str]) -> IndexHit:
        values = {name: row.get(name) for name in self._memory.own}
        fields = {name: row[name] for name in tables.BASE}
        return IndexHit(score=score, unit=unit_of(row["path"]), values=values, cosine=cosine, words=words, **fields)

    def _timed(self, name: str, run: Callable[[], T], note: str = "", size: Callable[[T], int] = len) -> T:  # type: ignore[assignment]
        started = time.perf_counter()
        found = run()
        self.stages.append(Stage(name, size(found), (time.perf_counter() - started) * 1000, note))
        return found


def _matrix(lists: pa.ChunkedArray) -> NDArray[Any]:
    """A column of vectors [N, D] as it is stored."""
    joined = lists.combine_chunks()
    matrix_ND: NDArray[Any] = joined.flatten().to_numpy(zero_copy_only=False).reshape(-1, joined.type.list_size)
    return matrix_ND
