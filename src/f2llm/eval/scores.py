"""The structure of scores.json, shared by every model and by the baselines.

`score` of a task is the mean over languages of the language's score; `macro` of a model is the mean over languages of
the mean over that language's tasks. So every language counts the same, however many rows it has. `micro` counts rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from f2llm.core import agreement
from f2llm.core.extras import optional
from f2llm.core.types import TaskType
from f2llm.eval import metrics
from f2llm.eval.metrics import Floats
from f2llm.eval.tasks import EvalTask

METRIC: dict[TaskType, str] = {"retrieval": "ndcg@10", "clustering": "ami", "classification": "accuracy"}


@dataclass(frozen=True)
class Outcome:
    """What one task gave at one dimension: per metric and language the count and the score, and the mean over rows."""

    by_language: Mapping[str, Mapping[str, tuple[int, float]]]
    micro: float

    def languages(self, metric: str) -> dict[str, float]:
        return {language: score for language, (_, score) in self.by_language[metric].items()}


def outcome_of_rows(values: Mapping[str, Floats], langs: Sequence[str], metric: str) -> Outcome:
    """Outcome of a task whose metrics have one value per query."""
    return Outcome({k: metrics.mean_by_language(v, langs) for k, v in values.items()}, float(values[metric].mean()))


def outcome_of_clusters(task: EvalTask, clusters: Any) -> Outcome:
    """Outcome of a clustering: measures within each language's texts; micro is the AMI over all texts.

    V-measure is the field's measure, but random clusters of few texts already reach 0.5 of it; the adjusted mutual
    information (ami) is the same measure corrected for chance, and the score (docs/decisions/0005).
    """
    measures = {"v_measure": agreement.v_measure, "ami": agreement.adjusted_mutual_information}
    by_language = {
        name: agreement.clusters_by_language(task.labels, clusters, task.query_langs, measure)
        for name, measure in measures.items()
    }
    return Outcome(by_language, agreement.adjusted_mutual_information(task.labels, clusters))


def retrieval_values(scores_BN: Floats, relevant: Sequence[Sequence[int]]) -> dict[str, Floats]:
    """Both retrieval metrics, one value per query."""
    found = metrics.places(scores_BN, relevant)
    return {"ndcg@10": metrics.ndcg_at_k(found, relevant), "accuracy@1": metrics.accuracy_at_1(found, relevant)}


def k_means(vectors_ND: Floats, clusters: int) -> Any:
    """Cluster numbers [N] by k-means, fixed seed, the best of three starts."""
    model = optional("sklearn.cluster", "report").KMeans
    wide = vectors_ND.astype(float)  # scikit-learn seeds float32 through slow small casts
    return model(min(clusters, len(wide)), n_init=3, max_iter=100, random_state=0).fit_predict(wide)


def task_entry(kind: TaskType, outcomes: Mapping[int | None, Outcome]) -> dict[str, Any]:
    """A task's part of scores.json; the last of `outcomes` (by ascending dimension) is the full one."""
    metric, full = METRIC[kind], list(outcomes.values())[-1]
    scored = bool(full.by_language[metric])  # a small clustering may have no language with enough texts
    entry: dict[str, Any] = {
        "kind": kind,
        "metric": metric,
        "score": metrics.macro(full.languages(metric)) if scored else full.micro,
        "micro": full.micro,
        "metrics": {name: metrics.macro(full.languages(name)) for name in full.by_language},
        "by_language": {lang: {"n": n, "score": score} for lang, (n, score) in full.by_language[metric].items()},
    }
    if None not in outcomes:
        entry["by_dim"] = {str(dim): metrics.macro(found.languages(metric)) for dim, found in outcomes.items()}
    return entry


def model_entry(
    name: str, tasks: Sequence[EvalTask], outcomes: Mapping[str, Mapping[int | None, Outcome]]
) -> dict[str, Any]:
    """scores.json of one model, but for the speed: `outcomes` is task name -> dimension (ascending) -> Outcome."""
    levels = list(next(iter(outcomes.values())))
    by_level = {
        level: metrics.mean_over_tasks([outcomes[t.name][level].languages(METRIC[t.kind]) for t in tasks])
        for level in levels
    }
    full = by_level[levels[-1]]
    entry: dict[str, Any] = {
        "name": name,
        "tasks": {task.name: task_entry(task.kind, outcomes[task.name]) for task in tasks},
        "macro": metrics.macro(full),
        "by_language": full,
    }
    if None not in levels:
        entry["by_dim"] = {str(level): metrics.macro(scores) for level, scores in by_level.items()}
    return entry | {"queries": sum(len(task.queries) for task in tasks)}
