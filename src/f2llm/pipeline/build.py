"""`build`: check a recipe completely, then bring all its steps up to date."""

from __future__ import annotations

from pathlib import Path

from f2llm.core.config import load_recipe
from f2llm.core.errors import F2LLMError
from f2llm.core.files import read_json, write_json
from f2llm.pipeline.plan import make_plan
from f2llm.pipeline.runner import BuildResult, run_steps

BUILD_ROOT = Path("build")
DEFAULT_MODEL = BUILD_ROOT / "default-model.json"


def build(
    recipe_path: Path | str,
    *,
    out: Path | str | None = None,
    overrides: list[str] | None = None,
    until: str | None = None,
) -> BuildResult:
    """Run the recipe at `recipe_path` into `out` (`build/NAME` unless given) and return what ran and what was skipped.

    `overrides` are `key=value` strings as of `--set`. The recipe's default model becomes the default of `f2llm search`
    and `f2llm embed` in this working directory. Raises ConfigError before any work when the recipe is wrong.
    """
    recipe, file = load_recipe(recipe_path, overrides)
    place = Path(out) if out is not None else BUILD_ROOT / recipe.name
    result = run_steps(make_plan(recipe, file), place, seed=recipe.seed, until=until)
    model = place / "export" / recipe.report.default_model / "model"
    if until is None:
        write_json(DEFAULT_MODEL, {"model": str(model.resolve())})
    return result


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
