"""The export steps: weights, tokenizer, prompts and a card -> a directory that users load."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata
from typing import TYPE_CHECKING, Any

from f2llm.core.config import Recipe, RecipeFile
from f2llm.core.files import digest_file, read_json
from f2llm.model import checkpoint
from f2llm.model.card import CardFacts, Scores, SourceFacts, Teacher, model_card
from f2llm.model.sizes import Shape
from f2llm.model.weights import weights_digest
from f2llm.pipeline.checks import holds_out, trained_dims
from f2llm.pipeline.data_steps import recipe_tokenizer
from f2llm.pipeline.runner import Workplace
from f2llm.text.prompts import query_prompt

if TYPE_CHECKING:
    from f2llm.pipeline.plan import Export


def export_model(place: Workplace, recipe: Recipe, file: RecipeFile, export: Export) -> None:
    """Weights -> a directory that sentence-transformers, transformers and f2llm load."""
    decoder = checkpoint.load(place.weights(export.weights))
    checkpoint.save(
        decoder,
        place.directory / "model",
        tokenizer=recipe_tokenizer(place, recipe),
        max_seq_length=recipe.tokenizer.max_seq_length,
        prompts=prompts(recipe),
        matryoshka_dims=trained_dims(recipe, export.model),
        card=model_card(_facts(place, recipe, file, export, decoder.shape)),
    )


def prompts(recipe: Recipe) -> dict[str, str]:
    """Prompt by name: "query" and "document", and one for each source's own instruction."""
    own = {source.id: query_prompt(source.instruction) for source in recipe.sources if source.instruction}
    return {"query": query_prompt(recipe.query_instruction), "document": "", **own}


def _facts(place: Workplace, recipe: Recipe, file: RecipeFile, export: Export, shape: Shape) -> CardFacts:
    counts: dict[str, dict[str, list[int]]] = read_json(place.artifact("clean") / "languages.json")
    stages = [stage for stage in export.model.stages if stage <= export.stage] or [1]
    used = {source.id for source in recipe.sources if set(source.stages) & {*stages, 1}}
    languages = {tag: sum(rows[0] for source, rows in by.items() if source in used) for tag, by in counts.items()}
    return CardFacts(
        name=export.name,
        recipe=recipe.name,
        description=recipe.description,
        license=recipe.license,
        command=file.command,
        seed=recipe.seed,
        digests={
            "recipe (SHA-256 of the file)": digest_file(file.path),
            "data": place.inputs["clean"],
            "weights": place.inputs[export.weights],
        },
        versions={name: metadata.version(name) for name in ("f2llm", "torch", "tokenizers")},
        history=_history(export),
        sources=[
            SourceFacts(source.id, _rows(counts, source.id), source.license, source.instruction)
            for source in recipe.sources
            if source.id in used
        ],
        languages={tag: rows for tag, rows in languages.items() if rows},
        scores=_scores(place, export) if holds_out(recipe) else None,
        dims=trained_dims(recipe, export.model),
        max_seq_length=recipe.tokenizer.max_seq_length,
        shape=shape,
        teacher=_teacher(place, export),
    )


def _teacher(place: Workplace, export: Export) -> Teacher | None:
    """What the card says of the teacher; its digest is that of the teacher's own export, which has the same bytes."""
    if export.teacher is None:
        return None
    return Teacher(str(export.model.teacher), weights_digest(place.weights(export.teacher)))


def _rows(counts: Mapping[str, Mapping[str, list[int]]], source: str) -> int:
    return sum(by[source][0] for by in counts.values() if source in by)


def _scores(place: Workplace, export: Export) -> Scores:
    found: dict[str, Any] = read_json(place.artifact(f"evaluate/{export.name}") / "scores.json")
    return Scores(
        tasks={name: (task["metric"], task["score"]) for name, task in found["tasks"].items()},
        macro=found["macro"],
        by_dim={int(dim): score for dim, score in found["by_dim"].items()},
        by_language=found["by_language"],
    )


def _history(export: Export) -> list[str]:
    """How the weights came about, one sentence a step."""
    model = export.model
    if model.pruned_from:
        origin = f"Pruned from the stage-1 weights of {model.pruned_from}."
    elif model.init == "random":
        origin = "Started from random weights."
    else:
        origin = f"Started from the weights in `{model.init}`."
    stages = [stage for stage in model.stages if stage <= export.stage]
    told = {1: "Stage 1: retrieval pairs without instructions.", 2: "Stage 2: all tasks with instructions."}
    history = [origin, *(told[stage] for stage in stages)]
    if model.teacher and export.stage == 2:
        history[-1] += f" Distilled from {model.teacher}."
    return history
