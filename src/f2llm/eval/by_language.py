"""Scores by language and by script, out of the subsets of tasks.

A subset belongs to the languages that mteb states for it, or else to those that its name spells: `swh_Latn`,
`eng_Latn-ces_Latn`, `zh-CN`. A pair counts for both of its languages, except that English, the pivot of most pairs,
gets the pairs with itself alone. Scores of different tasks are not on one scale, so a language is placed by how far it
is above or below the mean of each task over its languages, and a script likewise within each task type.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from babel import Locale

from f2llm.core.errors import F2LLMError
from f2llm.core.languages import language
from f2llm.eval.results import Run

SubsetLanguages = Mapping[str, Mapping[str, Sequence[str]]]
"""Task -> subset -> its languages, mteb's `task.metadata.hf_subsets_to_langscripts`."""
PIVOT = "eng_Latn"
HAN = {"Hans": "Simplified Han", "Hant": "Traditional Han"}  # the CLDR says only "Simplified"


@dataclass(frozen=True)
class Cell:
    """A model's score on one language of one task, a mean over the subsets that have it."""

    model: str
    task: str
    task_type: str
    language: str
    score: float


def describe(tag: str) -> tuple[str, str]:
    """English name of a language and of its script; a tag that nobody knows stands for itself."""
    try:
        known = language(tag)
    except F2LLMError:
        return tag, "unknown"
    if not known.script:
        return known.name, "programming"
    return known.name, str(HAN.get(known.script) or Locale("en").scripts.get(known.script, known.script))


def subset_tags(subset: str, stated: Sequence[str] = ()) -> tuple[str, ...]:
    """The language tags of a subset, sorted; none where neither mteb nor the name says which."""
    parts = stated or ([subset] if _one_tag(subset) else subset.split("-"))
    found = {tag for part in parts if (tag := _tag(part))}
    return tuple(sorted(found - {PIVOT} or found))


def _one_tag(subset: str) -> bool:
    """True for `swh_Latn`, `python` and `zh-CN`; False for `en-ha`, which is a pair and no region."""
    first, _, rest = subset.partition("-")
    return not rest or (len(rest) == 2 and rest.isupper()) or (len(rest) == 4 and rest.istitle() and "_" not in first)


def _tag(code: str) -> str:
    try:
        return language(code).tag.replace("_Hang", "_Kore")  # the same letters; data sets use either name
    except F2LLMError:
        return ""


def cells(runs: Sequence[Run], stated: SubsetLanguages) -> list[Cell]:
    """Every score by model, task and language."""
    found = []
    for run in runs:
        for name, result in run.tasks.items():
            scores: dict[str, list[float]] = {}
            for subset, score in result.scores_by_language.items():
                for tag in subset_tags(subset, stated.get(name, {}).get(subset, ())):
                    scores.setdefault(tag, []).append(score)
            found += [
                Cell(run.label, name, result.task_type, tag, float(np.mean(values))) for tag, values in scores.items()
            ]
    return found


def language_rows(found: Sequence[Cell], models: Sequence[str]) -> list[dict[str, Any]]:
    """One row a language, the worst first by the first model: names, tasks, mean scores by model, and `relative`.

    `relative` is the mean over tasks of the language's score less the task's mean over languages, for each model; a
    task with one language says nothing about it and is left out there (None where no task is left).
    """
    relative = _less_mean(found, lambda cell: (cell.model, cell.task))
    rows = []
    for tag, own in _grouped(found, lambda cell: cell.language).items():
        name, script = describe(tag)
        rows.append(
            {
                "tag": tag, "name": name, "script": script, "tasks": len({cell.task for cell in own}),
                "scores": {m: _mean([cell.score for cell in own if cell.model == m]) for m in models},
                "relative": {m: _mean([relative[c] for c in own if c.model == m and c in relative]) for m in models},
            }
        )  # fmt: skip
    return sorted(rows, key=lambda row: (_last(row["relative"].get(models[0])), row["name"]))


def script_grid(found: Sequence[Cell], model: str) -> dict[str, Any]:
    """Script x task type for one model, the worst script first: `scores` [scripts][types], None for an empty cell.

    A cell is the mean over the script's languages of the mean over their tasks of the type. `languages` counts them.
    Scripts stand in the order of their mean distance from the means of the types that they have.
    """
    own = [cell for cell in found if cell.model == model]
    scripts = {tag: describe(tag)[1] for tag in {cell.language for cell in own}}
    types = sorted({cell.task_type for cell in own})
    grid: dict[str, list[float | None]] = {}
    for script in sorted(set(scripts.values())):
        inside = [cell for cell in own if scripts[cell.language] == script]
        grid[script] = [_mean_of_languages([cell for cell in inside if cell.task_type == kind]) for kind in types]
    means = [_mean([row[column] for row in grid.values() if row[column] is not None]) for column in range(len(types))]
    order = sorted(grid, key=lambda script: (_last(_distance(grid[script], means)), script))
    counts = {script: sum(value == script for value in scripts.values()) for script in grid}
    return {
        "model": model, "types": types, "scripts": order, "languages": [counts[script] for script in order],
        "scores": [grid[script] for script in order],
    }  # fmt: skip


def _mean_of_languages(found: Sequence[Cell]) -> float | None:
    by_tag = _grouped(found, lambda cell: cell.language)
    return _mean([_mean([cell.score for cell in own]) for own in by_tag.values()])


def _distance(row: Sequence[float | None], means: Sequence[float | None]) -> float | None:
    return _mean([v - m for v, m in zip(row, means, strict=True) if v is not None and m is not None])


def _less_mean(found: Sequence[Cell], group: Callable[[Cell], Any]) -> dict[Cell, float]:
    """Each cell's score less the mean of its group, for groups of more than one cell."""
    distances: dict[Cell, float] = {}
    for members in _grouped(found, group).values():
        mean = float(np.mean([cell.score for cell in members]))
        distances |= {cell: cell.score - mean for cell in members if len(members) > 1}
    return distances


def _grouped(found: Sequence[Cell], group: Callable[[Cell], Any]) -> dict[Any, list[Cell]]:
    groups: dict[Any, list[Cell]] = {}
    for cell in found:
        groups.setdefault(group(cell), []).append(cell)
    return groups


def _mean(values: Sequence[float | None]) -> float | None:
    return float(np.mean([value for value in values if value is not None])) if values else None


def _last(value: float | None) -> float:
    return float("inf") if value is None else value
