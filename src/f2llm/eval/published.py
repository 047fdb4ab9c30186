"""What is published about 29 models on 26 benchmarks of MTEB.

published_scores.parquet holds one row for each benchmark and task (730 rows, 513 tasks) and a column for each model:
the main score, 0..1, of the public results repository of MTEB (github.com/embeddings-benchmark/results) as on
2026-11-24, rounded to four places; absent where that repository had none. Task type, splits, subsets and revision are
those of mteb 2.26.24. A task may stand in several benchmarks with different scores, because each takes its own
languages of it. published_models.tsv holds parameters and dimensions as mteb 2.26.24 states them.

Limits: the repository does not say for every score which revision and subsets it comes from, so a model's score may
cover fewer subsets than the benchmark has (bge-m3 on BibleNLP is such a case). FloresBitextMining has next
to no scores there. Cost: about 20 ms, once.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import pyarrow.parquet as pq


@dataclass(frozen=True)
class PublishedTask:
    """A task as a benchmark takes it; `subsets` are mteb's names, `scores` is model -> main score."""

    benchmark: str
    task: str
    task_type: str
    splits: tuple[str, ...]
    subsets: tuple[str, ...]
    revision: str
    scores: Mapping[str, float]

    @property
    def on_training_split(self) -> bool:
        """True where a score is taken from texts that their own data set offers for training."""
        return "train" in self.splits


@dataclass(frozen=True)
class PublishedModel:
    """Size and dimensions of a published model; None where they are not stated."""

    name: str
    parameters: int | None
    embedding_parameters: int | None
    dims: int | None


@cache
def published_tasks() -> tuple[PublishedTask, ...]:
    """Every row of published_scores.parquet."""
    with resources.as_file(resources.files(__package__) / "published_scores.parquet") as path:
        rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    models = [model.name for model in published_models()]
    return tuple(
        PublishedTask(
            row["benchmark"], row["task"], row["type"], tuple(row["splits"].split()), tuple(row["subsets"].split()),
            row["revision"], {model: round(row[model], 4) for model in models if row[model] is not None},
        )
        for row in rows
    )  # fmt: skip


@cache
def published_models() -> tuple[PublishedModel, ...]:
    """Every row of published_models.tsv, the F2LLM-v2 family first."""
    text = (resources.files(__package__) / "published_models.tsv").read_text(encoding="utf-8")
    rows = csv.DictReader(text.splitlines(), delimiter="\t")
    return tuple(PublishedModel(row["model"], *(int(row[key]) if row[key] else None for key in _SIZES)) for row in rows)


_SIZES = ("parameters", "embedding_parameters", "dims")
