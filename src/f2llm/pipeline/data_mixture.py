"""What a training reads of its data: the shares that the mixture asks for, and those that the planned steps draw.

Both come from the sampler of the training itself (`BatchSampler`), fed with the finished token store of the stage. A
batch holds rows of one source, so the shares of languages and task types follow from those of the sources; over whole
passes that is exact, and within a pass it is what the random order gives on the average. Cost: the order of all steps,
a second for 10 million.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from f2llm.core.config import ModelConfig, Recipe
from f2llm.pipeline.stage_data import StageData, stage_data
from f2llm.pipeline.training_load import expected_sampler, mixture_of, planned_steps
from f2llm.train.sampler import BatchSampler, Mixture, mixture_shares

Counts = Mapping[str, Mapping[str, Sequence[int]]]
"""{language: {source: (rows for training, rows for evaluation)}}, as cleaning counts them."""
Shares = Mapping[str, Mapping[str, float]]
"""{source: {language or task type: share of its rows}}"""


@dataclass(frozen=True)
class Part:
    """A source, a language or a task type in the data of a stage.

    Rows that cleaning left and rows in the store (after caps); the share of the batches that the mixture asks for and
    that the training draws; how often the training reads each row.
    """

    name: str
    cleaned: int
    stored: int
    wanted: float
    drawn: float
    passes: float


@dataclass(frozen=True)
class StageMixture:
    """The data of a stage as `model` reads them in `steps` batches; parts with the largest share first."""

    stage: int
    model: str
    steps: int
    rule: str
    sources: list[Part]
    languages: list[Part]
    tasks: list[Part]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def stage_mixtures(recipe: Recipe, out: Path, counts: Counts) -> list[StageMixture]:
    """One for each stage whose token store is finished; ConfigError where the mixture's bounds cannot be kept.

    A stage is read as the recipe's default model reads it, or where that has no such stage, the first model that has.
    """
    found = []
    for stage in (1, 2):
        model, data = _reader(recipe, stage), stage_data(recipe, stage, out)
        if model is not None and data.measured and data.total_rows:
            found.append(stage_mixture(recipe, model, stage, data, counts))
    return found


def _reader(recipe: Recipe, stage: int) -> ModelConfig | None:
    models = [recipe.model(recipe.report.default_model), *recipe.models]
    return next((model for model in models if stage in model.stages), None)


def stage_mixture(recipe: Recipe, model: ModelConfig, stage: int, data: StageData, counts: Counts) -> StageMixture:
    """The mixture of a stage with measured `data`."""
    own, training = recipe.stage(model, stage), recipe.training_of(model)
    sampler, mixture = expected_sampler(own, training, data, recipe.seed + stage), mixture_of(training, data)
    assert sampler is not None, "a finished store knows its rows"
    steps = planned_steps(own, sampler)
    cleaned = _by_source(counts, sampler.batches)
    sources = _sources(sampler, steps, _wanted(sampler, mixture, data.languages), cleaned)
    kinds = {source.name: str(data.task_types[source.name]) for source in sources}
    rows_of_kinds = {source.name: {kinds[source.name]: source.cleaned} for source in sources}
    return StageMixture(
        stage=stage,
        model=model.name,
        steps=steps,
        rule=_rule(mixture),
        sources=_ordered(sources),
        languages=_ordered(_spread(sources, data.languages, cleaned)),
        tasks=_ordered(_spread(sources, {name: {kind: 1.0} for name, kind in kinds.items()}, rows_of_kinds)),
    )


def _wanted(sampler: BatchSampler, mixture: Mixture, languages: Shares) -> dict[str, float]:
    """Share of the batches of each source by the mixture's rule, before it is rounded to whole batches."""
    if mixture.natural:
        return {source: batches / sampler.steps_per_epoch for source, batches in sampler.batches.items()}
    weights = sampler.batches if mixture.alpha == 1 else sampler.trained
    return mixture_shares({**dict.fromkeys(sampler.sizes, 0), **weights}, mixture, languages)


def _by_source(counts: Counts, sources: Iterable[str]) -> dict[str, dict[str, int]]:
    """Rows for training that cleaning left, by source and language."""
    found: dict[str, dict[str, int]] = {source: {} for source in sources}
    for tag, by_source in counts.items():
        for source in found.keys() & by_source.keys():
            found[source][tag] = by_source[source][0]
    return found


def _sources(
    sampler: BatchSampler, steps: int, wanted: Mapping[str, float], cleaned: Mapping[str, Mapping[str, int]]
) -> list[Part]:
    return [
        Part(name, sum(cleaned[name].values()), sampler.sizes[name], wanted[name], plan["share"], plan["passes"])
        for name, plan in sampler.planned(steps).items()
    ]


def _spread(sources: Sequence[Part], shares: Shares, cleaned: Mapping[str, Mapping[str, int]]) -> list[Part]:
    """The parts that sources consist of: `shares` {source: {part: share of its rows}}, `cleaned` the same in rows."""
    sums: dict[str, list[float]] = defaultdict(lambda: [0.0] * 5)
    for source in sources:
        for name in shares[source.name].keys() | cleaned[source.name].keys():
            share = shares[source.name].get(name, 0.0)
            rows = share * source.stored
            values = (cleaned[source.name].get(name, 0), rows, share * source.wanted, share * source.drawn)
            for place, value in enumerate((*values, rows * source.passes)):
                sums[name][place] += value
    return [
        Part(name, round(before), round(rows), wanted, drawn, read / rows if rows else 0.0)
        for name, (before, rows, wanted, drawn, read) in sums.items()
        if before or rows
    ]


def _ordered(parts: Iterable[Part]) -> list[Part]:
    return sorted(parts, key=lambda part: (-part.wanted, -part.stored, part.name))


def _rule(mixture: Mixture) -> str:
    """The mixture in a sentence."""
    power = "" if mixture.alpha == 1 else f" to the power of {mixture.alpha:g}"
    floors = {**mixture.floors, **mixture.language_floors}
    caps = {**mixture.caps, **mixture.language_caps}
    bounds = [f"{name} at least {share:.3g}" for name, share in floors.items()]
    bounds += [f"{name} at most {share:.3g}" for name, share in caps.items()]
    within = f"within bounds: {', '.join(bounds)}" if bounds else "without bounds"
    return f"Sources get batches in proportion to their rows{power}, {within}."
