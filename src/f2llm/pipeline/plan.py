"""From a recipe to its list of steps: names, order, and which part of the recipe each step depends on."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

from f2llm.core.config import ModelConfig, Recipe, RecipeFile, SourceConfig, StageConfig
from f2llm.pipeline import evaluation, reporting, steps
from f2llm.pipeline.checks import check_recipe, model_shape, training_order
from f2llm.pipeline.runner import Step


def make_plan(recipe: Recipe, file: RecipeFile) -> list[Step]:
    """All steps of a checked recipe, in an order in which they can run."""
    check_recipe(recipe, file)
    plan = _data_steps(recipe, file)
    for model in training_order(recipe, file):
        plan += _model_steps(recipe, file, model)
    for export in exports(recipe, file):
        plan += _export_steps(recipe, export)
    plan.append(_baseline_step(recipe))
    plan.append(_report_step(recipe, file, [step.name for step in plan]))
    return plan


_STAGES = ("stage1", "stage2")
# How a run is saved and watched does not change its weights.
_UPKEEP = ("checkpoint_every", "keep_last", "keep_every", "validate_every", "validation_seconds", "trackers")


@dataclasses.dataclass(frozen=True)
class Export:
    """A directory that users load: which weights it holds and how it came about."""

    name: str
    weights: str  # the step that made the weights
    model: ModelConfig
    role: str  # family | ablation | intermediate
    stage: int  # last stage trained: 0 pruned and not trained yet, 1, 2


def exports(recipe: Recipe, file: RecipeFile) -> list[Export]:
    """Every model and intermediate checkpoint that is exported and evaluated."""
    found = []
    for model in training_order(recipe, file):
        if model.pruned_from is not None and model.role == "family":
            found.append(Export(f"{model.name}-pruned", f"prune/{model.name}", model, "intermediate", 0))
        if model.stages == [1, 2]:
            found.append(Export(f"{model.name}-preview", f"train/{model.name}/stage1", model, "intermediate", 1))
        last = max(model.stages)
        found.append(Export(model.name, f"train/{model.name}/stage{last}", model, model.role, last))
    return found


def _data_steps(recipe: Recipe, file: RecipeFile) -> list[Step]:
    plan = []
    for source in recipe.sources:
        path = file.resolve(source.path) if source.path else None
        config = _dump(source, "id", "converter", "task_type", "options")
        run = partial(steps.convert_source, source=source, path=path)
        plan.append(Step(f"convert/{source.id}", run, config, files=[path] if path else []))
    converted = [step.name for step in plan]
    clean_config = {
        "clean": recipe.clean.model_dump(),
        "sources": [_dump(source, "id", "evaluate", "eval_doc_lang") for source in recipe.sources],
    }
    plan.append(Step("clean", partial(steps.clean_sources, recipe=recipe), clean_config, inputs=converted))
    tokenizer_path = file.resolve(recipe.tokenizer.path) if recipe.tokenizer.path else None
    plan.append(
        Step(
            "tokenizer",
            partial(steps.make_tokenizer, recipe=recipe, path=tokenizer_path),
            {**recipe.tokenizer.model_dump(), "instructions": [_dump(s, "id", "instruction") for s in recipe.sources]},
            inputs=[] if tokenizer_path else ["clean"],
            files=[tokenizer_path] if tokenizer_path else [],
        )
    )
    for source in recipe.sources:
        config = {"mine": recipe.mine.model_dump(), **_dump(source, "id", "task_type")}
        plan.append(
            Step(f"mine/{source.id}", partial(steps.mine_source, recipe=recipe, source=source), config, ["clean"])
        )
    plan += [
        _tokenize_step(recipe, stage) for stage in (1, 2) if any(stage in source.stages for source in recipe.sources)
    ]
    return plan


def _tokenize_step(recipe: Recipe, stage: int) -> Step:
    sources = [source for source in recipe.sources if stage in source.stages]
    config = {
        "sources": [_dump(source, "id", "task_type", "instruction", "symmetric", "max_rows") for source in sources],
        "negatives": recipe.mine.per_query,
        "instruction_share": recipe.training.symmetric_instruction_share,
        "format": 2,  # of the store's files
    }
    inputs = ["tokenizer", *(f"mine/{source.id}" for source in sources)]
    run = partial(steps.tokenize_stage, recipe=recipe, sources=sources, stage=stage)
    return Step(f"tokenize/stage{stage}", run, config, inputs)


def _model_steps(recipe: Recipe, file: RecipeFile, model: ModelConfig) -> list[Step]:
    plan = []
    start: str | None = None
    if model.pruned_from is not None:
        plan.append(_prune_step(recipe, model))
        start = plan[-1].name
    for stage in sorted(model.stages):
        teacher = f"teach/{model.teacher}" if model.teacher and stage == 2 else None
        plan.append(_train_step(recipe, file, model, stage, start, teacher))
        start = plan[-1].name
    students = [other for other in recipe.models if other.teacher == model.name]
    if students:
        plan.append(_teach_step(recipe, model, students))
    return plan


def _prune_step(recipe: Recipe, model: ModelConfig) -> Step:
    parent = f"train/{model.pruned_from}/stage1"
    config = {"prune": recipe.prune.model_dump(), "shape": _shape(recipe, model)}
    run = partial(steps.prune_model, recipe=recipe, model=model, parent=parent)
    return Step(f"prune/{model.name}", run, config, ["tokenizer", "tokenize/stage1", parent])


def _train_step(
    recipe: Recipe, file: RecipeFile, model: ModelConfig, stage: int, start: str | None, teacher: str | None
) -> Step:
    initial = file.resolve(model.init) if start is None and model.init != "random" else None
    config = {
        "training": recipe.training.model_dump(exclude={*_STAGES, *_UPKEEP, "symmetric_instruction_share"}),
        "temperatures": {source.id: source.temperature for source in recipe.sources if source.temperature},
        "stage": recipe.stage(model, stage).model_dump(),
        "shape": _shape(recipe, model),
        "init": model.init if start is None else None,
    }
    inputs = [name for name in ("tokenizer", f"tokenize/stage{stage}", start, teacher) if name]
    run = partial(steps.train_stage, recipe=recipe, model=model, stage=stage, start=start or initial, teacher=teacher)
    files = [initial] if initial else []
    return Step(f"train/{model.name}/stage{stage}", run, config, inputs, files, parallel=True)


def _teach_step(recipe: Recipe, model: ModelConfig, students: list[ModelConfig]) -> Step:
    stages: list[StageConfig] = [recipe.stage(student, 2) for student in students]
    drawn = ("epochs", "max_steps", "global_batch", "hard_negatives", "clustering_hard_negatives")
    mixed = ("mixture", "validation_fraction", "validation_rows")
    config = {
        "students": [_dump(stage, *drawn) for stage in stages],
        "training": recipe.training.model_dump(include=set(mixed)),
    }
    weights = f"train/{model.name}/stage2"
    run = partial(steps.teach, recipe=recipe, weights=weights, students=students)
    return Step(f"teach/{model.name}", run, config, ["tokenize/stage2", weights])


def _export_steps(recipe: Recipe, export: Export) -> list[Step]:
    config = {
        "name": export.name,
        "instructions": [_dump(source, "id", "instruction") for source in recipe.sources],
        "query_instruction": recipe.query_instruction,
        "matryoshka_min_dim": recipe.training.matryoshka_min_dim,
        "recipe": [recipe.name, recipe.description],
    }
    name = f"export/{export.name}"
    run = partial(steps.export_model, recipe=recipe, export=export)
    score = partial(evaluation.evaluate_model, recipe=recipe, export=export)
    return [
        Step(name, run, config, ["tokenizer", export.weights]),
        Step(f"evaluate/{export.name}", score, _evaluation_config(recipe), [name, "clean"]),
    ]


def _baseline_step(recipe: Recipe) -> Step:
    return Step(
        "baseline", partial(evaluation.evaluate_baselines, recipe=recipe), _evaluation_config(recipe), ["clean"]
    )


def _report_step(recipe: Recipe, file: RecipeFile, before: list[str]) -> Step:
    found = exports(recipe, file)
    config = {"report": recipe.report.model_dump(), "name": recipe.name, "description": recipe.description}
    inputs = ["clean", "baseline", *(f"evaluate/{e.name}" for e in found), *dict.fromkeys(e.weights for e in found)]
    inputs.append(f"export/{recipe.report.default_model}")
    run = partial(reporting.make_report, recipe=recipe, exports=found, steps=before, command=file.command)
    return Step("report", run, config, inputs)


def _evaluation_config(recipe: Recipe) -> dict[str, Any]:
    fields = ("id", "task_type", "instruction", "symmetric", "evaluate", "eval_doc_lang")
    return {"sources": [_dump(source, *fields) for source in recipe.sources]}


def _shape(recipe: Recipe, model: ModelConfig) -> dict[str, Any]:
    return dataclasses.asdict(model_shape(recipe, model, vocab_size=0))


def _dump(section: SourceConfig | StageConfig, *fields: str) -> dict[str, Any]:
    return section.model_dump(include=set(fields))
