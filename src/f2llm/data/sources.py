"""The 157 sources of the paper (F2LLM-v2, appendix, tables 8 and 9) and their files in the released data set, as data.

`sources.tsv` beside this module has one line a source: 60,147,938 rows in 500 parquet files, of which stage 1 takes
seven sources with 26,693,280 rows. Reading it costs a millisecond, once in a process.

Stage 2 takes at most 80,000 rows of each *unit*: a file, where a source has one for each language; the source as a
whole, where its files are only parts of it, and of UNPC, ParaCrawl and CLIRMatrix. That makes 395 units. How many rows
each unit has is not published, so `rows_after_cap` is an upper bound.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import get_args

from f2llm.core.types import TaskType

DATA_SET = "codefuse-ai/F2LLM-v2"
CAP = 80_000
"""Rows of a unit in stage 2 of the paper."""
ROWS_AFTER_CAP = 17_733_380
"""Rows of all units under `CAP`, as counted on the released files (revision d520b8ad): the paper's 18 million."""
TEXTS_AFTER_CAP = 17_733_362 + 90_313_442
"""Queries and distinct documents of these rows, 18 without a positive left out, with all 24 negatives."""


@dataclass(frozen=True)
class Source:
    """One line of the registry.

    `languages` is a list of codes, or how many there are. `files` are names without `.parquet`, or patterns of them as
    the converters of `convert_released` read them; `row_range` is the source's part of a file that holds several.
    `symmetric`: query and document are of the same kind.
    """

    id: str
    name: str
    category: str
    task_type: TaskType
    languages: str
    rows: int
    units: int
    files: tuple[str, ...]
    row_range: tuple[int, int] | None
    symmetric: bool
    stage1: bool

    @property
    def language(self) -> str | None:
        """The code of its one language, where it has one."""
        return self.languages if self.languages.isalpha() else None


@cache
def registry() -> tuple[Source, ...]:
    """All sources, in the paper's order."""
    text = (resources.files(__package__) / "sources.tsv").read_text(encoding="utf-8")
    return tuple(_source(row) for row in csv.DictReader(text.splitlines(), delimiter="\t"))


def rows_after_cap(source: Source, cap: int | None) -> int:
    """The most rows that a source can have left when each of its units is cut to `cap` rows (None: not at all).

    Reached where the units are equally large; exact for a source of one unit.
    """
    return source.rows if cap is None else min(source.rows, source.units * cap)


def _source(row: dict[str, str]) -> Source:
    task_type = next(kind for kind in get_args(TaskType) if kind == row["task_type"])
    first, _, last = row["row_range"].partition(":")
    return Source(
        id=row["id"],
        name=row["name"],
        category=row["category"],
        task_type=task_type,
        languages=row["languages"],
        rows=int(row["rows"]),
        units=int(row["units"]),
        files=tuple(row["files"].split()),
        row_range=(int(first), int(last)) if last else None,
        symmetric=row["symmetric"] == "true",
        stage1=row["stage1"] == "true",
    )
