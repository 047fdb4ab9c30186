"""Results of ours beside each other and beside what is published, benchmark by benchmark.

Only tasks that all of our results have, and that are published for three models or more, are counted. A published model
is ranked only where it has a score for each of them: one that lacks some is shown below, marked, for its mean is over
other tasks. A score of ours is the mean over the splits and subsets (languages) that the benchmark takes of a task, as
mteb computes the published ones, even where the task ran with more of them for other benchmarks. Where that cannot be
done, or where the revision is not that of the benchmark, the task is marked, and left out on demand. Cost: about 0.2 s,
and the bootstrap's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from f2llm.core.errors import ConfigError, DataError
from f2llm.eval.metrics import mean_ranks
from f2llm.eval.published import PublishedTask, published_models, published_tasks
from f2llm.eval.results import Run, TaskResult, group_runs, widest
from f2llm.eval.significance import PairedTest, compare_runs

TRAINING_SPLIT = "scored on a training split"
FEW = 3  # a task published for fewer models than this would leave almost no complete row
OWN = "all tasks of these results"


@dataclass(frozen=True, kw_only=True)
class TaskLine:
    """A task of a benchmark: what was scored, what is published, and every score (0..1) by row.

    `marks` says in what ours differs from the published task: "split", "revision", "languages". `flag` is why the
    score may not be that of unseen texts, empty where nothing is known.
    """

    task: str
    task_type: str
    split: str
    revision: str
    published_split: str = ""
    published_revision: str = ""
    marks: tuple[str, ...] = ()
    flag: str = ""
    scores: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Row:
    """A model in a benchmark, over the common tasks. An incomplete one (`missing`) has no rank."""

    model: str
    ours: bool
    missing: tuple[str, ...]
    mean: float
    mean_of_types: float
    mean_by_type: Mapping[str, float]
    mean_unflagged: float | None
    borda_points: float | None = None
    borda_rank: int | None = None


@dataclass(frozen=True, kw_only=True)
class Group:
    """One benchmark: how many tasks it has, which of them are common to our results, why others are left out."""

    benchmark: str
    tasks: int
    left_out: Mapping[str, str]
    lines: Sequence[TaskLine]
    rows: Sequence[Row]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Every benchmark; tests of our first model against each other one; what failed (model, task, why)."""

    groups: Sequence[Group]
    tests: Sequence[PairedTest] = ()
    failures: Sequence[tuple[str, str, str]] = field(default_factory=tuple)

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values; scores in 0..1."""
        return asdict(self) | {"tests": [asdict(test) | {"clear": test.clear} for test in self.tests]}


def compare(
    results: Sequence[TaskResult],
    *,
    benchmarks: Iterable[str] = (),
    models: Iterable[str] | None = None,
    flags: Mapping[str, str] | None = None,
    exact: bool = False,
    variants: bool = False,
    draws: int = 10_000,
) -> Comparison:
    """Compare our results with each other and with published ones.

    `benchmarks` keeps only these (mteb's names), `models` only these published models, none for an empty one.
    `flags` is task -> why its texts may have been trained on. `exact` leaves out marked tasks. `variants` gives every
    number of dimensions and precision its own row instead of the widest alone. ConfigError for an unknown name,
    DataError where the results share no task.
    """
    runs = _apart(group_runs(results) if variants else widest(group_runs(results)))
    shared = _shared(runs)
    chosen, flagged = _models(models), dict(flags or {})
    groups, wanted = [_own(runs, shared, flagged)], list(benchmarks)
    for name, tasks in _benchmarks(wanted).items():
        group = _group(name, tasks, runs, chosen, flagged, exact)
        groups += [group] if group.lines or wanted else []
    tests = [test for other in runs[1:] for test in compare_runs(runs[0], other, draws=draws)]
    failures = [(run.label, task, why) for run in runs for task, why in run.failures().items()]
    return Comparison(groups=groups, tests=tests, failures=failures)


def _apart(runs: Sequence[Run]) -> list[Run]:
    """The runs, a model that is published under the same name told from it."""
    known = {model.name for model in published_models()}
    return [Run(**(vars(run) | {"label": f"{run.label} (ours)"})) if run.label in known else run for run in runs]


def _shared(runs: Sequence[Run]) -> list[str]:
    """Tasks that every run has a score for, in the first one's order."""
    if not runs:
        raise DataError("there is no result to compare; give directories or files that `f2llm eval` wrote")
    shared = [task for task in runs[0].scores() if all(task in run.scores() for run in runs)]
    if not shared:
        names = ", ".join(run.label for run in runs)
        raise DataError(f"there is no task that all of these have a score for: {names}; evaluate them on the same one")
    return shared


def _models(wanted: Iterable[str] | None) -> list[str]:
    """The published models by full name or by the part after the slash; ConfigError for an unknown one."""
    known = {model.name: model.name for model in published_models()}
    if wanted is None:
        return list(known)
    known |= {name.split("/", 1)[1]: name for name in list(known)}
    return [_known(name, known, "published model") for name in wanted]


def _benchmarks(wanted: Iterable[str]) -> dict[str, list[PublishedTask]]:
    found: dict[str, list[PublishedTask]] = {}
    for task in published_tasks():
        found.setdefault(task.benchmark, []).append(task)
    names = [_known(name, {known: known for known in found}, "benchmark with published scores") for name in wanted]
    return {name: found[name] for name in names or found}


def _known(name: str, known: Mapping[str, str], what: str) -> str:
    if name not in known:
        raise ConfigError(f"there is no {what} named {name!r}; there are: {', '.join(sorted(set(known.values())))}")
    return known[name]


def _own(runs: Sequence[Run], shared: Sequence[str], flags: Mapping[str, str]) -> Group:
    """All common tasks, with our rows only: a score there is over all subsets that were run."""
    every = {task for run in runs for task in run.tasks}
    lines = []
    for task in shared:
        first = runs[0].tasks[task]
        flag = _flag(flags.get(task, ""), "train" in _splits(first))
        marks = tuple(
            name
            for name, values in (
                ("split", {_splits(run.tasks[task]) for run in runs}),
                ("revision", {run.tasks[task].revision for run in runs}),
                ("languages", {frozenset(run.tasks[task].scores_by_language) for run in runs}),
            )
            if len(values) > 1
        )
        lines.append(
            TaskLine(
                task=task, task_type=first.task_type, split=first.split, revision=first.revision, marks=marks,
                flag=flag, scores={run.label: run.scores()[task] for run in runs},
            )
        )  # fmt: skip
    left_out = {task: _lacking(task, runs) for task in sorted(every - set(shared))}
    rows = _rows(lines, [run.label for run in runs], ())
    return Group(benchmark=OWN, tasks=len(every), left_out=left_out, lines=lines, rows=rows)


def _group(
    name: str, tasks: Sequence[PublishedTask], runs: Sequence[Run], models: Sequence[str], flags: Mapping[str, str],
    exact: bool,
) -> Group:  # fmt: skip
    lines, left_out = [], {}
    there = [model for model in models if any(model in task.scores for task in tasks)]
    for task in tasks:
        published = sum(model in task.scores for model in there)
        having = [run for run in runs if task.task in run.scores()]
        if not having:
            continue
        line = _line(task, having, models, flags)
        if len(having) < len(runs):
            left_out[task.task] = _lacking(task.task, runs)
        elif published < min(FEW, len(there)):
            left_out[task.task] = f"published for {published} of {len(there)} models"
        elif exact and line.marks:
            left_out[task.task] = f"another {' and '.join(line.marks)} than published"
        else:
            lines.append(line)
    rows = _rows(lines, [run.label for run in runs], models)
    return Group(benchmark=name, tasks=len(tasks), left_out=left_out, lines=lines, rows=rows)


def _lacking(task: str, runs: Sequence[Run]) -> str:
    return "no score by " + ", ".join(run.label for run in runs if task not in run.scores())


def _line(task: PublishedTask, runs: Sequence[Run], models: Sequence[str], flags: Mapping[str, str]) -> TaskLine:
    marks: dict[str, None] = {}
    scores: dict[str, float] = {}
    for run in runs:
        found = run.tasks[task.task]
        scores[run.label], differs = _score_in(found, task)
        marks |= dict.fromkeys(differs)
    first = runs[0].tasks[task.task]
    return TaskLine(
        task=task.task, task_type=task.task_type, split=first.split, revision=first.revision,
        published_split=" ".join(task.splits), published_revision=task.revision, marks=tuple(marks),
        flag=_flag(flags.get(task.task, ""), task.on_training_split),
        scores=scores | {model: task.scores[model] for model in models if model in task.scores},
    )  # fmt: skip


def _score_in(found: TaskResult, task: PublishedTask) -> tuple[float, list[str]]:
    """Our score over what the benchmark takes of a task, and in what it differs: split, revision, languages.

    The mean over all pairs of split and subset, each counting the same (`get_score` of mteb's results). Where ours
    lacks a subset it is over all that ours has.
    """
    by_split, ours = found.scores_by_split, _splits(found)
    whole = set(task.splits) <= set(by_split)
    differs = [] if whole or ours == set(task.splits) else ["split"]
    differs += ["revision"] if found.revision != task.revision else []
    if ours == set(task.splits) and set(task.subsets) == set(found.scores_by_language):
        return found.main_score or 0.0, differs  # to the bit: equal scores share their rank
    tables = [by_split[split] for split in task.splits] if whole else [found.scores_by_language]
    if set(task.subsets) <= set().union(*tables):  # a split need not have every subset
        return float(np.mean([table[name] for table in tables for name in task.subsets if name in table])), differs
    one = task.subsets == ("default",) and len(found.scores_by_language) <= 1
    return found.main_score or 0.0, differs if one else [*differs, "languages"]


def _splits(found: TaskResult) -> frozenset[str]:
    return frozenset(part for part in re.split(r"[\s,;+]+", found.split) if part)


def _flag(given: str, on_training_split: bool) -> str:
    return "; ".join(part for part in (given, TRAINING_SPLIT if on_training_split else "") if part)


def _rows(lines: Sequence[TaskLine], ours: Sequence[str], models: Sequence[str]) -> list[Row]:
    """Complete rows by rank, then the incomplete ones by how many tasks they have."""
    rows = [
        _row(name, lines, name in ours)
        for name in (*ours, *(model for model in models if model not in ours))
        if any(name in line.scores for line in lines)
    ]
    complete, incomplete = [row for row in rows if not row.missing], [row for row in rows if row.missing]
    points = (
        borda_points(np.array([[line.scores[row.model] for row in complete] for line in lines])) if complete else []
    )
    ranked = [
        Row(**(vars(row) | {"borda_points": float(own), "borda_rank": int(sum(other > own for other in points)) + 1}))
        for row, own in zip(complete, points, strict=True)
    ]
    ranked.sort(key=lambda row: (row.borda_rank, -row.mean))
    return ranked + sorted(incomplete, key=lambda row: (len(row.missing), -row.mean))


def _row(name: str, lines: Sequence[TaskLine], ours: bool) -> Row:
    have = [line for line in lines if name in line.scores]
    types: dict[str, list[float]] = {}
    for line in have:
        types.setdefault(line.task_type, []).append(line.scores[name])
    by_type = {kind: float(np.mean(values)) for kind, values in sorted(types.items())}
    unflagged = [line.scores[name] for line in have if not line.flag]
    return Row(
        model=name, ours=ours, missing=tuple(line.task for line in lines if name not in line.scores),
        mean=float(np.mean([line.scores[name] for line in have])),
        mean_of_types=float(np.mean(list(by_type.values()))), mean_by_type=by_type,
        mean_unflagged=float(np.mean(unflagged)) if unflagged else None,
    )  # fmt: skip


def borda_points(scores_TM: Any) -> Any:
    """Borda points of each model over tasks, [M]: in each task one point for every model that it beats, half at a tie.

    As mteb counts them: the number of models less the rank, equal scores sharing the mean of their ranks.
    """
    return np.sum([mean_ranks(row) - 1 for row in np.asarray(scores_TM)], axis=0)
