"""The report on benchmarks: report.json with every number, report.html, tables/*.csv, figures/*.png.

The page is one file that needs nothing else. Its means are over the tasks that all models have a score for; the dearer
half of the cost, the bootstrap, takes about 0.1 s for each task, pair of models and 1,000 queries.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from f2llm.core.errors import DataError
from f2llm.core.files import write_text
from f2llm.core.machine import hardware
from f2llm.eval import by_language
from f2llm.eval.by_language import SubsetLanguages
from f2llm.eval.compare import Comparison, Group, compare
from f2llm.eval.html import write_page
from f2llm.eval.mteb_page import draw_figures, render
from f2llm.eval.published import published_models
from f2llm.eval.results import QUANTISED, Run, TaskResult, group_runs, read_records, widest
from f2llm.eval.significance import PairedTest, compare_runs

MIN_PUBLISHED = 3  # complete published models that a benchmark needs to be the background of the picture of sizes


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """What results do not tell of a model: its size, its teacher (by the name it was evaluated under), its footprint.

    MB are of 2**20 bytes: `memory_mb` while it encodes, Python and libraries included, which alone take
    `memory_before_mb`; `weights_mb` on disk. `tokens_per_second` is that of its results where it is not given.
    """

    parameters: int | None = None
    dims: int | None = None
    weights_mb: float | None = None
    memory_mb: float | None = None
    memory_before_mb: float | None = None
    tokens_per_second: float | None = None
    teacher: str | None = None
    measured: str = ""


@dataclass(frozen=True, kw_only=True)
class MtebReportData:
    """All that the report shows. `facts` is by model name, `flags` by task, `subset_languages` mteb's.

    `benchmarks` and `published` choose what our models are set beside, as in `compare`.
    """

    results: Sequence[TaskResult]
    facts: Mapping[str, ModelFacts] = field(default_factory=dict)
    flags: Mapping[str, str] = field(default_factory=dict)
    subset_languages: SubsetLanguages = field(default_factory=dict)
    benchmarks: Sequence[str] = ()
    published: Sequence[str] | None = None
    title: str = "Embedding models on MTEB"
    command: str = ""
    date: str = ""


def stated(paths: Iterable[Path | str]) -> tuple[dict[str, ModelFacts], dict[str, dict[str, list[str]]]]:
    """What files of results say beside the results: facts by model, and the languages of each task's subsets."""
    about: dict[str, Mapping[str, Any]] = {}
    subsets: dict[str, dict[str, list[str]]] = {}
    for entry in (entry for path in map(Path, paths) for _, entry in read_records(path)):
        if entry.get("model_facts"):
            about[entry["model"]] = entry["model_facts"]
        subsets.setdefault(entry["task"], {}).update(entry.get("languages") or {})
    names = {facts["weights_sha256"]: model for model, facts in about.items() if facts.get("weights_sha256")}
    return {model: _facts(facts, names) for model, facts in about.items()}, subsets


def _facts(about: Mapping[str, Any], names: Mapping[str, str]) -> ModelFacts:
    """Facts out of `model_facts` of a result; `names` is digest of weights -> model that was evaluated."""
    footprint, teacher = about.get("footprint") or {}, about.get("teacher") or {}
    measured = (footprint.get(key) for key in ("hardware", "device", "date"))
    return ModelFacts(
        parameters=about.get("parameters"), dims=about.get("width"), teacher=names.get(str(teacher.get("weights"))),
        **{key: footprint.get(key) for key in ("weights_mb", "memory_mb", "memory_before_mb", "tokens_per_second")},
        measured=", ".join(filter(None, measured)),
    )  # fmt: skip


def write_mteb_report(out_dir: Path | str, data: MtebReportData) -> Path:
    """Write everything into `out_dir`; returns the path of the page. DataError where the models share no task."""
    out = Path(out_dir)
    content = collect(data)
    for name, rows in csv_tables(content).items():
        write_text(out / "tables" / f"{name}.csv", _csv(rows))
    return write_page(out, content, draw_figures(content), render)


def collect(data: MtebReportData) -> dict[str, Any]:
    """Every number of the report as plain JSON values; scores in 0..1."""
    variants = group_runs(data.results)
    comparison = compare(data.results, benchmarks=data.benchmarks, models=data.published, flags=data.flags, draws=100)
    own = comparison.groups[0]
    means = {row.model: row.mean for row in own.rows}
    labels = list(own.lines[0].scores)
    runs = sorted(_labelled(widest(variants), labels), key=lambda run: -means[run.label])
    cells = by_language.cells(runs, data.subset_languages)
    models = [_model(run, own, data.facts.get(run.model, ModelFacts())) for run in runs]
    content: dict[str, Any] = {
        "title": data.title, "command": data.command, "date": data.date, "hardware": hardware(),
        "reference": runs[0].label, "models": models,
        "groups": Comparison(groups=comparison.groups).as_json()["groups"],
        "sizes": _sizes(models, comparison.groups),
        "languages": by_language.language_rows(cells, [run.label for run in runs]),
        "grids": [by_language.script_grid(cells, run.label) for run in runs] if cells else [],
        "dimensions": _dimensions(variants, data.facts),
        "students": _students(runs, data.facts),
        "tests": [asdict(test) | {"clear": test.clear} for test in _tests(runs, data.facts)],
        "failures": [list(failure) for failure in comparison.failures],
        "results": [_result(found, data.flags) for found in data.results],
    }  # fmt: skip
    return content


def _labelled(runs: Sequence[Run], labels: Sequence[str]) -> list[Run]:
    """The runs by the labels that the comparison gave them, in the same order."""
    return [Run(**(vars(run) | {"label": label})) for run, label in zip(runs, labels, strict=True)]


def _model(run: Run, own: Group, facts: ModelFacts) -> dict[str, Any]:
    row = next(row for row in own.rows if row.model == run.label)
    return {
        "model": run.label, "path": run.model, "digest": run.model_digest, "mean": row.mean,
        "mean_of_types": row.mean_of_types, "mean_unflagged": row.mean_unflagged, "by_type": dict(row.mean_by_type),
        "borda_rank": row.borda_rank, "parameters": facts.parameters, "dims": run.dims or facts.dims,
        "weights_mb": facts.weights_mb, "memory_mb": facts.memory_mb, "memory_before_mb": facts.memory_before_mb,
        "tokens_per_second": facts.tokens_per_second or _speed(run), "measured": facts.measured,
        "teacher": facts.teacher, "tasks": len(run.scores()), "failed": len(run.failures()),
    }  # fmt: skip


def _speed(run: Run) -> float | None:
    """The median of the tokens per second that its tasks state."""
    stated = [found.tokens_per_second for found in run.tasks.values() if found.tokens_per_second]
    return float(np.median(stated)) if stated else None


def _sizes(models: Sequence[Mapping[str, Any]], groups: Sequence[Group]) -> dict[str, Any]:
    """Where models are set against their size: the largest benchmark with complete published rows, or our own tasks."""
    known = {model.name: model.parameters for model in published_models()}
    ours = {model["model"]: model["parameters"] for model in models}
    usable = [g for g in groups[1:] if sum(not row.ours and not row.missing for row in g.rows) >= MIN_PUBLISHED]
    group = max(usable, key=lambda g: len(g.lines), default=groups[0])
    points = [
        {"model": row.model, "ours": row.ours, "mean": row.mean, "parameters": size}
        for row in group.rows
        if not row.missing and (size := ours.get(row.model) if row.ours else known.get(row.model))
    ]
    return {"benchmark": group.benchmark, "tasks": len(group.lines), "of": group.tasks, "points": points}


def _dimensions(variants: Sequence[Run], facts: Mapping[str, ModelFacts]) -> dict[str, Any]:
    """Mean by model, precision and dimensions, over the tasks that every variant has; empty for one variant each."""
    tasks = sorted(set.intersection(*(set(run.scores()) for run in variants)))
    lines: dict[tuple[str, str], dict[int, float]] = {}
    for run in variants:
        dims = run.dims or facts.get(run.model, ModelFacts()).dims
        if tasks and dims:
            precision = run.precision if run.precision in QUANTISED else "float"
            scores = run.scores()
            lines.setdefault((run.model, precision), {})[dims] = float(np.mean([scores[task] for task in tasks]))
    if len({dims for line in lines.values() for dims in line}) < 2:
        return {"tasks": len(tasks), "lines": []}
    return {
        "tasks": len(tasks),
        "lines": [
            {"model": model, "precision": precision, "by_dim": {str(dim): line[dim] for dim in sorted(line)}}
            for (model, precision), line in lines.items()
        ],
    }


def _students(runs: Sequence[Run], facts: Mapping[str, ModelFacts]) -> list[dict[str, Any]]:
    """Each student beside its teacher, where both were evaluated, on the tasks that both have."""
    found = []
    for student, teacher in _student_pairs(runs, facts):
        own, taught = student.scores(), teacher.scores()
        tasks = {task: [score, taught[task]] for task, score in own.items() if task in taught}
        if not tasks:
            raise DataError(f"{student.label} and its teacher {teacher.label} share no task; evaluate both on one")
        means = np.mean(list(tasks.values()), axis=0)
        types = {task: student.tasks[task].task_type for task in tasks}
        found.append(
            {
                "student": student.label, "teacher": teacher.label, "score": float(means[0]),
                "teacher_score": float(means[1]), "kept": float(means[0] / means[1]) if means[1] > 0 else None,
                "tasks": tasks, "types": types,
            }
        )  # fmt: skip
    return found


def _student_pairs(runs: Sequence[Run], facts: Mapping[str, ModelFacts]) -> list[tuple[Run, Run]]:
    by_name = {run.model: run for run in runs}
    pairs = [(run, by_name.get(facts[run.model].teacher or "")) for run in runs if run.model in facts]
    return [(student, teacher) for student, teacher in pairs if teacher is not None]


def _tests(runs: Sequence[Run], facts: Mapping[str, ModelFacts]) -> list[PairedTest]:
    """The best model against each other one, then each student against its teacher where that is another pair."""
    pairs = [(runs[0], other) for other in runs[1:]]
    seen = {frozenset((a.label, b.label)) for a, b in pairs}
    pairs += [(s, t) for s, t in _student_pairs(runs, facts) if frozenset((s.label, t.label)) not in seen]
    return [test for a, b in pairs for test in compare_runs(a, b)]


def _result(found: TaskResult, flags: Mapping[str, str]) -> dict[str, Any]:
    kept = {key: value for key, value in vars(found).items() if key != "scores_by_query"}
    return kept | {"scores_by_language": dict(found.scores_by_language), "flag": flags.get(found.task, "")}


def csv_tables(content: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Name -> rows of the CSV files, long where a table would need a column for each model."""
    plain = ("model", "parameters", "dims", "weights_mb", "memory_mb", "memory_before_mb", "tokens_per_second",
             "measured", "teacher", "mean", "mean_of_types", "mean_unflagged", "borda_rank", "tasks",
             "failed")  # fmt: skip
    scored = ("model", "model_digest", "dims", "precision", "task", "task_type", "split", "revision", "main_score",
              "seconds", "tokens_per_second", "flag", "error")  # fmt: skip
    found = {
        "models": [{key: model[key] for key in plain} for model in content["models"]],
        "results": [{key: entry[key] for key in scored} for entry in content["results"]],
        "benchmarks": [row for group in content["groups"] for row in _benchmark_rows(group)],
        "languages": [
            {"tag": row["tag"], "language": row["name"], "script": row["script"], "tasks": row["tasks"],
             "model": model, "score": score, "relative": row["relative"][model]}
            for row in content["languages"] for model, score in row["scores"].items()
        ],
        "scripts": [row for grid in content["grids"] for row in _grid_rows(grid)],
        "dimensions": [
            {"model": line["model"], "precision": line["precision"], "dims": dims, "mean": mean}
            for line in content["dimensions"]["lines"] for dims, mean in line["by_dim"].items()
        ],
        "students": [
            {"student": entry["student"], "teacher": entry["teacher"], "task": task, "type": entry["types"][task],
             "score": scores[0], "teacher_score": scores[1]}
            for entry in content["students"] for task, scores in entry["tasks"].items()
        ],
        "significance": content["tests"],
    }  # fmt: skip
    return {name: rows for name, rows in found.items() if rows}


def _benchmark_rows(group: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {"benchmark": group["benchmark"], "model": row["model"], "ours": row["ours"], "borda_rank": row["borda_rank"],
         "tasks": len(group["lines"]) - len(row["missing"]), "common_tasks": len(group["lines"]),
         "all_tasks": group["tasks"], "mean": row["mean"], "mean_of_types": row["mean_of_types"],
         "mean_unflagged": row["mean_unflagged"]}
        for row in group["rows"]
    ]  # fmt: skip


def _grid_rows(grid: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {"model": grid["model"], "script": script, "languages": count, "type": kind, "score": score}
        for script, count, row in zip(grid["scripts"], grid["languages"], grid["scores"], strict=True)
        for kind, score in zip(grid["types"], row, strict=True)
        if score is not None
    ]


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    target = io.StringIO()
    writer = csv.DictWriter(target, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return target.getvalue()
