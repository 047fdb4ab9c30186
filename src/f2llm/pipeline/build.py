"""`build`: check a recipe completely, then bring all its steps up to date. `train`, `dry_run`: parts of it.

`build_grid`: all variants of its [grid] instead, each with all seeds; the others leave the grid out.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from f2llm.core.config import Recipe, RecipeFile, load_recipe
from f2llm.core.errors import ConfigError, F2LLMError
from f2llm.core.files import read_json, write_json
from f2llm.core.log import silence
from f2llm.data.engine import Engine
from f2llm.pipeline.devices import Device
from f2llm.pipeline.estimate import Plan, estimate
from f2llm.pipeline.grid import Grid, run_grid
from f2llm.pipeline.grid_cost import grid_cost
from f2llm.pipeline.grid_table import write_grid
from f2llm.pipeline.plan import make_plan
from f2llm.pipeline.registry import with_registry
from f2llm.pipeline.runner import BuildResult, needed, run_steps
from f2llm.train.distributed import World, join_world, leave_world

BUILD_ROOT = Path("build")
DEFAULT_MODEL = BUILD_ROOT / "default-model.json"


def build(
    recipe_path: Path | str,
    *,
    out: Path | str | None = None,
    overrides: list[str] | None = None,
    until: str | None = None,
    engine: Engine | None = None,
) -> BuildResult:
    """Run the recipe at `recipe_path` into `out` (`build/NAME` unless given) and return what ran and what was skipped.

    `overrides` are `key=value` strings as of `--set`; `engine` runs the data steps (default: local processes).
    The recipe's default model becomes the default of `f2llm search` and `f2llm embed` in this working directory. Raises
    ConfigError before any work when the recipe is wrong.
    """
    with _processes() as world:
        recipe, file = load(recipe_path, overrides)
        plan, place = make_plan(recipe, file), place_of(recipe, out)
        result = run_steps(plan, place, seed=recipe.seed, until=until, world=world, engine=engine)
        model = place / "export" / recipe.report.default_model / "model"
        if until is None and world.is_main:
            write_json(DEFAULT_MODEL, {"model": str(model.resolve())})
    return result


def train(
    recipe_path: Path | str,
    *,
    out: Path | str | None = None,
    overrides: list[str] | None = None,
    models: list[str] | None = None,
) -> BuildResult:
    """Bring the training of all models of a recipe, or of some, up to date with what it needs: data, teachers, parents.

    Under `torchrun` all processes train together; what cannot be shared out is done by the main one.
    """
    with _processes() as world:
        recipe, file = load(recipe_path, overrides)
        plan, known = make_plan(recipe, file), [model.name for model in recipe.models]
        for name in models or []:
            if name not in known:
                raise ConfigError(f"{recipe_path}: there is no model {name!r}; models: {', '.join(known)}")
        wanted = tuple(f"train/{name}/" for name in models or known)
        steps = needed(plan, lambda step: step.name.startswith(wanted))
        return run_steps(steps, place_of(recipe, out), seed=recipe.seed, world=world)


def build_grid(
    recipe_path: Path | str,
    *,
    out: Path | str | None = None,
    overrides: list[str] | None = None,
    engine: Engine | None = None,
) -> Grid:
    """Run the variants of a recipe's `[grid]` with all its seeds, as far as their scores; writes OUT/grid/grid.*.

    A run that fails is among the result's, with the reason; ConfigError before any work when a variant is wrong.
    """
    with _processes() as world:
        recipe, file = load(recipe_path, overrides)
        grid = run_grid(recipe, file, place_of(recipe, out), world=world, engine=engine)
        if world.is_main:
            write_grid(grid)
    return grid


_DATA_GROUPS = {
    "convert": ("convert/", "evaluation-sets/"),
    "clean": ("clean",),
    "mine": ("mine/",),
    "tokenize": ("tokenize/", "card"),
}


def build_data(
    recipe_path: Path | str,
    group: str,
    *,
    out: Path | str | None = None,
    overrides: list[str] | None = None,
    engine: Engine | None = None,
) -> BuildResult:
    """Bring the data of a recipe up to date as far as a group of steps: "convert", "clean", "mine", "tokenize".

    After the last one the training set is whole and has its card.
    """
    recipe, file = load(recipe_path, overrides)
    plan = make_plan(recipe, file)
    steps = needed(plan, lambda step: step.name.startswith(_DATA_GROUPS[group]))
    return run_steps(steps, place_of(recipe, out), seed=recipe.seed, engine=engine)


def dry_run(
    recipe_path: Path | str,
    device: Device,
    *,
    out: Path | str | None = None,
    overrides: list[str] | None = None,
    grid: bool = True,
) -> Plan:
    """What `build` would do and cost on `device`; the recipe is checked, but its data and weights need not be there.

    With `grid`, a recipe's `[grid]` is checked and counted too.
    """
    recipe, file = load(recipe_path, overrides)
    place = place_of(recipe, out)
    plan = estimate(recipe, file, device, out=place)
    return replace(plan, grid=grid_cost(recipe, file, device, place)) if grid and recipe.grid else plan


def load(recipe_path: Path | str, overrides: list[str] | None = None) -> tuple[Recipe, RecipeFile]:
    """A recipe with the sources of its registry, not checked yet, and its file."""
    recipe, file = load_recipe(recipe_path, overrides)
    return with_registry(recipe, file), file


def place_of(recipe: Recipe, out: Path | str | None) -> Path:
    """Where the artifacts of a recipe go."""
    return Path(out) if out is not None else BUILD_ROOT / recipe.name


@contextmanager
def _processes() -> Iterator[World]:
    """This process and those that torchrun started beside it, of which one talks."""
    world = join_world()
    if not world.is_main:
        silence()
    try:
        yield world
    finally:
        leave_world(world)


def default_model() -> Path:
    """The model that the last build in this working directory made."""
    try:
        path = Path(read_json(DEFAULT_MODEL)["model"])
    except (F2LLMError, KeyError, TypeError):
        path = Path("-")
    if not path.exists():
        raise F2LLMError(
            "no model was named and none was built here; give --model DIR, or run: f2llm build recipes/mini.toml"
        )
    return path
