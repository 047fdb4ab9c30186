"""The record of one model on one task, and how files of such records become the rows of a comparison.

One JSON object a task and variant (dimensions, precision). A task that failed has `error` and no score, so that a
comparison can tell a missing score from a bad one. Cost: one pass over the files.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from f2llm.core.errors import DataError
from f2llm.core.files import read_json

QUANTISED = frozenset({"int8", "uint8", "binary", "ubinary"})
NOT_A_NUMBER = "the score is not a number"
_NUMBERS = ("main_score", "seconds", "tokens_per_second")


@dataclass(frozen=True, kw_only=True)
class TaskResult:
    """One model on one task at one number of dimensions and one precision.

    `task_type` is mteb's name of the type. `split` names the splits that the score is a mean over, by spaces. `dims`
    is None for the model's own number. `main_score` and the values of `scores_by_language` (mteb's subset -> score)
    and `scores_by_query` (id -> score, where the task has one score a query) are in 0..1, of correlations -1..1.
    `scores_by_split` is split -> subset -> score, which a benchmark that takes only some of them needs.
    `seconds` is the task's time, `tokens_per_second` that of encoding; None where all vectors came from a cache.
    """

    model: str
    model_digest: str
    task: str
    task_type: str
    revision: str
    split: str
    dims: int | None = None
    precision: str = "float32"
    main_score: float | None = None
    scores_by_language: Mapping[str, float] = field(default_factory=dict)
    seconds: float | None = None
    tokens_per_second: float | None = None
    error: str | None = None
    scores_by_query: Mapping[str, float] = field(default_factory=dict)
    scores_by_split: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Run:
    """All results of one variant of one model: `tasks` is task -> result, failed ones included."""

    label: str
    model: str
    model_digest: str
    dims: int | None
    precision: str
    tasks: Mapping[str, TaskResult]

    def scores(self) -> dict[str, float]:
        """Task -> main score, of the tasks that have one."""
        return {name: found.main_score for name, found in self.tasks.items() if found.main_score is not None}

    def failures(self) -> dict[str, str]:
        """Task -> why it has no score."""
        return {
            name: found.error or "no score was written"
            for name, found in self.tasks.items()
            if found.main_score is None
        }


def read_results(paths: Iterable[Path | str]) -> list[TaskResult]:
    """The results in JSON files and in directories of them, searched to any depth.

    A file holds one record, a list of them, or an object with such a list under `results`. In a directory, JSON files
    that hold something else are passed over; DataError for a broken file and where a path holds no result at all.
    """
    found: list[TaskResult] = []
    for path in map(Path, paths):
        here = [result_of(entry, file) for file, entry in read_records(path)]
        if not here:
            raise DataError(f"{path} holds no results of tasks; give what `f2llm eval` wrote, a directory or a file")
        found += here
    return found


def read_records(path: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Every JSON object at or below `path` that names a model and a task, with its file."""
    for file in sorted(path.rglob("*.json")) if path.is_dir() else [path]:
        content = read_json(file)
        entries = content.get("results", content) if isinstance(content, dict) else content
        for entry in entries if isinstance(entries, list) else [entries]:
            if isinstance(entry, dict) and {"task", "model"} <= set(entry):
                yield file, entry


def result_of(entry: Mapping[str, Any], file: Path | str) -> TaskResult:
    """A record out of its JSON object; further keys are passed over, DataError for a missing or impossible one.

    A score that is no number (a model that gives NaN) becomes a failure that says so.
    """
    known = {item.name: entry[item.name] for item in fields(TaskResult) if item.name in entry}
    try:
        result = TaskResult(**known)
    except TypeError as error:
        raise DataError(f"{file} is no result of a task ({error}); delete it and evaluate again") from None
    sound = {name: _number_or_none(known.get(name)) for name in _NUMBERS}
    sound |= {name: _numbers(known.get(name, {})) for name in ("scores_by_language", "scores_by_query")}
    splits = known.get("scores_by_split", {})
    sound["scores_by_split"] = isinstance(splits, dict) and all(map(_numbers, splits.values()))
    wrong = next((name for name, good in sound.items() if not good), None)
    if wrong:
        raise DataError(f"{file}: {wrong} is {known[wrong]!r}, not a number; delete the file and evaluate again")
    if result.main_score is not None and not math.isfinite(result.main_score):
        return TaskResult(**(known | {"main_score": None, "error": result.error or NOT_A_NUMBER}))
    return result


def _number_or_none(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _numbers(value: Any) -> bool:
    return isinstance(value, dict) and all(entry is not None and _number_or_none(entry) for entry in value.values())


def group_runs(results: Sequence[TaskResult]) -> list[Run]:
    """The results by model and variant, in the order given; DataError where one task has two scores in one variant.

    The label is the model's name, and what is needed to tell it from the others: dimensions, precision, digest.
    """
    groups: dict[tuple[str, str, int | None, str], dict[str, TaskResult]] = {}
    for result in results:
        tasks = groups.setdefault((result.model, result.model_digest, result.dims, result.precision), {})
        before = tasks.setdefault(result.task, result)
        if before.main_score != result.main_score:
            raise DataError(
                f"{result.model} has two scores for {result.task}: {before.main_score} (split {before.split}, revision "
                f"{before.revision}) and {result.main_score} (split {result.split}, revision {result.revision}); "
                "give the results of one of them"
            )
    return [
        Run(label=_label(key, list(groups)), model=key[0], model_digest=key[1], dims=key[2], precision=key[3], tasks=t)
        for key, t in groups.items()
    ]


def _label(key: tuple[str, str, int | None, str], keys: Sequence[tuple[str, str, int | None, str]]) -> str:
    name, digest, dims, precision = key
    same = [other for other in keys if other[0] == name]
    parts = [name]
    if len({other[1] for other in same}) > 1:
        parts.append(f"({digest[:7]})")
    if dims is not None and len({other[2] for other in same}) > 1:
        parts.append(f"@{dims}")
    if len({other[3] for other in same}) > 1 and precision in QUANTISED:
        parts.append(precision)
    return " ".join(parts)


def widest(runs: Sequence[Run]) -> list[Run]:
    """Of each model the run that is neither cut nor quantised, or comes nearest to it; the label is the bare one."""
    best: dict[tuple[str, str], Run] = {}
    for run in runs:
        key = (run.model, run.model_digest)
        if key not in best or _fidelity(run) > _fidelity(best[key]):
            best[key] = run
    kept = list(best.values())
    keys = [(run.model, run.model_digest, run.dims, run.precision) for run in kept]
    return [Run(**(vars(run) | {"label": _label(key, keys)})) for run, key in zip(kept, keys, strict=True)]


def _fidelity(run: Run) -> tuple[bool, float]:
    return run.precision not in QUANTISED, math.inf if run.dims is None else run.dims
