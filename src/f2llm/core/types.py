"""The record that every source is converted to, the three formats (F2LLM-v2, section 3), and the names of choices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

TaskType = Literal["retrieval", "clustering", "classification"]
Importance = Literal["l1", "l2", "variance", "prefix", "magnitude", "random"]
Aggregate = Literal["sum", "max", "last"]
Depth = Literal["first", "influence", "norm_change"]
Distill = Literal["mse", "cosine", "relational"]
HOLDING_TEST_TEXTS = ("mkqa", "sib200")
"""Sources of the paper that hold test texts of MTEB, as their own data card says."""
TASK_TYPES: tuple[TaskType, ...] = get_args(TaskType)


@dataclass(frozen=True, slots=True)
class Example:
    """One training or evaluation sample.

    `id` is unique in its source. `query_lang` and `doc_lang` are language tags such as `eng_Latn`, or a lower-case
    programming language such as `python`. `label` is the class name where there is one (clustering, classification).
    `groups` names the units that must never be split between training and evaluation: the first is the query's own
    (a concept in a language, a document, an article), the others belong to the positive.
    """

    id: str
    query: str
    positive: str
    negatives: tuple[str, ...]
    task_type: TaskType
    source: str
    query_lang: str
    doc_lang: str
    label: str | None = None
    groups: tuple[str, ...] = ()
