"""The dry run of a grid: how many trainings its runs have, how many of them differ, and what those cost."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from f2llm.core.config import Recipe, RecipeFile
from f2llm.core.files import digest_json
from f2llm.pipeline.devices import Device
from f2llm.pipeline.estimate import GridCost, PlannedStep, estimate, hours_of
from f2llm.pipeline.grid_variants import compared_models, grid_of, load_variants, variant_steps
from f2llm.pipeline.runner import Step


def grid_cost(recipe: Recipe, file: RecipeFile, device: Device, out: Path | None = None) -> GridCost:
    """The cost of a grid on `device`, every variant checked; work that variants share is counted once a seed.

    Not counted as done: what finished runs already hold.
    """
    seeds, models = len(grid_of(recipe, file).seeds or [recipe.seed]), compared_models(recipe)
    variants = load_variants(recipe, file)
    trainings, distinct = 0, dict[str, PlannedStep]()
    for variant in variants:
        steps = variant_steps(variant, models, data_there=False)
        planned = {step.name: step for step in estimate(variant.recipe, variant.file, device, out).steps}
        trainings += sum(planned[step.name].kind == "train" for step in steps if step.name in planned)
        distinct |= {work: planned[name] for name, work in work_of(steps).items() if name in planned}
    costly = [step for step in distinct.values() if step.kind in ("train", "teach")]
    return GridCost(
        variants=len(variants),
        seeds=seeds,
        trainings=seeds * trainings,
        computed=seeds * sum(step.kind == "train" for step in costly),
        flops=seeds * sum(step.flops or 0.0 for step in costly),
        hours=seeds * hours_of(costly, device),
        unknown=seeds * sum(step.flops is None for step in costly),
    )


def work_of(steps: Sequence[Step]) -> dict[str, str]:
    """A digest of the work of each step: two are equal where the configs are, and those of all steps before them."""
    found: dict[str, str] = {}
    for step in steps:
        files = [str(path) for path in step.files]
        found[step.name] = digest_json([step.name, step.config, [found[name] for name in step.inputs], files])
    return found
