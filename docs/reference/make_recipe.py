"""Writes docs/reference/recipe.md from the recipe's schema: python docs/reference/make_recipe.py"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from f2llm.core.config import (
    CleanConfig,
    ComparisonConfig,
    MineConfig,
    MixtureConfig,
    ModelConfig,
    PlanConfig,
    PruneConfig,
    Recipe,
    RegistryConfig,
    ReportConfig,
    SizeConfig,
    SourceConfig,
    StageConfig,
    StageOverride,
    TokenizerConfig,
    TrainingConfig,
)
from f2llm.core.grid import GridConfig
from f2llm.core.section import Section
from f2llm.data.convert import CONVERTERS

SECTIONS: dict[str, type[Section]] = {
    "(top level)": Recipe,
    "[tokenizer]": TokenizerConfig,
    "[[sources]]": SourceConfig,
    "[registry]": RegistryConfig,
    "[clean]": CleanConfig,
    "[mine]": MineConfig,
    "[training]": TrainingConfig,
    "[training.mixture]": MixtureConfig,
    "[training.stage1], [training.stage2]": StageConfig,
    "[sizes.NAME]": SizeConfig,
    "[prune]": PruneConfig,
    "[plan]": PlanConfig,
    "[[models]]": ModelConfig,
    "[models.stage1], [models.stage2]": StageOverride,
    "[report]": ReportConfig,
    "[[report.comparisons]]": ComparisonConfig,
    "[grid]": GridConfig,
}


def reference() -> str:
    """The whole page."""
    parts = [
        "# Recipe reference\n",
        "Made from the schema by `docs/reference/make_recipe.py`; paths in a recipe are relative to the recipe file.\n",
    ]
    for title, section in SECTIONS.items():
        parts.append(f"## {title}\n\n{doc(section)}\n\n| key | type | default |\n|---|---|---|")
        parts.append("\n".join(row(name, field) for name, field in section.model_fields.items()) + "\n")
    parts.append("## Converters and their options\n\nAn option without a default is required.\n")
    for name, converter in sorted(CONVERTERS.items()):
        parts.append(f"### `{name}` ({converter.task_type})\n\n{doc(converter.options)}\n")
        rows = [row(key, field) for key, field in converter.options.model_fields.items()]
        if rows:
            parts.append("| option | type | default |\n|---|---|---|\n" + "\n".join(rows) + "\n")
    return "\n".join(parts)


def doc(section: type[Any]) -> str:
    return " ".join((section.__doc__ or "").split())


def row(name: str, field: FieldInfo) -> str:
    return f"| `{name}` | {kind(field.annotation, field.metadata)} | {default_of(field)} |"


def default_of(field: FieldInfo) -> str:
    value = None if field.is_required() else field.get_default(call_default_factory=True)
    if field.is_required():
        return "required"
    if value is None:
        return ""
    return "its section's" if isinstance(value, Section) else f"`{json.dumps(value, ensure_ascii=False)}`"


def kind(annotation: Any, limits: Sequence[Any] = ()) -> str:
    """A type in words, with the limits that the schema sets."""
    inner = get_args(annotation)
    if get_origin(annotation) is Annotated:
        return kind(inner[0], inner[1].metadata if isinstance(inner[1], FieldInfo) else inner[1:])
    found = [f"{sign} {getattr(m, key):g}" for m in limits for key, sign in SIGNS.items() if hasattr(m, key)]
    if get_origin(annotation) is Literal:
        name = " or ".join(f"`{json.dumps(value)}`" for value in inner)
    elif annotation is list or get_origin(annotation) is list:
        name = f"list of {kind(inner[0])}"
    elif get_origin(annotation) is dict:
        name = f"table of {kind(inner[1])}"
    elif type(None) in inner:
        name = kind(next(part for part in inner if part is not type(None)))
    else:
        name = NAMES.get(annotation, getattr(annotation, "__name__", "any value"))
    return " ".join([name, *found])


NAMES = {str: "text", int: "integer", float: "number", bool: "true or false", Any: "any value"}
SIGNS = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤", "min_length": "at least"}

if __name__ == "__main__":
    Path(__file__).with_name("recipe.md").write_text(reference(), encoding="utf-8")
