"""Made-up scores in the shape of real ones, for the tests of the report and for looking at it.

`python -m tests.eval.sample_report OUT` writes a report with the languages of the CLDR.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from f2llm.eval.report import Comparison, Curve, ModelEntry, ReportData, ShownSearch, write_report

TASKS = {
    "translation": ("retrieval", "ndcg@10"),
    "kind": ("clustering", "ami"),
    "place": ("classification", "accuracy"),
}
HARD = {"Latn": 0.12, "Cyrl": 0.05, "Arab": 0.0, "Ethi": -0.15, "Hans": -0.1}


def scores(name: str, level: float, languages: Sequence[str], dims: int | None, seed: int) -> dict[str, Any]:
    """Scores around `level`, with a part that all models share per language."""
    shared, own = np.random.default_rng(0), np.random.default_rng(seed)
    ease = {tag: HARD.get(tag.split("_")[-1], -0.04) + shared.normal(0, 0.09) for tag in languages}
    tasks = {}
    for number, (task, (kind, metric)) in enumerate(TASKS.items()):
        by_language = {
            tag: {"n": 20, "score": float(np.clip(level + 0.09 * number + ease[tag] + own.normal(0, 0.02), 0.01, 0.99))}
            for tag in languages
        }
        mean = float(np.mean([entry["score"] for entry in by_language.values()]))
        measures = {metric: mean} | ({"v_measure": mean + 0.2} if kind == "clustering" else {})
        tasks[task] = {
            "kind": kind, "metric": metric, "score": mean, "micro": mean, "metrics": measures,
            "by_language": by_language,
        }  # fmt: skip
    per_language = {
        tag: float(np.mean([task["by_language"][tag]["score"] for task in tasks.values()])) for tag in languages
    }
    macro = float(np.mean(list(per_language.values())))
    found: dict[str, Any] = {"name": name, "tasks": tasks, "macro": macro, "by_language": per_language}
    if dims:
        sizes = [8 * 2**power for power in range(8) if 8 * 2**power < dims] + [dims]
        found["by_dim"] = {str(dim): macro * (1 - 0.5 * (8 / dim) ** 0.9 + 0.5 * (8 / dims) ** 0.9) for dim in sizes}
        found["tokens_per_second"] = 4e7 / dims**1.2
    return found | {"queries": 60 * len(languages)}


def model(
    name: str, role: str, size: int, dims: int, level: float, languages: Sequence[str], **more: Any
) -> ModelEntry:
    defaults = {"stage": 2, "init": "random", "teacher": None, "path": f"build/sample/export/{name}/model"}
    return ModelEntry(
        name=name, role=role, parameters=size, embedding_parameters=8192 * dims, dims=dims,
        scores=scores(name, level, languages, dims, sum(map(ord, name))), **(defaults | more),
    )  # fmt: skip


def curve(name: str, stage: int, steps: int) -> Curve:
    noise = np.random.default_rng(stage)
    sources = list(TASKS) if stage == 2 else ["translation"]
    fall = [(step, 1 + 6 * float(np.exp(-step / 90)) + noise.normal(0, 0.06)) for step in range(0, steps, 5)]
    points = {source: [(step, number + loss) for step, loss in fall] for number, source in enumerate(sources)}
    best = 0.4 + sum(map(ord, name)) % 20 / 100
    scores = [(step, best * (1 - float(np.exp(-step / 120)))) for step in range(40, steps, 40)]
    return Curve(model=name, stage=stage, points=points, scores=scores)


def sample(languages: Sequence[str]) -> ReportData:
    """A family of three, three intermediate models and two ablations."""
    pruned = {"init": "prune:mini-base", "teacher": "mini-base"}
    models = [
        model("mini-base-preview", "intermediate", 1_690_000, 128, 0.44, languages, stage=1),
        model("mini-base", "family", 1_690_000, 128, 0.58, languages),
        model(
            "mini-small-pruned", "intermediate", 1_010_000, 96, 0.3, languages, **pruned | {"stage": 0, "teacher": None}
        ),
        model("mini-small", "family", 1_010_000, 96, 0.55, languages, **pruned),
        model(
            "mini-tiny-pruned", "intermediate", 640_000, 64, 0.22, languages, **pruned | {"stage": 0, "teacher": None}
        ),
        model("mini-tiny", "family", 640_000, 64, 0.51, languages, **pruned),
        model("mini-tiny-not-distilled", "ablation", 640_000, 64, 0.49, languages, init="prune:mini-base"),
        model("mini-tiny-random-start", "ablation", 640_000, 64, 0.505, languages, teacher="mini-base"),
    ]
    steps = [
        "convert/translation",
        "clean",
        "tokenizer",
        "train/mini-base/stage1",
        "train/mini-base/stage2",
        "baseline",
    ]
    return ReportData(
        recipe="sample", description="names of things in many languages: find, group and judge them across languages",
        seed=7, command="f2llm build recipes/sample.toml", date="2026-01-31", models=models,
        baselines=[scores("tfidf", 0.27, languages, None, 1), scores("tfidf-expanded", 0.36, languages, None, 2)],
        curves=[
            curve("mini-base", 1, 500), *(curve(name, 2, 250) for name in ("mini-base", "mini-small", "mini-tiny")),
        ],
        comparisons=[
            Comparison(title="Distilled against not distilled", a="mini-tiny", b="mini-tiny-not-distilled"),
            Comparison(title="Pruned start against random start", a="mini-tiny", b="mini-tiny-random-start"),
        ],
        steps=[
            {"step": step, "wall_time_s": 3.7 * (number + 1) ** 2, "peak_memory_mb": 300.0 * (number + 1)}
            for number, step in enumerate(steps)
        ],
        searches=[ShownSearch(query="日本円", hits=[(0.93, "Japanese Yen"), (0.71, "Yuan"), (0.7, "<b>Japan</b>")])],
        facts={"Training rows": "150,000"},
    )  # fmt: skip


if __name__ == "__main__":
    from f2llm.data.cldr import load_cells

    print(write_report(sys.argv[1], sample(sorted({cell.lang for cell in load_cells()}))))
