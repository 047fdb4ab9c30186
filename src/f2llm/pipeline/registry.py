"""The paper's sources in a recipe: a `[registry]` section becomes one source for each line of `f2llm.data.sources`.

The released queries carry instructions that differ from row to row; they are taken off when the files are converted,
and each source gets one of ours, by the category of the paper and the format. The cap on rows is one of each file
where a source has several units, and else one of the source.
"""

from __future__ import annotations

from difflib import get_close_matches

from f2llm.core.config import Recipe, RecipeFile, RegistryConfig, SourceConfig
from f2llm.data.sources import UNKNOWN_LICENSE, Source, registry


def with_registry(recipe: Recipe, file: RecipeFile) -> Recipe:
    """The recipe with the sources of its `[registry]` after its own; as it is, where it has no such section.

    ConfigError for an unknown id in `exclude`, and for one that the recipe's own sources have too.
    """
    if recipe.registry is None:
        return recipe
    _check_excluded(recipe.registry, file)
    wanted = [source for source in registry() if source.id not in recipe.registry.exclude]
    added = [_config(source, recipe.registry) for source in wanted]
    added = [source for source in added if source not in recipe.sources]
    taken = {source.id for source in added}
    for index, source in enumerate(recipe.sources):
        if source.id in taken:
            problem = f"{source.id!r} is also a source of the registry; rename it, or add it to registry.exclude"
            raise file.fail(("sources", index, "id"), problem)
    return recipe.model_copy(update={"sources": [*recipe.sources, *added]})


def registered(recipe: Recipe) -> dict[str, Source]:
    """Those of the recipe's sources that come from the registry."""
    own = {source.id for source in recipe.sources}
    return {source.id: source for source in registry() if source.id in own} if recipe.registry else {}


def _check_excluded(config: RegistryConfig, file: RecipeFile) -> None:
    known = [source.id for source in registry()]
    for name in config.exclude:
        if name not in known:
            near = get_close_matches(name.lower(), known, n=3)
            hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"ids are like {', '.join(known[:5])}"
            raise file.fail(("registry", "exclude"), f"the registry has no source {name!r}; {hint}")


def _config(source: Source, config: RegistryConfig) -> SourceConfig:
    return SourceConfig(
        id=source.id,
        converter=source.converter,
        task_type=source.task_type,
        path=config.path,
        stages=[1, 2] if source.stage1 else [2],
        instruction=source.instruction,
        symmetric=source.symmetric,
        max_rows=config.max_rows,
        max_rows_per="file" if source.units > 1 else "source",
        language_alpha=config.language_alpha,
        evaluate=False,
        license=None if source.license == UNKNOWN_LICENSE else source.license,
        options=source.options,
    )
