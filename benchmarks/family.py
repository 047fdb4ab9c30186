"""What shrinking is worth, on real texts and several seeds: the tables of docs/results/family.md and pruning.md.

    python benchmarks/family.py claims --seeds 1 2 3         # the whole family, and the paper's three claims
    python benchmarks/family.py pruning --seeds 1 2 3        # by what to choose channels and layers
    python benchmarks/family.py distillation --seeds 1 2 3   # what to compare with the teacher

Each builds recipes/family.toml (or --recipe) for each seed into OUT/seed-N, the studies with other models of the same
shape in place of its own; what is there already is not built again. All scores are of held-out texts, macro means over
languages. A difference is given as its mean over the seeds, with the least and the largest.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, get_args

import torch

from f2llm.core.allocator import tune_allocator
from f2llm.core.config import ModelConfig, Recipe, ReportConfig, load_recipe
from f2llm.core.files import read_json
from f2llm.core.pictures import COLOURS
from f2llm.core.types import Importance
from f2llm.data.examples import read_examples
from f2llm.model import checkpoint
from f2llm.model.embedder import Embedder
from f2llm.model.importance import load_scores, top
from f2llm.pipeline.plan import exports, make_plan
from f2llm.pipeline.runner import Workplace, run_steps
from f2llm.pipeline.steps import SCORES, recipe_tokenizer

SHORT = 60  # steps that tell how good a start was
Row = dict[str, float]


@dataclass(frozen=True)
class Study:
    """Models, what the table calls them, and which columns of their scores are shown."""

    models: Sequence[ModelConfig]
    labels: Mapping[str, str]
    columns: Mapping[str, Callable[[str, Mapping[str, Row]], float]]
    differences: Sequence[tuple[str, str, str]] = ()


def rules(parent: str) -> Study:
    """One model per rule, pruned and trained for a few steps."""
    found: dict[str, dict[str, Any]] = {
        "l2 norm, sum, first layers": {},
        "l1 norm": {"importance": "l1"},
        "variance": {"importance": "variance"},
        "prefix": {"importance": "prefix"},
        "weight magnitude (control)": {"importance": "magnitude"},
        "random (control)": {"importance": "random"},
        "l2 norm, max over layers": {"aggregate": "max"},
        "l2 norm, last norm only": {"aggregate": "last"},
        "layers by influence": {"depth": "influence"},
        "layers by change of norm": {"depth": "norm_change"},
    }
    models = [_small(parent, f"rule-{number}", prune=rule, steps=SHORT) for number, rule in enumerate(found.values())]
    names = dict(zip((model.name for model in models), found, strict=True))
    return Study(
        models,
        names,
        {
            "pruned: retrieval": lambda name, rows: rows[f"{name}-pruned"]["retrieval"],
            "pruned: all": lambda name, rows: rows[f"{name}-pruned"]["macro"],
            "trained: retrieval": lambda name, rows: rows[name]["retrieval"],
            "trained: all": lambda name, rows: rows[name]["macro"],
        },
    )


def distillations(parent: str) -> Study:
    """One model per way to distill, from the same pruned start."""
    found: dict[str, dict[str, Any] | None] = {
        "not distilled": None,
        "mse (the paper)": {},
        "mse, weight 5": {"distill_weight": 5.0},
        "mse at every dimension": {"distill_matryoshka": True},
        "cosine, weight 10": {"distill": "cosine", "distill_weight": 10.0},
        "cosine at every dimension, weight 10": {
            "distill": "cosine",
            "distill_matryoshka": True,
            "distill_weight": 10.0,
        },
        "relational, weight 10": {"distill": "relational", "distill_weight": 10.0},
        "two layers, mse": {},
        "two layers, mse and hidden states": {"distill_hidden_weight": 1.0, "teacher_vectors": "online"},
        f"{SHORT} steps, not distilled": None,
        f"{SHORT} steps, mse": {},
    }
    models = [
        _small(
            parent,
            f"way-{number}",
            size="deep" if name.startswith("two") else "small",
            training=way or {},
            teacher=None if way is None else parent,
            steps=SHORT if "steps" in name else None,
        )
        for number, (name, way) in enumerate(found.items())
    ]
    names = dict(zip((model.name for model in models), found, strict=True))
    return Study(
        models,
        names,
        {
            "retrieval": lambda name, rows: rows[name]["retrieval"],
            "all": lambda name, rows: rows[name]["macro"],
            "all, a quarter of the dimensions": lambda name, rows: rows[name]["quarter"],
        },
    )


def claims(recipe: Recipe) -> Study:
    """The recipe's own models."""
    return Study(
        recipe.models,
        {model.name: model.name for model in recipe.models},
        {
            "retrieval": lambda name, rows: rows[name]["retrieval"],
            "all": lambda name, rows: rows[name]["macro"],
            "half of the dimensions": lambda name, rows: rows[name]["half"],
            "a quarter": lambda name, rows: rows[name]["quarter"],
            "an eighth": lambda name, rows: rows[name]["eighth"],
        },
        [(c.a, c.b, kind) for c in recipe.report.comparisons for kind in ("macro", "half", "quarter", "eighth")],
    )


def _small(
    parent: str,
    name: str,
    *,
    size: str = "small",
    prune: dict[str, Any] | None = None,
    training: dict[str, Any] | None = None,
    teacher: str | None = None,
    steps: int | None = None,
) -> ModelConfig:
    stage2 = {"max_steps": steps} if steps else {}
    return ModelConfig.model_validate(
        {
            "name": name, "size": size, "init": f"prune:{parent}", "stages": [2], "teacher": teacher,
            "prune": prune or {}, "training": training or {}, "stage2": stage2,
            "role": "family" if prune is not None else "ablation",
        }
    )  # fmt: skip


def build_seed(path: Path, study: str, seed: int, out: Path) -> tuple[Study, dict[str, Row]]:
    """Build what the study needs for a seed; the scores of each export."""
    recipe, file = load_recipe(path, [f"seed={seed}"])
    parent = next(model.name for model in recipe.models if model.stages == [1, 2])
    base = recipe.model(parent)
    chosen = {"claims": lambda: claims(recipe), "pruning": lambda: rules(parent)}.get(study)
    found = chosen() if chosen else distillations(parent)
    if study != "claims":
        report = ReportConfig(default_model=parent)
        sizes = recipe.sizes | {"deep": recipe.sizes["small"].model_copy(update={"layers": 2})}
        recipe = recipe.model_copy(update={"models": [base, *found.models], "report": report, "sizes": sizes})
    plan = make_plan(recipe, file)
    wanted = [step for step in plan if not step.name.startswith(("report", "export/") if study != "claims" else ())]
    run_steps(wanted, out, seed=seed)
    rows = {export.name: scores(out / "evaluate" / export.name / "scores.json") for export in exports(recipe, file)}
    return found, rows


def scores(path: Path) -> Row:
    """Macro score at all and at fewer dimensions, and the mean of the retrieval tasks."""
    content = read_json(path)
    by_dim = {int(dim): float(score) for dim, score in content["by_dim"].items()}
    full = max(by_dim)
    retrieval = [task["score"] for task in content["tasks"].values() if task["kind"] == "retrieval"]
    shares = {"half": 2, "quarter": 4, "eighth": 8}
    cut = {name: by_dim.get(full // share, float("nan")) for name, share in shares.items()}
    return {"macro": content["macro"], "retrieval": statistics.mean(retrieval), **cut}


def effective_ranks(path: Path, seed: int, out: Path) -> dict[str, float]:
    """Of the parent's stage-1 vectors of held-out texts, over the channels that each importance keeps for half a width.

    (sum of eigenvalues)^2 / sum of their squares, of the covariance: how many directions carry the vectors.
    """
    recipe, _ = load_recipe(path, [f"seed={seed}"])
    parent = next(model.name for model in recipe.models if model.stages == [1, 2])
    place, weights = Workplace(out, out, seed), f"train/{parent}/stage1"
    scores = load_scores(out / "score" / parent / SCORES, weights)
    assert scores is not None
    embedder = Embedder(checkpoint.load(out / weights / "model"), recipe_tokenizer(place, recipe))
    texts = [
        text for row in read_examples(out / "clean" / "eval" / "ntrex.parquet") for text in (row.query, row.positive)
    ]
    vectors = torch.from_numpy(embedder.encode(list(dict.fromkeys(texts)), normalize=False))
    width = embedder.dims
    found = {"all": effective_rank(vectors)}
    for importance in get_args(Importance):
        channels = top(scores.hidden([0], importance, "sum", seed), width // 2)
        found[importance] = effective_rank(vectors[:, channels])
    return found


def effective_rank(vectors_ND: torch.Tensor) -> float:
    values = torch.linalg.eigvalsh(vectors_ND.T.cov()).clamp_min(0)
    return float(values.sum().square() / values.square().sum())


def spread(values: Sequence[float]) -> str:
    mean = statistics.mean(values)
    if len(values) < 2:
        return f"{mean:.3f}"
    return f"{mean:.3f} ± {statistics.stdev(values):.3f}"


def table(study: Study, by_seed: Sequence[Mapping[str, Row]]) -> list[str]:
    """Markdown: mean and standard deviation over the seeds."""
    lines = ["| " + " | ".join(["", *study.columns]) + " |", "|---" * (1 + len(study.columns)) + "|"]
    for model in study.models:
        cells = [spread([column(model.name, rows) for rows in by_seed]) for column in study.columns.values()]
        lines.append("| " + " | ".join([study.labels[model.name], *cells]) + " |")
    return lines


def differences(study: Study, by_seed: Sequence[Mapping[str, Row]]) -> list[str]:
    lines = []
    for a, b, kind in study.differences:
        found = [rows[a][kind] - rows[b][kind] for rows in by_seed]
        each = ", ".join(f"{value:+.3f}" for value in found)
        lines.append(f"- {a} minus {b}, {kind}: {statistics.mean(found):+.3f} ({each})")
    return lines


def draw(study: Study, by_seed: Sequence[Mapping[str, Row]], path: Path) -> None:
    """Scores of all models at full size, and of two of them at fewer dimensions: means, and the range of the seeds."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = [model.name for model in study.models]
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9.5, 3.2), width_ratios=(1.2, 1), layout="constrained")
    for place, name in enumerate(names):
        mean, below, above = middle([rows[name]["macro"] for rows in by_seed])
        left.errorbar(mean, place, xerr=[[below], [above]], fmt="o", color=COLOURS[0], capsize=3)
    left.set_yticks(range(len(names)), names)
    left.invert_yaxis()
    left.set_title("all dimensions", loc="left")
    left.set_xlabel("mean over languages")
    cuts = ("eighth", "quarter", "half", "macro")
    for name, colour in (("small-matryoshka", COLOURS[1]), ("small-plain", COLOURS[4])):
        points = [middle([rows[name][cut] for rows in by_seed]) for cut in cuts]
        means, below, above = zip(*points, strict=True)
        right.errorbar(range(len(cuts)), means, yerr=[below, above], fmt="o-", color=colour, capsize=3, label=name)
    right.set_xticks(range(len(cuts)), ["1/8", "1/4", "1/2", "all"])
    right.set_xlabel("dimensions kept")
    right.set_title("vectors cut short", loc="left")
    right.legend(frameon=False)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.2)
    figure.savefig(path, dpi=150)


def middle(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean, and how far the least and the largest are from it."""
    mean = statistics.mean(values)
    return mean, mean - min(values), max(values) - mean


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=["claims", "pruning", "distillation"])
    parser.add_argument("--recipe", type=Path, default=Path("recipes/family.toml"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--out", type=Path, default=Path("build/family"), help="seed N goes to OUT/seed-N")
    parser.add_argument("--picture", type=Path, help="of the claims: a PNG file")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    tune_allocator()
    built = [
        build_seed(arguments.recipe, arguments.study, seed, arguments.out / f"seed-{seed}") for seed in arguments.seeds
    ]
    study, by_seed = built[0][0], [rows for _, rows in built]
    if arguments.picture is not None and arguments.study == "claims":
        draw(study, by_seed, arguments.picture)
    if arguments.json:
        print(json.dumps({"study": arguments.study, "seeds": dict(zip(arguments.seeds, by_seed, strict=True))}))
        return
    print("\n".join([*table(study, by_seed), "", *differences(study, by_seed)]))
    if arguments.study == "pruning":
        print("effective rank of the parent's vectors, over the channels that are kept:")
        for seed in arguments.seeds:
            ranks = effective_ranks(arguments.recipe, seed, arguments.out / f"seed-{seed}")
            print(f"- seed {seed}: " + ", ".join(f"{name} {rank:.1f}" for name, rank in ranks.items()))
    machine = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"
    print(f"\n{date.today()}, seeds {arguments.seeds}, {machine}, torch {torch.__version__}")


if __name__ == "__main__":
    main()
