"""The evaluation steps: held-out rows -> tasks -> scores of every model and of the baselines.

The same tasks, cut to a sample, score a model while it trains (`training_scorer`).
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import pyarrow.compute as pc

from f2llm.core.config import ModelConfig, Recipe, SourceConfig
from f2llm.core.files import write_json
from f2llm.core.log import log
from f2llm.core.types import TaskType
from f2llm.data.examples import read_batches, read_examples
from f2llm.eval.baseline import evaluate_chance, evaluate_tfidf
from f2llm.eval.evaluate import evaluate
from f2llm.eval.sample import SampleScorer, sample_tasks
from f2llm.eval.tasks import EvalTask, build_task
from f2llm.model import checkpoint
from f2llm.model.embedder import Embedder
from f2llm.model.sizes import matryoshka_dims
from f2llm.pipeline.checks import holds_out, trained_dims
from f2llm.pipeline.data_steps import recipe_tokenizer, train_examples
from f2llm.pipeline.exporting import prompts
from f2llm.pipeline.runner import Workplace
from f2llm.train.evaluation import Scorer

if TYPE_CHECKING:
    from f2llm.pipeline.plan import Export


def evaluate_model(place: Workplace, recipe: Recipe, export: Export) -> None:
    """Scores of a model on the held-out rows, with instructions if it was trained with them.

    At the dimensions that are usual for its size, also where it was not trained for them, so that models compare.
    """
    embedder = Embedder(
        checkpoint.load(place.artifact(export.weights) / "model"),
        recipe_tokenizer(place, recipe),
        prompts(recipe),
        matryoshka_dims=trained_dims(recipe, export.model),
    )
    tasks, dims = evaluation_tasks(place, recipe), evaluated_dims(recipe, embedder.engine.width)
    scores = evaluate(embedder, tasks, name=export.name, dims=dims, instructions=export.stage == 2)
    write_json(place.directory / "timing.json", {"tokens_per_second": scores.pop("tokens_per_second")})
    write_json(place.directory / "scores.json", scores)
    log(f"  macro {scores['macro']:.3f}, " + ", ".join(f"{n} {t['score']:.3f}" for n, t in scores["tasks"].items()))


def evaluated_dims(recipe: Recipe, hidden: int) -> list[int]:
    """The nested dimensions of a model of this width, from the recipe's smallest (8 where it trains none) on."""
    return matryoshka_dims(hidden, min(recipe.training.matryoshka_min_dim or 8, hidden))


def evaluate_baselines(place: Workplace, recipe: Recipe) -> None:
    """Scores of character n-gram TF-IDF, of TF-IDF with expanded documents, and of guessing, on the same rows."""
    tasks = evaluation_tasks(place, recipe)
    training = {source.id: list(train_examples(place, source.id)) for source in recipe.sources if source.evaluate}
    found = [*evaluate_tfidf(tasks, training), evaluate_chance(tasks)]
    write_json(place.directory / "scores.json", found)
    log("  macro: " + ", ".join(f"{scores['name']} {scores['macro']:.3f}" for scores in found))


def training_scorer(place: Workplace, recipe: Recipe, model: ModelConfig, stage: int) -> Scorer | None:
    """Scores of a sample of the retrieval tasks, for the weights of a stage in training, with instructions in stage 2.

    None where no retrieval source is evaluated. Texts are read and tokenised at its first call, so that what goes wrong
    there is an evaluation that failed, and no training.
    """
    if not holds_out(recipe, "retrieval"):
        return None

    @cache
    def scorer() -> SampleScorer:
        queries = recipe.training_of(model).evaluation_queries
        tasks = sample_tasks(evaluation_tasks(place, recipe, "retrieval"), queries, place.seed)
        return SampleScorer(tasks, recipe_tokenizer(place, recipe), instructions=stage == 2)

    return lambda embed, seconds: scorer()(embed, seconds)


def evaluation_tasks(place: Workplace, recipe: Recipe, kind: TaskType | None = None) -> list[EvalTask]:
    """One task for each source (of a kind) that is evaluated and has held-out rows.

    The cleaning step sees to it that one source has.
    """
    tasks = []
    for source in recipe.sources:
        path = place.artifact("clean") / "eval" / f"{source.id}.parquet"
        held_out = list(read_examples(path)) if source.evaluate and kind in (None, source.task_type) else []
        if held_out:
            tasks.append(
                build_task(
                    source.id,
                    source.task_type,
                    held_out,
                    _corpus(place, source),
                    instruction=source.instruction,
                    symmetric=source.symmetric,
                )
            )
    return tasks


def _corpus(place: Workplace, source: SourceConfig) -> list[str]:
    """Training documents that held-out queries are searched among besides the held-out ones."""
    if source.task_type != "retrieval" or source.eval_doc_lang is None:
        return []
    found: set[str] = set()
    for batch in read_batches(place.artifact("clean") / "train" / source.id, ["positive", "doc_lang"]):
        found.update(batch.filter(pc.equal(batch["doc_lang"], source.eval_doc_lang))["positive"].to_pylist())
    return sorted(found)
