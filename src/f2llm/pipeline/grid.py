"""Runs the grid of a recipe: every variant with every seed, each an ordinary build in `OUT/grid/VARIANT/seed-N`.

Only the steps that the compared scores need are run, and a step that is finished anywhere in the grid, or in OUT
itself, is taken from there if it is the very same work (`f2llm.pipeline.runner`). The seed is a part of all work, from
the rows that are held out to the weights that training starts from. A killed grid continues; a run that fails is
written down, and the others go on. Cost: of a build, less what is shared, times variants and seeds; disk likewise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from f2llm.core.config import Recipe, RecipeFile
from f2llm.core.errors import F2LLMError, InterruptedRunError, MissingDependencyError, StorageError
from f2llm.core.files import read_json
from f2llm.core.log import log, warn
from f2llm.data.engine import Engine
from f2llm.pipeline.grid_variants import Variant, compared_models, grid_of, load_variants, scores_step, variant_steps
from f2llm.pipeline.runner import BuildResult, Step, run_steps
from f2llm.train.distributed import World

GRID = "grid"
# What would stop every other run as well, or is no failure.
_ENDS_ALL = (InterruptedRunError, StorageError, MissingDependencyError)


@dataclass(frozen=True)
class Run:
    """A variant with a seed: what scores.json says of each model, or why there is nothing."""

    variant: str
    seed: int
    scores: Mapping[str, Any] = field(default_factory=dict)
    failed: str | None = None


@dataclass
class Grid:
    """All runs of a grid, the base variant first; `steps` sums up what was computed."""

    recipe: str
    out: Path
    seeds: Sequence[int]
    models: Sequence[str]
    variants: Sequence[Variant]
    steps: BuildResult
    runs: list[Run] = field(default_factory=list)

    @property
    def base(self) -> Variant:
        return self.variants[0]

    def of(self, variant: str) -> dict[int, Run]:
        """The runs of a variant by seed."""
        return {run.seed: run for run in self.runs if run.variant == variant}

    @property
    def failed(self) -> list[Run]:
        return [run for run in self.runs if run.failed is not None]


def run_grid(
    recipe: Recipe, file: RecipeFile, out: Path, *, world: World | None = None, engine: Engine | None = None
) -> Grid:
    """Run the grid of a recipe that is loaded (`f2llm.pipeline.build.load`) into `out`/grid.

    Seed after seed, so that the first comparison is there early. ConfigError before any work where a variant is wrong.
    """
    seeds, models = grid_of(recipe, file).seeds or [recipe.seed], compared_models(recipe)
    variants = load_variants(recipe, file)
    plans = [(variant, seed, _steps(variant, seed, models)) for seed in seeds for variant in variants]
    grid = Grid(recipe.name, out / GRID, seeds, models, variants, BuildResult(out / GRID))
    log(f"{len(variants)} variants x {len(seeds)} seeds: {len(plans)} runs")
    for number, (variant, seed, steps) in enumerate(plans, 1):
        log(f"[bold]run {number}/{len(plans)}: {variant.name}, seed {seed}[/bold]")
        grid.runs.append(_run(grid, variant, seed, steps, world, engine))
    return grid


def _steps(variant: Variant, seed: int, models: Sequence[str]) -> list[Step]:
    return variant_steps(variant.with_seed(seed), models)


def _run(
    grid: Grid, variant: Variant, seed: int, steps: Sequence[Step], world: World | None, engine: Engine | None
) -> Run:
    place = grid.out / variant.directory / f"seed-{seed}"
    others = [grid.out.parent, *(path for path in sorted(grid.out.glob("*/seed-*")) if path != place)]
    try:
        done = run_steps(steps, place, seed=seed, world=world, engine=engine, others=others)
    except _ENDS_ALL:
        raise
    except F2LLMError as error:
        warn(f"{variant.name}, seed {seed}, failed: {error}")
        return Run(variant.name, seed, failed=str(error))
    grid.steps.ran += done.ran
    grid.steps.skipped += done.skipped
    grid.steps.shared += done.shared
    grid.steps.seconds += done.seconds
    found = {model: read_json(place / scores_step(model) / "scores.json") for model in grid.models}
    return Run(variant.name, seed, found)
