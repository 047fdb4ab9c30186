"""The variants of a recipe's grid, each a recipe of its own that is checked completely before anything runs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from f2llm.core.config import Recipe, RecipeFile, read_recipe
from f2llm.core.errors import ConfigError
from f2llm.core.grid import Change, GridConfig, changes, combinations
from f2llm.pipeline.checks import holds_out
from f2llm.pipeline.plan import make_plan
from f2llm.pipeline.registry import with_registry
from f2llm.pipeline.runner import Step, needed

BASE = "base"
_LONGEST = 100  # characters of a directory's name
_OWN = ("seed", "grid")  # keys that no variant may change


@dataclass(frozen=True)
class Variant:
    """A recipe with some keys changed, in the directory `grid/DIRECTORY` of the build."""

    name: str
    directory: str
    changes: Mapping[str, Any]
    recipe: Recipe
    file: RecipeFile

    def with_seed(self, seed: int) -> Variant:
        return replace(self, recipe=self.recipe.model_copy(update={"seed": seed}))


def grid_of(recipe: Recipe, file: RecipeFile) -> GridConfig:
    """The recipe's grid; ConfigError where it has none, or names a seed twice."""
    if recipe.grid is None:
        raise ConfigError(f"{file.path} has no [grid]; add one, or build the recipe as it is")
    seeds = recipe.grid.seeds or []
    twice = next((seed for seed in seeds if seeds.count(seed) > 1), None)
    if twice is not None:
        raise file.fail(("grid", "seeds"), f"{twice} is there twice; each run needs a seed of its own")
    return recipe.grid


def compared_models(recipe: Recipe) -> list[str]:
    """Whose scores the grid compares."""
    named = recipe.grid.models if recipe.grid else None
    return named or [model.name for model in recipe.models if model.role == "family"]


def load_variants(recipe: Recipe, file: RecipeFile) -> list[Variant]:
    """All variants with their types validated, the base first: a combination of the axes that equals it, or itself.

    `recipe` and `file` as of `f2llm.pipeline.build.load`. ConfigError names the line of the key that is wrong.
    """
    grid = grid_of(recipe, file)
    axes = list(changes(grid.vary, ("grid", "vary")))
    for axis in axes:
        _check_key(axis, file)
        if not isinstance(axis.value, list) or not axis.value:
            raise file.fail(axis.place, f"give the values that it takes as a list, but it is {axis.value!r}")
    combined = [_load(name, own, file) for name, own in combinations(axes).items()]
    named = [_named(name, table, file) for name, table in grid.variants.items()]
    base = next((variant for variant in combined if variant.recipe == recipe), None)
    found = [base or Variant(BASE, BASE, {}, recipe, file), *(own for own in combined if own is not base), *named]
    _check_directories(found, file)
    return found


def _named(name: str, table: Mapping[str, Any], file: RecipeFile) -> Variant:
    place = ("grid", "variants", name)
    own = list(changes(table, place))
    if not own:
        raise file.fail(place, "this variant changes nothing; give it a key, such as training.temperature = 0.1")
    for change in own:
        _check_key(change, file)
    return _load(name, own, file)


def _check_key(change: Change, file: RecipeFile) -> None:
    if change.key.partition(".")[0] in _OWN:
        raise file.fail(change.place, "no variant may change this; seeds are given as grid.seeds")


def _load(name: str, own: Sequence[Change], file: RecipeFile) -> Variant:
    varied = file.varied(own)
    recipe = with_registry(read_recipe(varied), varied)
    directory = re.sub(r"[^\w.=+-]+", "-", name).strip("-.")[:_LONGEST]
    return Variant(name, directory, {change.key: change.value for change in own}, recipe, varied)


def _check_directories(variants: Sequence[Variant], file: RecipeFile) -> None:
    """Each variant has a directory of its own, also on disks that do not tell upper case from lower case."""
    seen: dict[str, str] = {}
    for variant in variants:
        key = variant.directory.lower()
        if not key:
            raise file.fail(("grid", "variants", variant.name), "give this variant a name with letters or digits")
        if key in seen:
            both = f"the variants {seen[key]!r} and {variant.name!r} would share the directory {variant.directory}"
            raise file.fail(("grid", "variants", variant.name), f"{both}; rename one, or leave it out")
        seen[key] = variant.name


def variant_steps(variant: Variant, models: Sequence[str], data_there: bool = True) -> list[Step]:
    """The steps that the scores of `models` need; the variant is checked. See `check_recipe` for `data_there`."""
    try:
        plan = make_plan(variant.recipe, variant.file, data_there)
        _check_models(variant, plan, models)
    except ConfigError as error:
        raise ConfigError(f"{error} (variant {variant.name!r} of the grid)") from None
    return needed(plan, lambda step: step.name in {scores_step(model) for model in models})


def scores_step(model: str) -> str:
    """The step that scores a model."""
    return f"evaluate/{model}"


def _check_models(variant: Variant, plan: Sequence[Step], models: Sequence[str]) -> None:
    if not holds_out(variant.recipe):
        problem = "a grid compares scores, and no row is held out to evaluate on; raise this, or evaluate a source"
        raise variant.file.fail(("clean", "held_out_fraction"), problem)
    scored = [step.name.partition("/")[2] for step in plan if step.name.startswith(scores_step(""))]
    for model in models:
        if model not in scored:
            problem = f"{model!r} is no model that is evaluated; models: {', '.join(scored)}"
            raise variant.file.fail(("grid", "models"), problem)
