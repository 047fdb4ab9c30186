"""How much data a stage has, before it exists: rows by source, texts and their length, with what each figure rests on.

A finished `tokenize/stageN` tells exactly. Without it the registry knows its sources' rows; of the recipe's own sources
nothing is known. The rows that stage 2 keeps of a source with many units depend on how unequal they are, of which only
the total is published: these sources are scaled by one factor, so that the whole registry under the paper's cap gives
the published 17,733,380.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from f2llm.core.config import Recipe, SourceConfig
from f2llm.core.types import TaskType
from f2llm.data.sources import CAP, ROWS_AFTER_CAP, TEXTS_AFTER_CAP, Source, registry, rows_after_cap
from f2llm.data.store import TokenStore
from f2llm.pipeline.registry import registered
from f2llm.pipeline.runner import MANIFEST


@dataclass(frozen=True)
class StageData:
    """What a stage trains on; `rows` are None where a source's are not known, `texts` (the distinct ones) likewise.

    `measured`: read from a finished store; then `languages` has the shares of the query languages of each source.
    """

    rows: Mapping[str, int | None]
    task_types: Mapping[str, TaskType]
    stored_negatives: int
    tokens_per_text: float
    texts: int | None
    measured: bool
    languages: Mapping[str, Mapping[str, float]]

    @property
    def total_rows(self) -> int | None:
        known = [rows for rows in self.rows.values() if rows is not None]
        return sum(known) if len(known) == len(self.rows) else None

    @property
    def tokens(self) -> int | None:
        """Tokens of all distinct texts."""
        return None if self.texts is None else round(self.texts * self.tokens_per_text)


def stage_data(recipe: Recipe, stage: int, out: Path | None) -> StageData:
    """The data of a stage of a recipe whose registry is already among its sources; `out` may hold finished steps."""
    sources = [source for source in recipe.sources if stage in source.stages]
    return _measured(sources, stage, out) or _expected(recipe, sources, stage)


def _measured(sources: list[SourceConfig], stage: int, out: Path | None) -> StageData | None:
    directory = None if out is None else out / "tokenize" / f"stage{stage}"
    if directory is None or not (directory / MANIFEST).exists():
        return None
    store = TokenStore(directory)
    if set(store.rows) != {source.id for source in sources}:
        return None
    return StageData(
        rows={source: len(rows) for source, rows in store.rows.items()},
        task_types=store.task_types,
        stored_negatives=max(rows.shape[1] - 2 for rows in store.rows.values()),
        tokens_per_text=int(store.offsets[-1]) / max(len(store), 1),
        texts=len(store),
        measured=True,
        languages={source: store.language_shares(source) for source in store.rows},
    )


def _expected(recipe: Recipe, sources: list[SourceConfig], stage: int) -> StageData:
    known, rows = registered(recipe), dict[str, int | None]()
    for source in sources:
        rows[source.id] = _rows(recipe, known[source.id], stage) if source.id in known else None
    total = None if None in rows.values() else sum(count or 0 for count in rows.values())
    return StageData(
        rows=rows,
        task_types={source.id: source.task_type for source in sources},
        stored_negatives=recipe.mine.per_query,
        tokens_per_text=min(recipe.plan.tokens_per_text, recipe.tokenizer.max_seq_length),
        texts=None if stage == 1 or total is None else round(total * TEXTS_AFTER_CAP / ROWS_AFTER_CAP),
        measured=False,
        languages={},
    )


def _rows(recipe: Recipe, source: Source, stage: int) -> int:
    """Training rows after cleaning, which holds out a share of the queries and of the positives, and the cap."""
    assert recipe.registry is not None
    groups = 1 if source.task_type == "classification" else 2
    kept = round(source.rows * (1 - recipe.clean.held_out_fraction) ** groups)
    return kept if stage == 1 else min(kept, likely_rows_after_cap(source, recipe.registry.max_rows))


def likely_rows_after_cap(source: Source, cap: int | None) -> int:
    """An estimate of the rows that stage 2 has of a source: at the paper's cap below the bound of equal units."""
    bound = rows_after_cap(source, cap)
    return round(bound * _inequality()) if cap == CAP and _uncertain(source) else bound


def _uncertain(source: Source) -> bool:
    return source.units > 1 and source.rows > CAP


@cache
def _inequality() -> float:
    """Rows that sources of many units keep, relative to what they would keep were their units equal."""
    bounds = [(rows_after_cap(source, CAP), _uncertain(source)) for source in registry()]
    certain = sum(bound for bound, uncertain in bounds if not uncertain)
    return (ROWS_AFTER_CAP - certain) / sum(bound for bound, uncertain in bounds if uncertain)
