"""From a recipe to its list of steps: names, order, and which part of the recipe each step depends on."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

from f2llm.core.config import EvaluationSetConfig, ModelConfig, Recipe, RecipeFile, SourceConfig, StageConfig
from f2llm.data.convert import needed_files
from f2llm.pipeline import data_card, data_steps, evaluation, exporting, reporting, steps
from f2llm.pipeline.checks import (
    check_recipe,
    holds_out,
    matches_hidden,
    model_shape,
    source_path,
    trained_dims,
    training_order,
)
from f2llm.pipeline.encoders import NGRAMS
from f2llm.pipeline.runner import Step


def make_plan(recipe: Recipe, file: RecipeFile, data_there: bool = True) -> list[Step]:
    """All steps of a checked recipe, in an order in which they can run; see `check_recipe` for `data_there`."""
    check_recipe(recipe, file, data_there)
    plan = _data_steps(recipe, file)
    names = [model.name for model in recipe.models]
    for teacher in dict.fromkeys(model.teacher for model in recipe.models if model.teacher):
        plan += _teach_steps(recipe, file, teacher) if teacher not in names else []
    for model in training_order(recipe, file):
        plan += _model_steps(recipe, file, model)
    for export in exports(recipe, file):
        plan += _export_steps(recipe, file, export)
    if holds_out(recipe):
        plan.append(_baseline_step(recipe))
        plan.append(_report_step(recipe, file, [step.name for step in plan]))
    return plan


_STAGES = ("stage1", "stage2")
# How a run is saved and watched does not change its weights.
_UPKEEP = (
    "checkpoint_every", "keep_last", "keep_every", "validate_every", "validation_seconds", "evaluate_every",
    "evaluation_queries", "evaluation_seconds", "trackers",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Export:
    """A directory that users load: which weights it holds and how it came about."""

    name: str
    weights: str  # the step that made the weights
    model: ModelConfig
    role: str  # family | ablation | intermediate
    stage: int  # last stage trained: 0 pruned and not trained yet, 1, 2
    teacher: str | Path | None = None  # the step that made its teacher's weights, or their directory


def exports(recipe: Recipe, file: RecipeFile) -> list[Export]:
    """Every model and intermediate checkpoint that is exported and evaluated."""
    found = []
    for model in training_order(recipe, file):
        if model.pruned_from is not None and model.role == "family":
            found.append(Export(f"{model.name}-pruned", f"prune/{model.name}", model, "intermediate", 0))
        if model.stages == [1, 2]:
            found.append(Export(f"{model.name}-preview", f"train/{model.name}/stage1", model, "intermediate", 1))
        last = max(model.stages)
        teacher = _teacher_weights(recipe, file, model.teacher) if model.teacher and last == 2 else None
        found.append(Export(model.name, f"train/{model.name}/stage{last}", model, model.role, last, teacher))
    return found


def _data_steps(recipe: Recipe, file: RecipeFile) -> list[Step]:
    converted = [_convert_step(file, source, "convert") for source in recipe.sources]
    evaluation_sets = [_convert_step(file, own, "evaluation-sets") for own in recipe.evaluation_sets]
    plan = [*converted, *evaluation_sets, _clean_step(recipe, file, [*converted, *evaluation_sets])]
    tokenizer_path = file.resolve(recipe.tokenizer.path) if recipe.tokenizer.path else None
    plan.append(
        Step(
            "tokenizer",
            partial(data_steps.make_tokenizer, recipe=recipe, path=tokenizer_path),
            {**recipe.tokenizer.model_dump(), "instructions": [_dump(s, "id", "instruction") for s in recipe.sources]},
            inputs=[] if tokenizer_path else ["clean"],
            files=[tokenizer_path] if tokenizer_path else [],
        )
    )
    plan += [_mine_step(recipe, file, source) for source in recipe.sources]
    plan += [
        _tokenize_step(recipe, stage) for stage in (1, 2) if any(stage in source.stages for source in recipe.sources)
    ]
    return [*plan, _card_step(recipe, file, [step.name for step in plan])]


def _convert_step(file: RecipeFile, source: SourceConfig | EvaluationSetConfig, group: str) -> Step:
    path = source_path(file, source)
    config = source.model_dump(include={"id", "converter", "task_type", "options"})
    files = []
    if isinstance(path, Path):
        files = needed_files(source.converter, path, source.options)
    elif path is not None:
        config["path"] = path  # a pinned revision does not change
    run = partial(data_steps.convert_source, source=source, path=path)
    tasks = partial(data_steps.convert_tasks, source=source, path=path)
    return Step(f"{group}/{source.id}", run, config, files=files, tasks=tasks)


def _clean_step(recipe: Recipe, file: RecipeFile, converted: list[Step]) -> Step:
    model = file.resolve(recipe.clean.language_model) if recipe.clean.language_model else None
    config = {
        "clean": recipe.clean.model_dump(),
        "sources": [_dump(source, "id", "evaluate", "eval_doc_lang") for source in recipe.sources],
    }
    run = partial(data_steps.clean_sources, recipe=recipe, language_model=model)
    return Step("clean", run, config, [step.name for step in converted], [model] if model else [])


def _mine_step(recipe: Recipe, file: RecipeFile, source: SourceConfig) -> Step:
    """The encoder is a directory beside the recipe, or else the name of one that is known elsewhere."""
    directory = file.resolve(recipe.mine.encoder)
    local = recipe.mine.encoder != NGRAMS and directory.is_dir()
    encoder = str(directory) if local else recipe.mine.encoder
    run = partial(data_steps.mine_source, recipe=recipe, source=source, encoder=encoder)
    config = {"mine": recipe.mine.model_dump(), **_dump(source, "id", "task_type")}
    return Step(f"mine/{source.id}", run, config, ["clean"], [directory] if local else [])


def _tokenize_step(recipe: Recipe, stage: int) -> Step:
    sources = [source for source in recipe.sources if stage in source.stages]
    capped = ("max_rows", "max_rows_per", "language_alpha") if stage == 2 else ()
    config = {
        "sources": [_dump(source, "id", "task_type", "instruction", "symmetric", *capped) for source in sources],
        "negatives": recipe.mine.per_query,
        "instruction_share": recipe.training.symmetric_instruction_share,
        "format": 3,  # of the store's files
    }
    inputs = ["tokenizer", *(f"mine/{source.id}" for source in sources)]
    run = partial(data_steps.tokenize_stage, recipe=recipe, sources=sources, stage=stage)
    return Step(f"tokenize/stage{stage}", run, config, inputs)


def _card_step(recipe: Recipe, file: RecipeFile, before: list[str]) -> Step:
    config = {
        "recipe": [recipe.name, recipe.description, recipe.seed, recipe.report.default_model],
        "sources": [source.model_dump(exclude={"path", "options", "temperature"}) for source in recipe.sources],
        "clean": recipe.clean.model_dump(),
        "mine": recipe.mine.model_dump(),
        "training": recipe.training.model_dump(exclude={*_UPKEEP}),
        "models": [
            model.model_dump(include={"name", "stages", "stage1", "stage2", "training"}) for model in recipe.models
        ],
        "format": 1,
    }
    run = partial(data_card.make_card, recipe=recipe, command=file.command)
    return Step("card", run, config, before)


def _model_steps(recipe: Recipe, file: RecipeFile, model: ModelConfig) -> list[Step]:
    """Its training; after stage 1 all that is pruned from it, after the last what it teaches."""
    plan = []
    start = f"prune/{model.name}" if model.pruned_from else None
    for stage in sorted(model.stages):
        plan.append(_train_step(recipe, file, model, stage, start))
        start = plan[-1].name
        children = [other for other in recipe.models if stage == 1 and other.pruned_from == model.name]
        if children:
            plan.append(_score_step(recipe, model.name, start))
            plan += [_prune_step(recipe, child, model.name) for child in children]
    return plan + _teach_steps(recipe, file, model.name)


def _score_step(recipe: Recipe, parent: str, weights: str) -> Step:
    config = {"calibration_texts": recipe.prune.calibration_texts, "format": 1}
    run = partial(steps.score_model, recipe=recipe, weights=weights)
    return Step(f"score/{parent}", run, config, ["tokenize/stage1", weights])


def _prune_step(recipe: Recipe, model: ModelConfig, parent: str) -> Step:
    weights, scored = f"train/{parent}/stage1", f"score/{parent}"
    rule = recipe.prune_of(model).model_dump(exclude={"calibration_texts"})
    config = {"prune": rule, "shape": _shape(recipe, model)}
    run = partial(steps.prune_model, recipe=recipe, model=model, parent=weights, scored=scored)
    return Step(f"prune/{model.name}", run, config, [scored, weights])


def _train_step(recipe: Recipe, file: RecipeFile, model: ModelConfig, stage: int, start: str | None) -> Step:
    initial = file.resolve(model.init) if start is None and model.init != "random" else None
    teacher = _teacher(recipe, file, model) if stage == 2 else None
    unused = {*_STAGES, *_UPKEEP, "symmetric_instruction_share"}
    config = {
        "training": recipe.training_of(model).model_dump(exclude=unused),
        "temperatures": {source.id: source.temperature for source in recipe.sources if source.temperature},
        "stage": recipe.stage(model, stage).model_dump(),
        "shape": _shape(recipe, model),
        "init": model.init if start is None else None,
    }
    # Not "clean", whose held-out rows measure the weights and do not change them; it is done before "tokenize" is.
    inputs = ["tokenizer", f"tokenize/stage{stage}", *(name for name in (start, teacher) if isinstance(name, str))]
    files = [path for path in (initial, teacher) if isinstance(path, Path)]
    run = partial(steps.train_stage, recipe=recipe, model=model, stage=stage, start=start or initial, teacher=teacher)
    return Step(f"train/{model.name}/stage{stage}", run, config, inputs, files, parallel=True)


def _teacher(recipe: Recipe, file: RecipeFile, model: ModelConfig) -> str | Path | None:
    """What a model learns from: the step that stores its teacher's vectors, or where the teacher's weights are."""
    if model.teacher is None:
        return None
    if recipe.training_of(model).teacher_vectors == "stored":
        return _teach_name(recipe, model.teacher)
    return _teacher_weights(recipe, file, model.teacher)


def _teacher_weights(recipe: Recipe, file: RecipeFile, teacher: str) -> str | Path:
    inside = any(model.name == teacher for model in recipe.models)
    return f"train/{teacher}/stage2" if inside else file.resolve(teacher)


def _teach_name(recipe: Recipe, teacher: str) -> str:
    """For a teacher that is no model of the recipe, the last part of its directory's path."""
    return f"teach/{teacher if any(model.name == teacher for model in recipe.models) else Path(teacher).name}"


def _teach_steps(recipe: Recipe, file: RecipeFile, teacher: str) -> list[Step]:
    """The step that stores a teacher's vectors, where it has students that read them."""
    students = [
        model
        for model in recipe.models
        if model.teacher == teacher and recipe.training_of(model).teacher_vectors == "stored"
    ]
    if not students:
        return []
    drawn = ("epochs", "max_steps", "global_batch", "hard_negatives", "clustering_hard_negatives")
    mixed = {"mixture", "validation_fraction", "validation_rows"}
    draws = [
        _dump(recipe.stage(student, 2), *drawn) | recipe.training_of(student).model_dump(include=mixed)
        for student in students
    ]
    weights = _teacher_weights(recipe, file, teacher)
    inputs = ["tokenize/stage2", *([weights] if isinstance(weights, str) else [])]
    inputs += [f"prune/{student.name}" for student in students if matches_hidden(recipe, student)]
    run = partial(steps.teach, recipe=recipe, weights=weights, students=students)
    files = [weights] if isinstance(weights, Path) else []
    distinct = [draw for place, draw in enumerate(draws) if draw not in draws[:place]]
    return [Step(_teach_name(recipe, teacher), run, {"draws": distinct}, inputs, files)]


def _export_steps(recipe: Recipe, file: RecipeFile, export: Export) -> list[Step]:
    """Its scores where rows are held out, then the directory for users, whose card has them."""
    config = {
        "name": export.name,
        "instructions": [_dump(source, "id", "instruction", "license") for source in recipe.sources],
        "query_instruction": recipe.query_instruction,
        "dims": trained_dims(recipe, export.model),
        "recipe": [recipe.name, recipe.description, recipe.license],
    }  # not the command, which the card shows too: one that gave the same weights still does
    dims = evaluation.evaluated_dims(recipe, model_shape(recipe, export.model, 1).hidden)
    scored = {**_evaluation_config(recipe), "dims": dims, "query_instruction": recipe.query_instruction}
    evaluation_step = f"evaluate/{export.name}"
    score = partial(evaluation.evaluate_model, recipe=recipe, export=export)
    run = partial(exporting.export_model, recipe=recipe, file=file, export=export)
    inputs = ["tokenizer", export.weights, "clean"]
    taught = [export.teacher] if isinstance(export.teacher, str) else []
    files = [export.teacher] if isinstance(export.teacher, Path) else []
    if not holds_out(recipe):
        return [Step(f"export/{export.name}", run, config, [*inputs, *taught], files)]
    return [
        Step(evaluation_step, score, scored, inputs),
        Step(f"export/{export.name}", run, config, [*inputs, evaluation_step, *taught], files),
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
