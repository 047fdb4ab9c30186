"""The report of a build: report.json with every number, report.html that shows them, figures/*.png.

The page is one file that needs nothing else: style, script and pictures stand inside. Cost: about five seconds and
1 MB for 300 languages and ten models. Limit: the intervals of the comparisons tell the spread over languages, not over
training seeds, for each model is trained once.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from f2llm.core.errors import DataError
from f2llm.core.machine import hardware
from f2llm.eval.by_language import describe
from f2llm.eval.findings import findings
from f2llm.eval.html import write_page
from f2llm.eval.page import draw_figures, render
from f2llm.eval.significance import paired_bootstrap

Scores = Mapping[str, Any]  # the content of a scores.json
ROLES = ("family", "intermediate", "ablation")


@dataclass(frozen=True, kw_only=True)
class ModelEntry:
    """A model of the report. `init` is "random", "prune:NAME" or a path; `stage` 0 means pruned and not trained yet."""

    name: str
    role: str
    parameters: int
    embedding_parameters: int
    dims: int
    stage: int
    init: str
    teacher: str | None
    scores: Scores
    path: str


@dataclass(frozen=True, kw_only=True)
class Curve:
    """The smoothed loss of one training run: source -> (step, loss); and the scores in training: (step, nDCG@10)."""

    model: str
    stage: int
    points: Mapping[str, Sequence[tuple[int, float]]]
    scores: Sequence[tuple[int, float]] = ()


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two models to set side by side, named `a` and `b`."""

    title: str
    a: str
    b: str


@dataclass(frozen=True, kw_only=True)
class ShownSearch:
    """A query and what the default model finds for it: (score, text), best first.

    For a held-out query, its language and the right answer.
    """

    query: str
    hits: Sequence[tuple[float, str]]
    language: str = ""
    answer: str = ""


@dataclass(frozen=True, kw_only=True)
class ReportData:
    """All that the report shows. The first of `baselines` is the one that models are measured against.

    `steps` are manifests (step, wall_time_s, peak_memory_mb); `facts` are further lines for the table of facts.
    """

    recipe: str
    description: str
    seed: int
    command: str
    date: str
    models: Sequence[ModelEntry]
    baselines: Sequence[Scores]
    curves: Sequence[Curve] = ()
    comparisons: Sequence[Comparison] = ()
    steps: Sequence[Mapping[str, Any]] = ()
    searches: Sequence[ShownSearch] = ()
    facts: Mapping[str, str] = field(default_factory=dict)


def write_report(out_dir: Path | str, data: ReportData) -> Path:
    """Write report.json, report.html and figures/*.png into `out_dir`; returns the path of the page."""
    content = collect(data)
    return write_page(Path(out_dir), content, draw_figures(content), render)


def collect(data: ReportData) -> dict[str, Any]:
    """Every number of the report as plain JSON values."""
    if not data.models or not data.baselines:
        raise DataError("the report needs at least one evaluated model and one baseline; run their steps first")
    models = sorted(data.models, key=lambda m: (_role(m.role), -m.parameters, m.stage, m.name))
    baseline = data.baselines[0]
    family = [m.name for m in models if m.role == "family"] or [m.name for m in models]
    best = max(family, key=lambda name: next(m.scores["macro"] for m in models if m.name == name))
    content: dict[str, Any] = {
        "recipe": data.recipe,
        "description": data.description,
        "seed": data.seed,
        "command": data.command,
        "date": data.date,
        "hardware": hardware(),
        "wall_time_s": sum(float(step["wall_time_s"]) for step in data.steps),
        "facts": dict(data.facts),
        "family": family,
        "best": best,
        "tasks": _tasks(baseline),
        "models": [_model(model, baseline) for model in models],
        "baselines": [
            {"name": scores["name"], "scores": flat_scores(scores), "tasks": scores["tasks"]}
            for scores in data.baselines
        ],
        "languages": _languages(models, baseline),
        "comparisons": [compare(comparison, models) for comparison in data.comparisons],
        "curves": [asdict(curve) for curve in data.curves],
        "steps": [{key: step.get(key) for key in ("step", "wall_time_s", "peak_memory_mb")} for step in data.steps],
        "searches": [asdict(search) for search in data.searches],
    }
    content["scripts"] = _scripts(content["languages"], [model.name for model in models])
    return content | {"findings": findings(content)}


def _role(role: str) -> int:
    return ROLES.index(role) if role in ROLES else len(ROLES)


def flat_scores(scores: Scores) -> dict[str, float]:
    """Task -> score, and `macro`."""
    return {name: task["score"] for name, task in scores["tasks"].items()} | {"macro": scores["macro"]}


def _model(model: ModelEntry, baseline: Scores) -> dict[str, Any]:
    plain = {key: value for key, value in vars(model).items() if key != "scores"}
    return plain | {
        "embedding_share": model.embedding_parameters / model.parameters,
        "tokens_per_second": model.scores["tokens_per_second"],
        "scores": flat_scores(model.scores),
        "baseline": flat_scores(baseline),
        "by_dim": model.scores["by_dim"],
        "tasks": model.scores["tasks"],
    }


def _tasks(baseline: Scores) -> list[dict[str, Any]]:
    """Name, kind, metric, and how many rows in how many languages each task has."""
    return [
        {
            "name": name,
            "kind": task["kind"],
            "metric": task["metric"],
            "measures": list(task["metrics"]),
            "languages": len(task["by_language"]),
            "n": sum(entry["n"] for entry in task["by_language"].values()),
        }
        for name, task in baseline["tasks"].items()
    ]


def _languages(models: Sequence[ModelEntry], baseline: Scores) -> list[dict[str, Any]]:
    """One entry a language: names, number of rows, and the score of every model and of the baseline."""
    rows = []
    for tag, score in baseline["by_language"].items():
        counts = [task["by_language"][tag]["n"] for task in baseline["tasks"].values() if tag in task["by_language"]]
        scores = {
            model.name: model.scores["by_language"][tag] for model in models if tag in model.scores["by_language"]
        }
        name, script = describe(tag)
        entry = {"tag": tag, "name": name, "script": script, "n": sum(counts)}
        rows.append(entry | {"scores": scores, "baseline": score})
    return rows


def _scripts(languages: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[dict[str, Any]]:
    """One entry a script: its number of languages and the mean over them, for every model and the baseline."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for row in languages:
        found.setdefault(row["script"], []).append(row)
    return [
        {
            "script": script,
            "languages": len(rows),
            "scores": {name: float(np.mean([row["scores"].get(name, 0.0) for row in rows])) for name in names},
            "baseline": float(np.mean([row["baseline"] for row in rows])),
        }
        for script, rows in sorted(found.items(), key=lambda item: (-len(item[1]), item[0]))
    ]


def compare(comparison: Comparison, models: Sequence[ModelEntry]) -> dict[str, Any]:
    """The difference a - b, paired by language, with its bootstrap interval."""
    scores = {model.name: model.scores["by_language"] for model in models}
    missing = [name for name in (comparison.a, comparison.b) if name not in scores]
    if missing:
        raise DataError(f"comparison {comparison.title!r} names {missing[0]!r}, which was not evaluated")
    a, b = scores[comparison.a], scores[comparison.b]
    differences = {tag: a[tag] - b[tag] for tag in a if tag in b}
    values = list(differences.values())
    drawn = paired_bootstrap([a[tag] for tag in differences], [b[tag] for tag in differences])
    return {
        **asdict(comparison),
        "score_a": float(np.mean([a[tag] for tag in differences])),
        "score_b": float(np.mean([b[tag] for tag in differences])),
        "difference": float(np.mean(values)),
        "low": drawn.low,
        "high": drawn.high,
        "languages": len(values),
        "better": sum(value > 0 for value in values),
        "worse": sum(value < 0 for value in values),
        "differences": differences,
    }


def read_curve(path: Path | str, *, model: str, stage: int, points: int = 100) -> Curve:
    """Read a metrics.jsonl: per source a running mean over a twentieth of its steps, thinned to `points`; and scores.

    A line that a killed process left unfinished is passed over.
    """
    raw: dict[str, list[tuple[int, float]]] = {}
    scores: list[tuple[int, float]] = []
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise DataError(f"cannot read the training curve {path}: {error.strerror}") from None
    for line in lines:
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            continue
        if entry.get("kind") == "evaluation" and "ndcg@10" in entry:
            scores.append((entry["step"], round(entry["ndcg@10"], 5)))
        if "kind" not in entry:
            raw.setdefault(entry["source"], []).append((entry["step"], entry["loss"]))
    smoothed = {source: smooth(found, points) for source, found in sorted(raw.items())}
    return Curve(model=model, stage=stage, points=smoothed, scores=scores)


def smooth(points: Sequence[tuple[int, float]], keep: int) -> list[tuple[int, float]]:
    """Centred running mean over a twentieth of the points, then at most `keep` of them, first and last included."""
    steps, losses = np.array(points, dtype=float).T
    half = len(losses) // 40
    sums = np.concatenate([[0.0], np.cumsum(losses)])
    at = np.unique(np.linspace(0, len(losses) - 1, min(keep, len(losses))).round().astype(int))
    start, end = np.maximum(at - half, 0), np.minimum(at + half + 1, len(losses))
    means = (sums[end] - sums[start]) / (end - start)
    return [(int(step), round(float(mean), 5)) for step, mean in zip(steps[at], means, strict=True)]
