"""What weights of 16 and 8 bits cost: a recipe's own evaluation of one of its models, with each type of weights.

Run it with: python benchmarks/weights.py build/mini --recipe recipes/mini.toml --model mini-base

The build has to be there (`f2llm build recipes/mini.toml`). The same held-out rows for each type; `cosine` is that of
2,000 of their texts with the vectors of float32, the mean and the worst. How k-means falls is chance: vectors that are
nearly equal may give other clusters, so clustering is shown but says little.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from f2llm.core.config import load_recipe
from f2llm.eval.evaluate import evaluate
from f2llm.model.embedder import Embedder
from f2llm.model.engines.load import dtype_of
from f2llm.pipeline.evaluation import evaluated_dims, evaluation_tasks
from f2llm.pipeline.runner import Workplace

TYPES = ("float32", "float16", "int8")
TEXTS = 2000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", type=Path)
    parser.add_argument("--recipe", type=Path, default=Path("recipes/mini.toml"))
    parser.add_argument("--model", default="mini-base")
    options = parser.parse_args()
    recipe, _ = load_recipe(options.recipe)
    tasks = evaluation_tasks(Workplace(options.build, options.build, recipe.seed), recipe)
    texts = [text for task in tasks for text in task.queries][:TEXTS]
    directory, expected = options.build / "export" / options.model / "model", None
    for weights in TYPES:
        embedder = Embedder.load(directory, dtype=dtype_of(weights))
        scores = evaluate(embedder, tasks, name=options.model, dims=evaluated_dims(recipe, embedder.engine.width))
        found = embedder.encode(texts)
        expected = found if expected is None else expected
        cosines = (found * expected).sum(1)
        print(json.dumps({
            "model": options.model, "weights": weights, "macro": round(scores["macro"], 4),
            "tasks": {name: round(task["score"], 4) for name, task in scores["tasks"].items()},
            "cosine_mean": round(float(cosines.mean()), 7), "cosine_worst": round(float(cosines.min()), 7),
            "tokens_per_second": round(scores["tokens_per_second"]),
        }), flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
